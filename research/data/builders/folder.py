"""A user's own folder of pictures, `PATH/class/picture.jpg` or `PATH/{train,validation,test}/class/picture.jpg`.

`val` and `valid` are `validation`. Formats are those of Pillow; files that do not look like pictures are ignored.
"""

import hashlib
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from research.data import image_files
from research.data.builders.pictures import Picture, PictureBuilder

SPLIT_FOLDERS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}


class Folder(PictureBuilder, skip_registration=True):
    """The pictures below `root`, prepared under a digest of its path and of the names, sizes and times of its files.

    So a folder that changed is another data set, which is prepared when it is used next.
    """

    VERSION = tfds.core.Version("2.0.0")  # since images are read upright

    def __init__(self, root: Path, splits: Mapping[str, Sequence[Path]], **kwargs):
        self._root, self._splits = root, splits
        super().__init__(**kwargs)

    @classmethod
    def of(cls, path: str, data_dir: Path) -> "Folder":
        """The builder of the folder `path`. Raises ValueError where there are no pictures in class folders."""
        root = Path(path).expanduser().resolve()
        if not root.is_dir():
            raise ValueError(f"data set 'folder:{path}': {root} is not a folder")
        splits = find_pictures(root)
        config = tfds.core.BuilderConfig(name=digest(root, splits), description=f"The folder {root}.")
        return cls(root, splits, config=config, data_dir=data_dir, file_format="array_record")

    def _info(self):
        classes = {picture.parent.name for pictures in self._splits.values() for picture in pictures}
        return self.picture_info(__doc__, (None, None, 3), sorted(classes))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split, self._read(paths)) for split, paths in self._splits.items()}

    def _read(self, paths: Sequence[Path]) -> Iterator[Picture]:
        for path in paths:
            yield Picture(self._root, str(path), (self._root / path).read_bytes(), path.parent.name)


def digest(root: Path, splits: Mapping[str, Sequence[Path]], beside: Sequence[str] = ()) -> str:
    """16 hex digits over the path of a folder and the names, sizes and times of its pictures and of files `beside`."""
    result = hashlib.sha256(str(root).encode())
    others = {"beside": [name for name in beside if (root / name).is_file()]} if beside else {}
    for split, files in {**splits, **others}.items():
        for file in files:
            stat = (root / file).stat()
            result.update(f"{split} {file} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return result.hexdigest()[:16]


def find_pictures(root: Path) -> dict[str, list[Path]]:
    """Split -> the paths of its pictures below `root`, sorted. Raises ValueError for a split without any."""
    return find_files(root, image_files.suffixes(), "pictures", "class/picture.jpg")


def find_files(root: Path, suffixes: Container[str], what: str, expected: str) -> dict[str, list[Path]]:
    """Split -> the paths of its files with these suffixes in class folders below `root`, sorted.

    Raises ValueError, which calls them `what`, for a split without any.
    """
    below = lambda pattern: sorted(
        path.relative_to(root) for path in root.glob(pattern) if path.suffix.lower() in suffixes and path.is_file()
    )
    if below("train/*/*"):
        splits = {split: below(f"{folder}/*/*") for folder, split in SPLIT_FOLDERS.items() if (root / folder).is_dir()}
    else:
        splits = {"train": below("*/*")}
    empty = [split for split, files in splits.items() if not files]
    if empty:
        raise ValueError(f"{root} holds no {empty[0]} {what}; expected {expected} or train/{expected}")
    return splits
