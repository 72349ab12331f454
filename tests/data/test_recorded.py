"""The description of the data set in a run directory: round trip, updates, and refusal when damaged."""

from types import SimpleNamespace

import tensorflow_datasets as tfds

from research.data import recorded


class Builder:
    """As much of a TFDS builder as is recorded."""

    name, version, colours, shape = "own", "1.0.0", ("#ff0000", ""), (None, None, 3)

    def __init__(self, *class_names):
        self.class_names = class_names

    @property
    def info(self):
        features = {"image": tfds.features.Image(shape=(8, 8, 3)), "label": tfds.features.ClassLabel(names=["a", "b"])}

        metadata = {"largest": [8, 9], "known": 1, "pairs": "large"}
        return SimpleNamespace(features=tfds.features.FeaturesDict(features), metadata=metadata)


def test_what_is_recorded_is_read_again(tmp_path):
    recorded.write(tmp_path, recorded.describe(Builder("sky", "road")) | {"targets": [(5, 1)]}, b"pieces")
    known = recorded.read(tmp_path)
    assert (known.class_names, known.colours, known.shape) == (("sky", "road"), ("#ff0000", ""), (8, 9, 3))
    assert known.info.features["label"].names == ["a", "b"] and known.info.features["image"].shape == (8, 8, 3)
    assert known.info.metadata == {"known": 1} and known.targets == [(5, 1)]
    assert known.vocabulary == str(tmp_path / recorded.VOCABULARY)
    assert (tmp_path / recorded.VOCABULARY).read_bytes() == b"pieces"


def test_it_is_written_again_only_where_it_changed(tmp_path):
    path = tmp_path / recorded.FILE
    recorded.write(tmp_path, recorded.describe(Builder("sky", "road")))
    first = path.stat().st_mtime_ns, path.stat().st_ino
    recorded.write(tmp_path, recorded.describe(Builder("sky", "road")))
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == first
    recorded.write(tmp_path, recorded.describe(Builder("sky", "street")))
    assert recorded.read(tmp_path).class_names == ("sky", "street") and recorded.read(tmp_path).vocabulary == ""


def test_without_a_record_there_is_none_and_a_damaged_one_is_told(tmp_path, capsys):
    assert recorded.read(tmp_path) is None and capsys.readouterr().err == ""
    recorded.write(tmp_path, recorded.describe(Builder("sky")), b"pieces")
    (tmp_path / recorded.VOCABULARY).write_bytes(b"others")
    assert recorded.read(tmp_path) is None and "vocabulary.model is missing or damaged" in capsys.readouterr().err
    (tmp_path / recorded.FILE).write_text("{}")
    assert recorded.read(tmp_path) is None and "data.json is damaged" in capsys.readouterr().err
