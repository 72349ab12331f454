"""The metadata of the data set that a run records, so that prediction needs only the run directory.

A run directory holds `data.json` (classes, features, sizes) with a checksum and, for texts and transcripts,
`vocabulary.model`. The `load` function of each kind of data uses them instead of the data set, which may have been
moved, changed or deleted.
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
    """The recorded metadata of a data set, used in place of a TFDS builder; it has no examples.

    Attributes:
        vocabulary: The path of the run's sentencepiece model; "" if the data have none.
        targets: The token ids of the distinct targets of texts; None if there are too many for classes.
        folder: An object that must live as long as the files of the run are used.
    """

    data_dir = data_dir_root = "/nonexistent"  # so that `is_prepared` is False
    MANUAL_DOWNLOAD_INSTRUCTIONS = None
    folder: Any = None

    def __init__(self, content: Mapping[str, Any], vocabulary: str = ""):
        import tensorflow_datasets as tfds  # slow to import

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
    """The JSON content of `Recorded` for a TFDS builder."""
    features, metadata = builder.info.features, builder.info.metadata or {}
    shape = getattr(builder, "shape", ())
    if "largest" in metadata:  # if a data set has no fixed image size, the size of its largest image
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
    """Writes the files for `read`, each atomically, unless they exist already with this content."""
    digest = {} if vocabulary is None else {"vocabulary": _digest(vocabulary)}
    content = files.sealed(json.loads(json.dumps({**description, **digest})))
    if _read(folder) == content:
        return
    if vocabulary is not None:
        files.write_atomically(folder / VOCABULARY, vocabulary)
    files.write_atomically(folder / FILE, json.dumps(content, indent=1) + "\n")


def read(folder: Path) -> Recorded | None:
    """The recorded data set of the run in `folder`; None if there is none or, with a warning, if it is damaged."""
    content = _read(folder, progress.say)
    if content is None:
        return None
    return Recorded(content, str(folder / VOCABULARY) if "vocabulary" in content else "")


def _read(folder: Path, warn: Any = lambda line: None) -> dict[str, Any] | None:
    """The content of `data.json`; None unless it and the vocabulary are present and intact."""
    path = folder / FILE
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):  # an old run, or imported weights
        return None
    except (ValueError, RecursionError):  # invalid JSON or UTF-8
        content = None
    if not isinstance(content, dict) or "checksum" not in content or not files.is_intact(content):
        warn(f"{path} is damaged; the data set itself is used instead")
        return None
    if "vocabulary" in content:
        path = folder / VOCABULARY
        if not path.is_file() or _digest(path.read_bytes()) != content["vocabulary"]:
            warn(f"{path} is missing or damaged; the data set itself is used instead")
            return None
    return content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
