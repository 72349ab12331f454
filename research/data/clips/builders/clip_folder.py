"""A user's own folder of videos, `PATH/class/clip.mp4` or `PATH/{train,validation,test}/class/clip.mp4`.

Formats are those of FFmpeg; files that are left out are counted, see class_folders.py. FRAMES evenly spaced frames of
each video are stored.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from research.data.builders import class_folders, folder_files
from research.data.clips import files as video_files
from research.data.clips.builders.clips import Clip, ClipBuilder, Undecodable

FRAMES, SIDE = 32, 144  # px, of the shorter side


class ClipFolder(ClipBuilder, skip_registration=True):
    """The videos in a folder, prepared under a digest of its path and of its files' names, sizes and times."""

    VERSION = tfds.core.Version("1.1.0")  # 1.0.0 ignored rotation, pixel aspect ratio and timestamps

    def __init__(self, root: Path, splits: Mapping[str, Sequence[Path]], **kwargs):
        self._root, self._splits = root, splits
        super().__init__(**kwargs)

    @classmethod
    def of(cls, path: str, data_dir: Path) -> "ClipFolder":
        """The builder of the folder `path`. Raises ValueError if there are no videos in class folders."""
        root = Path(path).expanduser().resolve()
        found = class_folders.find(root, video_files.SUFFIXES, "videos", "class/clip.mp4")
        class_folders.check_classes(root, found, "videos")
        splits = found.splits
        config = tfds.core.BuilderConfig(name=folder_files.digest(root, splits), description=f"The videos in {root}.")
        builder = cls(root, splits, config=config, data_dir=data_dir, file_format="array_record")
        builder.summary, builder.left_out = found.summary, found.left_out
        return builder

    def _info(self):
        classes = {clip.parent.name for clips in self._splits.values() for clip in clips}
        return self.clip_info(FRAMES, (None, None, 3), sorted(classes))

    def _split_generators(self, dl_manager):
        return {
            split: self._generate_examples(split, read_videos(self._root, paths))
            for split, paths in self._splits.items()
        }


def read_videos(root: Path, paths: Sequence[Path]) -> Iterator[Clip | Undecodable]:
    """Reads the videos `root`/class/clip, each as FRAMES frames."""
    for path in paths:
        try:
            video = video_files.read(root / path, FRAMES, SIDE)
            yield Clip(str(path), video.frames, path.parent.name, video.warning)
        except ValueError as error:
            yield Undecodable(str(root / path), f"cannot be used ({error})")


def holds_videos(path: str) -> bool:
    """Whether the class folders in `path` hold videos that are not hidden."""
    root = Path(path).expanduser()
    files = (file.relative_to(root) for pattern in ("*/*", "*/*/*") for file in root.glob(pattern))
    shown = (file for file in files if not class_folders.is_hidden(file))
    return root.is_dir() and any(file.suffix.lower() in video_files.SUFFIXES for file in shown)
