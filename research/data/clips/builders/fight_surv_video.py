"""Surveillance Camera Fight Dataset: 300 clips of 16 frames of 96x96 pixels, half of them fights. S. Akti, G. A.
Tataroglu and H. K. Ekenel, "Vision-based Fight Detection from Surveillance Cameras", 2019, MIT licence.

    frames_16x96x96.zip     <class>/<clip>/00.jpg to 15.jpg, evenly spaced over the clip
    clips.csv               clip,class,label,split,source_group,frames_in_original
"""

import collections
import csv
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from research.data.builders import text_files
from research.data.builders.archives import damage_named
from research.data.clips.builders.clips import Clip, ClipBuilder

CLASSES = ("noFight", "fight")
FRAMES, SIDE = 16, 96
FOLDS = 5
SPLITS = {"train": "train", "val": "validation", "test": "test"}
# The clips without a source video show the two corridors of src42, by the same cameras.
SAME_SCENE = {"unlisted": {"source_group": "src42", "split": "train"}, "src42": {"split": "train"}}
COLUMNS = ("clip", "class", "split", "source_group")


class FightSurvVideo(ClipBuilder, skip_registration=True):
    """Fights and other clips; clips of one source video or scene are always in the same split.

    fight_surv_video/fixed       211 / 31 / 58, the splits of clips.csv, except for SAME_SCENE
    fight_surv_video/fold<0-4>   5-fold cross-validation: a fifth of the clips is test, a tenth validation
    """

    BUILDER_CONFIGS = [  # noqa: RUF012  TFDS reads it from the class.
        tfds.core.BuilderConfig(name=name) for name in ("fixed", *(f"fold{fold}" for fold in range(FOLDS)))
    ]
    VERSION = tfds.core.Version("2.0.0")  # 1.0.0 had clips of one scene in two splits
    archives = ("frames_16x96x96.zip", "clips.csv")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "frames_16x96x96.zip, which holds <class>/<clip>/00.jpg to 15.jpg, and clips.csv"

    def _info(self):
        return self.clip_info(FRAMES, (SIDE, SIDE, 3), CLASSES)

    def _split_generators(self, dl_manager):
        archive, table = (Path(dl_manager.manual_dir) / name for name in self.archives)
        rows = read_table(table)
        name = self.builder_config.name
        if name == "fixed":
            split_of = lambda row: SPLITS[row["split"]]
        else:
            parts, fold = deal(rows, 2 * FOLDS), int(name.removeprefix("fold"))
            names = {2 * fold: "test", 2 * fold + 1: "test", (2 * fold + 2) % (2 * FOLDS): "validation"}
            split_of = lambda row: names.get(parts[row["source_group"]], "train")
        splits = {split: [row for row in rows if split_of(row) == split] for split in SPLITS.values()}
        return {split: self._generate_examples(split, _read(archive, part)) for split, part in splits.items()}


def read_table(file: Path) -> list[dict[str, str]]:
    """The rows of clips.csv. Raises ValueError, with the line number, for a missing column or an unknown value."""
    try:
        rows = list(csv.DictReader(text_files.text(file).splitlines()))
    except csv.Error as error:
        raise ValueError(f"{file} cannot be read ({error})") from None
    for line, row in enumerate(rows, start=2):
        if missing := [column for column in COLUMNS if not row.get(column)]:
            raise ValueError(f"{file}, line {line} has no {missing[0]}")
        for column, known in (("class", CLASSES), ("split", SPLITS)):
            if row[column] not in known:
                raise ValueError(f"{file}, line {line}: {column} {row[column]!r} is not one of {', '.join(known)}")
    if not rows:
        raise ValueError(f"{file} holds no clips")
    return [row | SAME_SCENE.get(row["source_group"], {}) for row in rows]


def deal(rows: Sequence[Mapping[str, str]], parts: int) -> dict[str, int]:
    """Assigns source groups to parts, the largest first, each to the part with the fewest clips of its classes."""
    groups = collections.defaultdict(collections.Counter)
    for row in rows:
        groups[row["source_group"]][row["class"]] += 1
    held = [collections.Counter() for _ in range(parts)]
    dealt = {}
    for group in sorted(groups, key=lambda name: (-groups[name].total(), name)):
        counts = groups[group]
        loads = [sum(part[name] * count for name, count in counts.items()) for part in held]
        chosen = min(range(parts), key=list(zip(loads, map(collections.Counter.total, held), strict=True)).__getitem__)
        held[chosen] += counts
        dealt[group] = chosen
    return dealt


def _read(archive: Path, rows: Sequence[Mapping[str, str]]) -> Iterator[Clip]:
    """Raises ValueError for a clip that is in the table but not in the archive."""
    with damage_named(archive), zipfile.ZipFile(archive) as members:
        frames = collections.defaultdict(list)
        for name in sorted(members.namelist()):
            if name.endswith(".jpg"):
                frames[name.rpartition("/")[0]].append(name)
        for row in rows:
            if row["clip"] not in frames:
                raise ValueError(f"{archive} holds no frames of {row['clip']!r}, which clips.csv lists; fetch it again")
            yield Clip(row["clip"], [members.read(name) for name in frames[row["clip"]]], row["class"])
