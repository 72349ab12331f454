"""ORL (now AT&T) faces: 400 grey images of 92x112 pixels, ten of each of 40 people, F. S. Samaria and A. C. Harter,
"Parameterisation of a Stochastic Model for Human Face Identification", 1994.

    orl_faces.zip                    orl_faces/s<person>/<1 to 10>.pgm
    pairs_heldout_identities.csv     pairs of images of s31 to s40
"""

import re
from typing import ClassVar

from research.data.images.builders import faces


class OrlFaces(faces.ZippedFaces, skip_registration=True):
    """40, or 24 and 6 people for training and validation.

    orl_faces/identification           160 / 40 / 200: images 1 to 4, 5, and 6 to 10 of each person
    orl_faces/verification             240 / 60 / 100: of s1 to s30 every fifth is validation, from s1; s31 to s40: test
    orl_faces/verification_fold<1-4>   the same, from s2 to s5
    """

    archives = ("orl_faces.zip", "pairs_heldout_identities.csv")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "orl_faces.zip, which holds orl_faces/s<person>/<number>.pgm, and pairs_heldout_identities.csv"
    )
    shape = (112, 92, 1)
    people = tuple(f"s{number}" for number in range(1, 41))
    unseen = people[30:]
    member: ClassVar = re.compile(r"orl_faces/(?P<person>s\d+)/\d+\.pgm")

    def split(self, position):
        """See ZippedFaces."""
        return "train" if position < 4 else "validation" if position == 4 else "test"

    def order(self, member):
        """See ZippedFaces."""
        return (faces.number_of(member),)
