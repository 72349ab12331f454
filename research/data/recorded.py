"""What a run keeps of its data set, so that prediction needs nothing but the run directory.

A run directory holds `data.json` (classes, the features of an example, sizes) under a checksum and, of texts and
transcripts, `vocabulary.model`. `load(config.data, recorded)` of every kind of data takes them in place of the data
set, which may have moved, changed or gone.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from research import files
from research.measure import progress

FILE, VOCABULARY = "data.json", "vocabulary.model"


class Recorded:
    """A data set as a run has recorded it. It stands in for the builder of the data set, and holds no examples.

    vocabulary   the sentencepiece model of the run; "" where the data have none
    targets      the token ids of the different targets of texts; None where they are too many to be classes
    folder       what keeps the files of the run at hand
    """

    data_dir = data_dir_root = "/nonexistent"  # so that nothing takes it for prepared
    MANUAL_DOWNLOAD_INSTRUCTIONS = None
    folder: Any = None

    def __init__(self, content: Mapping[str, Any], vocabulary: str = ""):
        import tensorflow_datasets as tfds  # here, since it is slow to import

        features: Any = tfds.features.FeaturesDict.from_json(content["features"])
        for key, names in content["labels"].items():
            features[key].names = names
        self.info = SimpleNamespace(features=features, metadata=content["metadata"], splits={})
        self.name, self.version, self.vocabulary = content["name"], content["version"], vocabulary
        self.class_names, self.colours = tuple(content["class_names"]), tuple(content["colours"])
        self.shape = tuple(content["shape"])
        targets = content.get("targets")
        self.targets = None if targets is None else [tuple(ids) for ids in targets]


def describe(builder: Any) -> dict[str, Any]:
    """What `Recorded` is made of, of the builder of a data set, as JSON has it."""
    features, metadata = builder.info.features, builder.info.metadata or {}
    shape = getattr(builder, "shape", ())
    if "largest" in metadata:  # the sizes of images that a data set does not declare are those of its largest
        shape = (*metadata["largest"], *shape[-1:])
    return {
        "name": builder.name,
        "version": str(builder.version),
        "features": features.to_json(),
        "labels": {key: feature.names for key, feature in features.items() if getattr(feature, "names", None)},
        "class_names": list(getattr(builder, "class_names", ())),
        "colours": list(getattr(builder, "colours", ())),
        "shape": list(shape),
        "metadata": {key: metadata[key] for key in ("known",) if key in metadata},
    }


def write(folder: Path, description: Mapping[str, Any], vocabulary: bytes | None = None) -> None:
    """Writes what `read` reads, each file whole or not at all; nothing where it is there and says the same."""
    digest = {} if vocabulary is None else {"vocabulary": _digest(vocabulary)}
    content = files.sealed(json.loads(json.dumps({**description, **digest})))
    if _read(folder) == content:
        return
    if vocabulary is not None:
        files.write_atomically(folder / VOCABULARY, vocabulary)
    files.write_atomically(folder / FILE, json.dumps(content, indent=1) + "\n")


def read(folder: Path) -> Recorded | None:
    """The data set of the run in `folder`; None, with a warning where there is a reason, if that is not known there."""
    content = _read(folder, progress.say)
    if content is None:
        return None
    return Recorded(content, str(folder / VOCABULARY) if "vocabulary" in content else "")


def _read(folder: Path, warn: Any = lambda line: None) -> dict[str, Any] | None:
    """The content of `data.json`, where it and the vocabulary are there and as they were written."""
    path = folder / FILE
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):  # of a run before there was such a file, or of imported weights
        return None
    except (ValueError, RecursionError):  # no JSON, no UTF-8
        content = None
    if not isinstance(content, dict) or "checksum" not in content or not files.is_intact(content):
        warn(f"{path} is damaged; the data set itself stands in for it")
        return None
    if "vocabulary" in content:
        path = folder / VOCABULARY
        if not path.is_file() or _digest(path.read_bytes()) != content["vocabulary"]:
            warn(f"{path} is gone or damaged; the data set itself stands in for it")
            return None
    return content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
