"""ORL (now AT&T) faces: 400 grey images of 92x112 pixels, ten of each of 40 people, F. S. Samaria and A. C. Harter,
"Parameterisation of a Stochastic Model for Human Face Identification", 1994.

    orl_faces.zip                    orl_faces/s<person>/<1 to 10>.pgm
    pairs_heldout_identities.csv     pairs of images of s31 to s40
"""

import re
from typing import ClassVar

from research.data.images.builders import faces


class OrlFaces(faces.ZippedFaces, skip_registration=True):
    """40 people for identification; 24 / 6 / 10 for verification.

    orl_faces/identification           160 / 40 / 200 images: 1 to 4, 5, and 6 to 10 of each person
    orl_faces/verification             240 / 60 / 100 images: s31 to s40 are test; of the others, every fifth person,
                                       from s1, is validation
    orl_faces/verification_fold<1-4>   the same with every fifth person from s2 to s5
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
