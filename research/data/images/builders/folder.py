"""A user's own folder of images, `PATH/class/image.jpg` or `PATH/{train,validation,test}/class/image.jpg`.

Formats are those of images/files.py. Other files are left out and counted, see class_folders.py.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from research.data.builders import class_folders, folder_files
from research.data.builders.class_folders import FoundFiles
from research.data.images import files as image_files
from research.data.images.builders.labelled import EncodedImage, ImageBuilder


class Folder(ImageBuilder, skip_registration=True):
    """The images below `root`, prepared under a digest of its path and of the names, sizes and times of its files.

    A changed folder is therefore a new data set, which is prepared when it is next used.
    """

    VERSION = tfds.core.Version("2.0.0")  # 1.0.0 ignored the EXIF orientation and stored no path

    def __init__(self, root: Path, found: FoundFiles, **kwargs):
        self._root, self._splits = root, found.splits
        self.summary, self.left_out = found.summary, found.left_out
        super().__init__(**kwargs)

    @classmethod
    def of(cls, path: str, data_dir: Path) -> "Folder":
        """The builder of the folder `path`. Raises ValueError unless there are images of at least two classes."""
        root = Path(path).expanduser().resolve()
        found = find_images(root)
        class_folders.check_classes(root, found, "images")
        config = tfds.core.BuilderConfig(
            name=folder_files.digest(root, found.splits), description=f"The folder {root}."
        )
        return cls(root, found, config=config, data_dir=data_dir, file_format="array_record")

    def _info(self):
        classes = {image.parent.name for images in self._splits.values() for image in images}
        more = {"path": tfds.features.Text()}
        return self.image_info(__doc__, (None, None, 3), sorted(classes), more)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split, self._read(paths)) for split, paths in self._splits.items()}

    def _read(self, paths: Sequence[Path]) -> Iterator[EncodedImage]:
        for path in paths:
            yield EncodedImage(
                self._root, str(path), (self._root / path).read_bytes(), path.parent.name, {"path": str(path)}
            )


def find_images(root: Path, beside: Sequence[str] = ()) -> FoundFiles:
    """The images in class folders below `root`, see class_folders.find."""
    return class_folders.find(root, image_files.suffixes(), "images", "class/image.jpg", beside)
