"""Every field of every experiment refuses values that make no sense, before anything is built, and a run reads all."""

import typing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from research import config as config_lib
from research.spec import Spec, convert
from research.spec.fields import infos
from research.spec.serial import leaves
from research.train import trainer
from tests.train import toy

# One config of each experiment; those of one experiment have the same fields, but for those of other models.
FILES = [
    "configs/detection/bccd_fcos.py", "configs/driving_segmentation/camvid_vit.py",
    "configs/face_recognition/orl_verification.py", "configs/image_classification/digits_vit.py",
    "configs/image_classification/cifar10_efficientnet.py", "configs/image_classification/cifar10_resnet.py",
    "configs/image_classification/cifar10_fast.py",
    "configs/image_classification/imagenet_convnext_t.py",
    "configs/image_classification/imagenet_alexnet.py", "configs/question_answering/qamr_minilm.py",
    "configs/question_answering/qamr_retrieval.py", "configs/question_answering/squad.py",
    "configs/sentiment/sst2_minilm.py", "configs/sentiment/sst2_sentences.py",
    "configs/speech_recognition/fsdd_strings.py",
    "configs/summarization/aeslc.py", "configs/translation/multi30k_de_en.py", "configs/video/digits_vivit.py",
]  # fmt: skip
# Their ranges depend on other values, or they are pairs with a string.
IN_VALIDATE = {"optimizer.multipliers", "optimizer.unfreeze", "task.margin_size"}
NO_NUMBERS = ("many", "nan", "inf", "-inf", "1e400", f"1{'0' * 400}", "(1, 2)x", "{}", "None and more")


def fields(file):
    """The leaves of a config that a user may set, by their names."""
    return {name: leaf for name, leaf in leaves(config_lib.load(file, "smoke")).items() if "source." not in name}


def kinds(annotation):
    """The plain types that a value, or an item of it, may have."""
    found = set()
    for option in convert.alternatives(annotation):
        items = [item for item in typing.get_args(option) if item is not Ellipsis]
        found |= set().union(*map(kinds, items)) if typing.get_origin(option) is tuple else {option}
    return found


def refusal(file, word):
    with pytest.raises(ValueError) as caught:
        config_lib.load(file, "smoke", [word])
    message = str(caught.value)
    assert message.startswith("config.") and "\n" not in message and len(message) < 600
    return message


@pytest.mark.parametrize("file", FILES, ids=lambda file: Path(file).stem)
def test_every_number_declares_a_range(file):
    for name, leaf in fields(file).items():
        if kinds(leaf.info.annotation) & {int, float}:
            assert leaf.info.check is not None or name in IN_VALIDATE, name


@pytest.mark.parametrize("file", FILES, ids=lambda file: Path(file).stem)
def test_what_is_no_value_of_a_field_is_refused_in_one_line_that_names_it(file):
    for name, leaf in fields(file).items():
        types = kinds(leaf.info.annotation)
        texts = NO_NUMBERS if not types & {str} else ("a\0b",)
        for text in texts if not types <= {bool} else ("maybe", "2", "(True,)"):
            assert name in refusal(file, f"{name}={text}")


@pytest.mark.parametrize("file", FILES, ids=lambda file: Path(file).stem)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_numbers_beyond_their_range_are_refused(file, data):
    """Where a check does not accept a number, the config does not either."""
    ranged = {
        name: leaf
        for name, leaf in fields(file).items()
        if leaf.info.check is not None and convert.alternatives(leaf.info.annotation)[0] in (int, float)
    }
    name = data.draw(st.sampled_from(sorted(ranged)))
    whole = convert.alternatives(ranged[name].info.annotation)[0] is int
    value = data.draw(st.integers(-(2**62), 2**62) if whole else st.floats(-1e300, 1e300, allow_nan=False))
    if not ranged[name].info.check.accepts(value):
        assert f"config.{name}=" in refusal(file, f"{name}={value!r}")


# ---- The groups that the trainer reads field by field: train, optimizer, mesh and the seed.


def recorded(spec, reads, where=""):
    """The same spec, which adds the dotted names of the fields that are read one by one to `reads`."""
    inner = {each.name: getattr(spec, each.name) for each in infos(type(spec))}

    def read(self, name):
        if name not in inner or not reads.on:
            return object.__getattribute__(self, name)
        if isinstance(inner[name], Spec):
            return recorded(inner[name], reads, f"{where}{name}.")
        reads.names.add(where + name)
        return inner[name]

    recording = type(type(spec).__name__, (type(spec),), {"__getattribute__": read})
    clone = object.__new__(recording)
    clone.__dict__.update(inner)
    return clone


class Reads:
    def __init__(self, monkeypatch):
        self.on, self.names = True, set()
        for name in ("plain", "flat", "differences"):  # for writing the config down, which is no use of it
            monkeypatch.setattr(config_lib, name, self._off(getattr(config_lib, name)))

    def _off(self, function):
        def quiet(*arguments, **named):
            before, self.on = self.on, False
            try:
                return function(*arguments, **named)
            finally:
                self.on = before

        return quiet


def test_a_run_reads_every_other_key(tmp_path, monkeypatch):
    config = toy.make_config(**{"train.steps": 4})
    known = {name for name in config_lib.flat(config) if name.startswith(("seed", "train.", "optimizer.", "mesh."))}
    reads = Reads(monkeypatch)
    trainer.run("train", recorded(config, reads), toy.make_task(), toy.Data(), tmp_path / "run")
    assert known - reads.names == {"train.init_skip", "optimizer.name"}  # with init_from alone; no field
