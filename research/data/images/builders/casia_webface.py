"""CASIA-WebFace (D. Yi et al., "Learning Face Representation from Scratch", 2014) to train on, and LFW (G. B. Huang et
al., "Labeled Faces in the Wild", 2007) with the pairs of its View 2 to test; both aligned and cropped alike.

    CASIA-WebFace/<person>/<image>.jpg     10,575 people
    lfw/<name>/<name>_000n.jpg
    pairs.txt                                of LFW
"""

from collections.abc import Iterator
from pathlib import Path

from research.data.builders import text_files
from research.data.images import pairs as pairs_lib
from research.data.images.builders import faces
from research.data.images.builders.labelled import EncodedImage

TRAIN, TEST, PAIRS = "CASIA-WebFace", "lfw", "pairs.txt"
PEOPLE = 10_575
EVERY = 10  # of every tenth person, images are held out


class CasiaWebface(faces.FaceBuilder, skip_registration=True):
    """Train, validation (the last two images of every tenth person) and test, which is LFW.

    All images of LFW have the same label, since only its pairs are used for scores.
    """

    archives = (PAIRS,)
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"the folders {TRAIN}/<person> and {TEST}/<name>, and {PAIRS} of LFW"

    def _info(self):
        return self.face_info((None, None, 3), [f"person{number:05}" for number in range(PEOPLE)], [TEST])

    def _split_generators(self, dl_manager):
        root = Path(dl_manager.manual_dir)
        people = sorted(folder for folder in (root / TRAIN).glob("*") if folder.is_dir())
        if len(people) != PEOPLE:
            raise ValueError(f"{root / TRAIN} holds the folders of {len(people):,} people; {PEOPLE:,} are expected")
        parts = {"train": [], "validation": []}
        for number, person in enumerate(people):
            images, name = _images(person), f"person{number:05}"
            kept = len(images) - (2 if number % EVERY == 0 else 0)
            parts["train"] += [(path, name) for path in images[:kept]]
            parts["validation"] += [(path, name) for path in images[kept:]]
        unseen = [(path, TEST) for person in sorted((root / TEST).glob("*")) for path in _images(person)]
        pairs = pairs_lib.read_view2(text_files.text(root / PAIRS), str(root / PAIRS))
        pairs_lib.check(pairs, {_name(path) for path, _ in unseen}, str(root / PAIRS))
        self.keep_pairs("test", pairs)
        parts["test"] = unseen
        return {split: self._generate_examples(split, _read(root, part)) for split, part in parts.items()}


def _images(person: Path) -> list[Path]:
    return sorted(person.glob("*.jpg"))


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _read(root: Path, part: list[tuple[Path, str]]) -> Iterator[EncodedImage]:
    for path, label in part:
        yield EncodedImage(root, str(path.relative_to(root)), path.read_bytes(), label, {"path": _name(path)})
