"""A user's own images of people, with pairs or with labels that group the scores.

    PATH/person/image.jpg      or PATH/{train,validation,test}/person/image.jpg
    PATH/pairs.csv               path1,path2,same[,fold], or pairs.txt as that of LFW; see images/pairs.py
    PATH/labels.csv              a header `image,COLUMN,...` or `person,COLUMN,...`, then a line for each

Images are named by their path below PATH, or below PATH/test. Without folders of splits, all people in pairs are test.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from research.data.builders import folder_files, text_files
from research.data.builders.class_folders import SPLIT_NAMES
from research.data.images import pairs as pairs_lib
from research.data.images.builders import folder
from research.data.images.builders.faces import FaceBuilder
from research.data.images.builders.labelled import EncodedImage

PAIR_FILES = {"pairs.csv": pairs_lib.read_csv, "pairs.txt": pairs_lib.read_view2}
LABELS = "labels.csv"


class FaceFolder(FaceBuilder, skip_registration=True):
    """The images in a folder, prepared under a digest of its path and of its files' names, sizes and times."""

    VERSION = tfds.core.Version("2.0.0")  # 1.0.0 ignored the EXIF orientation
    left_out: Mapping[str, Sequence[Path]]  # reason -> files, which the summary of `prepare` counts

    def __init__(self, root: Path, splits: Mapping[str, Sequence[Path]], pairs, labels, **kwargs):
        self._root, self._splits, self._pairs, self._labels = root, splits, pairs, labels
        super().__init__(**kwargs)

    @classmethod
    def of(cls, path: str, data_dir: Path) -> "FaceFolder":
        """The builder of the folder `path`.

        Raises ValueError for a pair or a label of a missing image, and if no people are left for training.
        """
        root = Path(path).expanduser().resolve()
        found = folder.find_images(root, beside=(*PAIR_FILES, LABELS))
        splits = found.splits
        names = {name_of(image): image for images in splits.values() for image in images}
        pairs = _read_pairs(root, names)
        if pairs:
            splits = _set_apart(root, splits, {names[name].parent.name for pair in pairs for name in pair[:2]})
        people = sorted({path.parent.name for path in splits["train"]})
        if len(people) < 2:
            raise ValueError(
                f"{root} has one person to train on, {people[0]!r}; at least two are needed, each with all of their "
                "images in one folder, PATH/person/image.jpg or PATH/train/person/image.jpg"
            )
        labels = _read_labels(root / LABELS, names)
        digest = folder_files.digest(root, splits, [*PAIR_FILES, LABELS])
        config = tfds.core.BuilderConfig(name=digest, description=f"The people in {root}.")
        builder = cls(root, splits, pairs, labels, config=config, data_dir=data_dir, file_format="array_record")
        builder.left_out = found.left_out
        return builder

    def _info(self):
        people = lambda splits: {path.parent.name for split in splits for path in self._splits.get(split, ())}
        known = people(["train"])
        columns = sorted({column for values in self._labels.values() for column in values})
        return self.face_info((None, None, 3), sorted(known), sorted(people(self._splits) - known), columns)

    def _split_generators(self, dl_manager):
        if self._pairs:
            self.keep_pairs("test", self._pairs)
        return {split: self._generate_examples(split, self._read(paths)) for split, paths in self._splits.items()}

    def summary(self) -> str:
        """The number of people and pairs."""
        known = {path.parent.name for path in self._splits["train"]}
        others = {path.parent.name for paths in self._splits.values() for path in paths} - known
        people = f"{len(known)} people to train on, {len(others)} others"
        return people + (f", {len(self._pairs)} pairs" if self._pairs else "")

    def _read(self, paths: Sequence[Path]) -> Iterator[EncodedImage]:
        blank = dict.fromkeys((key for key in self.info.features if key not in ("image", "label", "path")), "")
        for path in paths:
            name = name_of(path)
            values = self._labels.get(name) or self._labels.get(path.parent.name, {})
            more = {"path": name, **blank, **values}
            yield EncodedImage(self._root, str(path), (self._root / path).read_bytes(), path.parent.name, more)


def holds_people(path: str) -> bool:
    """Whether the folder `path` holds a file of pairs or labels."""
    root = Path(path).expanduser()
    return any((root / name).is_file() for name in (*PAIR_FILES, LABELS))


def name_of(image: Path) -> str:
    """The name of an image in pairs and labels: `person/image.jpg`, without the split."""
    return "/".join(image.parts[-2:])


def _read_pairs(root: Path, names: Mapping[str, Path]) -> list[pairs_lib.ImagePair]:
    files = [root / name for name in PAIR_FILES if (root / name).is_file()]
    if len(files) > 1:
        raise ValueError(f"{root} holds {files[0].name} and {files[1].name}; keep one")
    if not files:
        return []
    pairs = PAIR_FILES[files[0].name](text_files.text(files[0]), str(files[0]))
    plain = lambda name: _plain(name, names)
    pairs = [pair._replace(first=plain(pair.first), second=plain(pair.second)) for pair in pairs]
    pairs_lib.check(pairs, names, str(files[0]))
    for number, pair in enumerate(pairs, start=1):
        people = [names[name].parent.name for name in pair[:2]]
        if pair.same != (people[0] == people[1]):
            label = "the same person" if pair.same else "different people"
            raise ValueError(
                f"{files[0]}, pair {number}: {pair.first!r} and {pair.second!r} are labelled as {label}, "
                "which their folders contradict; correct the entry or move the image"
            )
    return pairs


def _plain(name: str, names: Collection[str]) -> str:
    """The name of an image as in `names`: without the folder of its split, with forward slashes."""
    if name not in names:
        name = name.replace("\\", "/").removeprefix("./")
    parts = name.split("/")
    return "/".join(parts[1:]) if len(parts) == 3 and parts[0].lower() in SPLIT_NAMES else name


def _set_apart(root: Path, splits: Mapping[str, Sequence[Path]], people: set[str]) -> dict[str, Sequence[Path]]:
    """The splits, with the `people` of pairs in test only."""
    if "test" in splits:
        for split, images in splits.items():
            both = people & {path.parent.name for path in images}
            if split != "test" and both:
                raise ValueError(
                    f"{root}: {min(both)!r} is in a pair and in {split}; pairs must be of people who are in test only"
                )
        return dict(splits)
    train = [path for path in splits["train"] if path.parent.name not in people]
    if not train:
        raise ValueError(
            f"{root} has no people to train on, since all are in pairs; move these people into {root / 'test'} and "
            f"put others into {root / 'train'}"
        )
    return {**splits, "train": train, "test": [path for path in splits["train"] if path.parent.name in people]}


def _read_labels(file: Path, names: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """Image or person -> column -> label."""
    if not file.is_file():
        return {}
    (_, header), *rows = pairs_lib.csv_rows(text_files.text(file), str(file)) or [(1, [""])]
    header = [name.strip() for name in header]
    reserved = {"", "image", "label", "path"} & set(header[1:])
    if header[0] not in ("image", "person") or len(header) < 2 or reserved or len(set(header)) < len(header):
        given = ",".join(header)[:200]
        raise ValueError(f"{file}, line 1 must be `image,COLUMN,...` or `person,COLUMN,...`, not {given!r}")
    known = names if header[0] == "image" else {image.parent.name for image in names.values()}
    labels = {}
    for line, row in rows:
        if len(row) != len(header):
            raise ValueError(f"{file}, line {line} has {len(row)} columns, the header {len(header)}")
        key = _plain(row[0].strip(), names) if header[0] == "image" else row[0].strip()
        if key not in known:
            raise ValueError(
                f"{file}, line {line}: there is no {header[0]} {key[:200]!r}; correct the entry or add the file"
            )
        if key in labels:
            raise ValueError(f"{file}, line {line}: {key!r} has labels already; keep one line for it")
        labels[key] = dict(zip(header[1:], map(str.strip, row[1:]), strict=True))
    return labels
