"""Opens data sets by name, and gives their prepared splits as random-access sources.

A name is one of `OWN`, a name of the TFDS catalogue (`mnist`, `glue/sst2`), or `folder:PATH`. All are TFDS data sets in
ArrayRecord files below `data_dir`.
"""

import contextlib
import hashlib
import importlib
import io
import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from research.data import groups, integrity, recorded, records, splits

# Data sets of this repository: not in the TFDS catalogue, or only with TensorFlow.
OWN = {
    "bccd_voc": ("research.data.images.builders.bccd_voc", "BccdVoc"),
    "boxed_shapes": ("research.data.images.builders.shapes", "BoxedShapes"),
    "camvid": ("research.data.images.builders.camvid", "Camvid"),
    "cifar10_jpeg": ("research.data.images.builders.cifar10_jpeg", "Cifar10Jpeg"),
    "cityscapes_fine": ("research.data.images.builders.mask_folder", "CityscapesFine"),
    "coco2017": ("research.data.images.builders.coco2017", "Coco2017"),
    "coloured_shapes": ("research.data.images.builders.shapes", "ColouredShapes"),
    "digits": ("research.data.images.builders.digits", "Digits"),
    "imagenet2012": ("research.data.images.builders.imagenet2012", "Imagenet2012"),
    # Clips.
    "fight_surv_video": ("research.data.clips.builders.fight_surv_video", "FightSurvVideo"),
    "moving_digits": ("research.data.clips.builders.moving_digits", "MovingDigits"),
    "ucf101_avi": ("research.data.clips.builders.ucf101_avi", "Ucf101Avi"),
    # People.
    "casia_webface": ("research.data.images.builders.casia_webface", "CasiaWebface"),
    "extended_yale_b": ("research.data.images.builders.extended_yale_b", "ExtendedYaleB"),
    "orl_faces": ("research.data.images.builders.orl_faces", "OrlFaces"),
    "random_patterns": ("research.data.images.builders.random_patterns", "RandomPatterns"),
    # Texts.
    "aeslc_jsonl": ("research.data.text.builders.aeslc_jsonl", "AeslcJsonl"),
    "babi": ("research.data.text.builders.babi", "Babi"),
    "cnn_dailymail": ("research.data.text.builders.cnn_dailymail", "CnnDailymail"),
    "multi30k": ("research.data.text.builders.multi30k", "Multi30k"),
    "qamr": ("research.data.text.builders.qamr", "Qamr"),
    "spelled_numbers": ("research.data.text.builders.spelled_numbers", "SpelledNumbers"),
    "sst2_sentences": ("research.data.text.builders.sst2_sentences", "Sst2Sentences"),
    "tatoeba_zh_en": ("research.data.text.builders.tatoeba_zh_en", "TatoebaZhEn"),
    "tweetqa": ("research.data.text.builders.tweetqa", "Tweetqa"),
    # Sounds.
    "dial_tones": ("research.data.sound.builders.dial_tones", "DialTones"),
    "fsdd": ("research.data.sound.builders.fsdd", "Fsdd"),
    "librispeech_flac": ("research.data.sound.builders.librispeech_flac", "LibrispeechFlac"),
}
FOLDER = "folder:"
SPLITS = splits.SPLITS
FINGERPRINT_EXAMPLES = 256
_DESCRIPTION = "dataset_info.json"  # of a prepared data set, written by TFDS
CATALOGUE_PARTS = (
    "question_answering", "ranking", "recommendation", "structured", "summarization", "text", "text_simplification",
    "time_series", "translate", "video", "vision_language",
)  # fmt: skip


def resolve_dir(data_dir: str = "") -> Path:
    """`data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser().absolute()


def open_builder(name: str, data_dir: str = "") -> Any:  # in the annotations of TFDS, features may be None
    """The TFDS builder of `name`, prepared or not. Raises ValueError if there is none, or if it cannot be used."""
    try:
        with _no_leftovers():
            builder = _open(name, data_dir)
    except Exception as error:
        # TFDS reads the description of a prepared data set in the constructor, with various errors if it is damaged.
        if type(error) is not ValueError or not (is_own(name) or name.startswith(FOLDER)):
            _check_descriptions(name, data_dir)
        raise
    if is_prepared(builder):
        integrity.verify(Path(builder.data_dir), prepare_command(name, builder))
    return builder


@contextlib.contextmanager
def _no_leftovers() -> Iterator[None]:
    """Keeps TFDS 4.9.10 from creating a temporary folder for each unprepared builder, which it never deletes.

    The folder is for a description from the TFDS bucket, which is not used here.
    """
    import tensorflow_datasets as tfds

    info_class = tfds.core.DatasetInfo
    before = info_class.initialize_from_bucket
    info_class.initialize_from_bucket = lambda self: None
    try:
        yield
    finally:
        info_class.initialize_from_bucket = before


def _open(name: str, data_dir: str):
    if name.startswith(FOLDER):
        _check_path(name.removeprefix(FOLDER))
        return _folder_kind(name.removeprefix(FOLDER)).of(name.removeprefix(FOLDER), resolve_dir(data_dir))
    return _open_own(name, data_dir) if is_own(name) else _open_catalogue(name, data_dir)


def _check_path(path: str) -> None:
    """Raises ValueError for a folder name that the file system rejects."""
    try:
        os.stat(Path(path).expanduser())
    except FileNotFoundError:
        pass  # the builder raises an error with the accepted layouts
    except (OSError, ValueError, RuntimeError) as error:  # too long; a NUL character; no such user
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"data set {FOLDER + path[:200]!r} cannot be opened: {reason}") from None
    if not path:
        raise ValueError(f"{FOLDER} has no path; write {FOLDER}PATH, or {FOLDER}. for the current folder")


def _check_descriptions(name: str, data_dir: str) -> None:
    """Raises ValueError if the TFDS description of a prepared data set is damaged."""
    folders = "*folder" if name.startswith(FOLDER) else re.split("[/:]", name)[0]
    if not re.fullmatch(r"\*?\w+", folders):  # a path, under which nothing can have been prepared
        return
    again = f"python -m research.data prepare {shlex.quote(name)}{_elsewhere(resolve_dir(data_dir))}"
    for path in sorted(resolve_dir(data_dir).glob(f"{folders}/**/{_DESCRIPTION}")):
        integrity.verify(path.parent, again)
        try:
            json.loads(path.read_bytes())
        except ValueError:
            raise integrity.damaged(path, "it is not JSON", again) from None


def _folder_kind(path: str):
    """The builder class for the folder `path`, chosen by the files in it."""
    from research.data.clips.builders import clip_folder
    from research.data.images.builders import box_folder, face_folder, folder, mask_folder
    from research.data.sound.builders import sound_folder
    from research.data.text.builders import text_folder

    for holds, kind in (
        (mask_folder.holds_masks, mask_folder.MaskFolder),
        (box_folder.holds_boxes, box_folder.BoxFolder),
        (sound_folder.holds_sounds, sound_folder.SoundFolder),
        (text_folder.holds_texts, text_folder.TextFolder),
        (clip_folder.holds_videos, clip_folder.ClipFolder),
        (face_folder.holds_people, face_folder.FaceFolder),
    ):
        if holds(path):
            return kind
    return folder.Folder


def is_own(name: str) -> bool:
    """Whether `name` is one of OWN, or one of its configurations, such as `fsdd/strings`."""
    return name.partition("/")[0] in OWN


def own_version(name: str) -> str | None:
    """The version of a data set of this repository; None for any other."""
    if not is_own(name):
        return None
    name, _, configuration = name.partition("/")
    module, builder_class = OWN[name]
    builder_class = getattr(importlib.import_module(module), builder_class)
    of_configuration = {config.name: config.version for config in builder_class.BUILDER_CONFIGS}
    return str(of_configuration.get(configuration) or builder_class.VERSION)


def _open_own(name: str, data_dir: str):
    name, _, configuration = name.partition("/")
    module, builder_class = OWN[name]
    builder_class = getattr(importlib.import_module(module), builder_class)
    known = [config.name for config in builder_class.BUILDER_CONFIGS]
    if configuration and configuration not in known:
        choice = (
            f"choose from {', '.join(f'{name}/{each}' for each in known)}"
            if known
            else f"{name!r} has no configurations; leave it out"
        )
        raise ValueError(f"unknown data set {f'{name}/{configuration}'!r}; {choice}")
    options = {"config": configuration} if configuration else {}
    return builder_class(data_dir=resolve_dir(data_dir), file_format="array_record", **options)


def _open_catalogue(name: str, data_dir: str):
    import tensorflow_datasets as tfds

    meant = f"; for a folder or file, write {FOLDER}{name}" if os.path.sep in name else ""
    unknown = ValueError(
        f"unknown data set {name!r}; choose from {', '.join(OWN)}, {FOLDER}PATH, or a name of the TFDS catalogue "
        f"(tensorflow.org/datasets/catalog){meant}"
    )
    if not re.fullmatch(r"\w+(/[\w.-]+)?(:[\w.*]+)?", name):
        raise unknown
    build = lambda: tfds.builder(name, data_dir=resolve_dir(data_dir), file_format="array_record")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # discards TFDS's reports that TensorFlow is missing
            try:
                return build()
            except tfds.core.DatasetNotFoundError:
                _import_catalogue()
                return build()
    except tfds.core.DatasetNotFoundError:
        raise unknown from None
    except (ImportError, ValueError) as error:  # it needs TensorFlow; it was prepared in another file format
        raise ValueError(
            f"data set {name!r} of the TFDS catalogue cannot be used here: {' '.join(str(error).split())}"
        ) from error


def _import_catalogue() -> None:
    """Imports parts of the catalogue that TFDS 4.9.10 does not, because an earlier part fails without h5py."""
    for part in CATALOGUE_PARTS:
        with contextlib.suppress(ImportError):
            importlib.import_module(f"tensorflow_datasets.{part}")


def is_prepared(builder: Any) -> bool:
    """Whether the data set of the builder is prepared (TFDS renames its folder when it is complete)."""
    return (Path(builder.data_dir) / _DESCRIPTION).is_file()


class Prepared:
    """A prepared data set: random-access `source`s, their `counts`, and a `fingerprint` of the content.

    Every data set has three splits. If it has no test split, its validation split becomes the test split. Each missing
    split is held out from the end of train, with `validation_fraction` of its examples: TFDS stores examples in the
    order of hashed keys, so the end is a fixed pseudorandom choice. Splits in `without` count as missing.

    With a `group` (a rule, see groups.py), whole groups are held out, and no group may be in two splits; raises
    ValueError if the examples lack its field. With fit_on="train+validation" the training examples are those of both
    splits, and validation is unchanged. With `half`, only that half of them is used, see splits.half.
    """

    def __init__(
        self,
        builder: Any,
        name: str,
        validation_fraction: float,
        fit_on: str = "train",
        without: Sequence[str] = (),
        group: str = "",
        half: int = 0,
    ):
        self.builder = builder
        self.name = name
        self.version = str(builder.version)
        self._validation_fraction, self.fit_on = validation_fraction, fit_on
        self._without, self.group, self._half = without, group, half
        if group:
            splits.check_field(builder.info.features, group, name)

    @property
    def can_be_prepared(self) -> bool:
        """Whether this is a data set, and not metadata recorded in a run directory."""
        return not isinstance(self.builder, recorded.Recorded)

    def reopen(self) -> None:
        """Opens the builder again, after the data set has been prepared."""
        self.builder = open_builder(self.name, str(self.builder.data_dir_root))

    @cached_property
    def _stored(self) -> splits.Grouped:
        """The parts of the splits, regardless of `fit_on`, and the number of groups in each; 0 without groups."""
        if not is_prepared(self.builder):
            raise ValueError(f"{self.name!r} is not prepared; run: {prepare_command(self.name, self.builder)}")
        infos = self.builder.info.splits.items()
        available = {name: split.num_examples for name, split in infos if name not in self._without}
        stored = splits.expressions(available, self._validation_fraction)
        if not self.group:
            parts = {split: splits.Part(expression) for split, expression in stored.items()}
            return splits.Grouped(parts, dict.fromkeys(stored, 0))
        stored_in = lambda expression: records.Records(self.builder, expression, self.prepare_command)
        column = lambda expression: stored_in(expression).column(groups.field_of(self.group))
        return splits.grouped(stored, available["train"], self._validation_fraction, self.group, column, self.name)

    @cached_property
    def _parts(self) -> dict[str, splits.Part]:
        """Split -> its examples."""
        parts = self._stored.parts
        lengths = {part.expression: self._length(part.expression) for part in parts.values()}
        train, *more = (parts[split] for split in self.fit_on.split("+"))
        for other in more:
            train = splits.joined(train, other, lengths)
        if self._half:
            train = splits.halved(train, self._half, self._length(train.expression))
        return parts | {"train": train}

    @property
    def groups(self) -> dict[str, int]:
        """The number of groups by split, regardless of `fit_on`; 0 without a `group`."""
        return self._stored.counts

    def _length(self, expression: str) -> int:
        return self.builder.info.splits[expression].num_examples

    @cached_property
    def counts(self) -> dict[str, int]:
        """The number of examples in train, validation and test."""
        counts = {
            name: self._length(part.expression) if part.rows is None else len(part.rows)
            for name, part in self._parts.items()
        }
        if empty := [name for name, count in counts.items() if not count]:
            raise ValueError(f"the {empty[0]} split of {self.name!r} is empty; prepare it with at least one example")
        infos = self.builder.info.splits
        for path in (path for part in self._parts.values() for path in infos[part.expression].filepaths):
            if not os.path.exists(path):
                raise integrity.damaged(Path(path), "it is missing", self.prepare_command)
        return counts

    @property
    def folder(self) -> Path:
        """The folder of the prepared files."""
        return Path(self.builder.data_dir)

    @property
    def prepare_command(self) -> str:
        """See `prepare_command`."""
        return prepare_command(self.name, self.builder)

    def source(self, split: str) -> records.Records:
        """The examples of a split in their stored order."""
        part = self._parts[split]
        return records.Records(self.builder, part.expression, self.prepare_command, part.rows)

    def size_bytes(self, split: str) -> int:
        """The size of the files that hold a split."""
        paths = self.builder.info.splits[self._parts[split].expression].filepaths
        return sum(os.path.getsize(path) for path in paths)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of a hash of name, version, the expression and length of each split, and 256 of its examples.

        The examples are evenly spaced (all of them, if there are fewer). A data set prepared again from the same
        archives has the same fingerprint; a change of other examples is not detected.
        """
        digest = hashlib.sha256(f"{self.builder.name} {self.version}".encode())
        for split, part in self._parts.items():
            source = self.source(split)
            digest.update(f"{split} {part.described} {len(source)}".encode())
            count = min(FINGERPRINT_EXAMPLES, len(source))
            for position in range(count):
                digest.update(source.canonical(position * len(source) // count))
        return digest.hexdigest()[:16]


def needs_archives(name: str, builder: Any) -> bool:
    """Whether a data set of this repository is made from archives that the user must download.

    The instructions of a catalogue data set may concern another of its configs only (`wmt14_translate`), so TFDS
    decides.
    """
    return is_own(name) and bool(builder.MANUAL_DOWNLOAD_INSTRUCTIONS)


def prepare_command(name: str, builder: Any) -> str:
    """The command that prepares a data set."""
    manual = " --manual_dir=DIR" if needs_archives(name, builder) else ""
    return f"python -m research.data prepare {shlex.quote(name)}{manual}{_elsewhere(builder.data_dir_root)}"


def _elsewhere(data_dir: str | os.PathLike) -> str:
    return "" if str(data_dir) == str(resolve_dir()) else f" --data_dir={shlex.quote(str(data_dir))}"
