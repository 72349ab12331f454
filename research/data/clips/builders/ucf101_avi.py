"""UCF101: 13,320 videos of 101 actions. K. Soomro, A. R. Zamir and M. Shah, "UCF101: A Dataset of 101 Human Actions
Classes From Videos in The Wild", 2012. As its two archives unpack:

    UCF-101/<class>/v_<class>_g<01-25>_c<01-..>.avi      clips of one source video share their group g
    ucfTrainTestlist/trainlist<01-03>.txt, testlist<01-03>.txt
"""

import re
from pathlib import Path

import tensorflow_datasets as tfds

from research.data.builders import text_files
from research.data.clips.builders.clip_folder import FRAMES, read_videos
from research.data.clips.builders.clips import ClipBuilder

VIDEOS, LISTS = "UCF-101", "ucfTrainTestlist"
HELD_OUT = 2  # groups of each training list, for validation
# From the TFDS catalogue, whose own builder needs TensorFlow and the program ffmpeg.
CLASSES = tuple((Path(tfds.__file__).parent / "video/ucf101_labels.txt").read_text("utf-8").split())


class Ucf101Avi(ClipBuilder, skip_registration=True):
    """UCF101 by one of its three official pairs of lists: ucf101_avi/split1 to split3.

    Validation is the two last groups of each training list, since clips of one group show the same scene.
    """

    VERSION = tfds.core.Version("1.1.0")  # 1.0.0 chose frames by index, not by time
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=f"split{number}") for number in (1, 2, 3)]  # noqa: RUF012
    archives = tuple(f"{LISTS}/{part}list0{number}.txt" for part in ("train", "test") for number in (1, 2, 3))
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"the folders {VIDEOS}/<class> and {LISTS}, as the archives of UCF101 unpack"

    def _info(self):
        return self.clip_info(FRAMES, (None, None, 3), CLASSES)

    def _split_generators(self, dl_manager):
        root, number = Path(dl_manager.manual_dir), self.builder_config.name.removeprefix("split")
        train, test = (read_list(root / LISTS / f"{part}list0{number}.txt") for part in ("train", "test"))
        held_out = sorted({group(path) for path in train})[-HELD_OUT:]
        splits = {
            "train": [path for path in train if group(path) not in held_out],
            "validation": [path for path in train if group(path) in held_out],
            "test": test,
        }
        return {
            split: self._generate_examples(split, read_videos(root / VIDEOS, paths)) for split, paths in splits.items()
        }


def read_list(file: Path) -> list[Path]:
    """The path `class/clip.avi` in each line. Raises ValueError, with the line number, for anything else."""
    paths = []
    for line, text in enumerate(text_files.text(file).splitlines(), start=1):
        if text.strip():
            path = Path(text.split()[0])
            if path.parent.name not in CLASSES or not _GROUP.search(path.name):
                raise ValueError(f"{file}, line {line}: {text!r} is not <class>/v_<class>_g<number>_c<number>.avi")
            paths.append(path)
    return paths


_GROUP = re.compile(r"_g(\d+)_c\d+\.avi$")


def group(path: Path) -> int:
    """The number of the source video of a clip, from its name."""
    found = _GROUP.search(path.name)
    assert found is not None, path
    return int(found[1])
