"""Overrides, refusals, digests and the comparison of two configs."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research import config as config_lib
from research.spec import Spec, field
from research.spec.serial import leaves
from research.train import rundir
from research.train.settings import Experiment

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests/golden/digests.json"
DIGITS = "configs/image_classification/digits_vit.py"
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
BARE = {"seed": 0, "optimizer": {"learning_rate": 0.1}, "train": {"steps": 10}}


class Data(Spec):
    name: str = field(default="")
    flip: bool = field(default=False)
    mean: tuple[float, ...] = field(default=(127.5,))
    sizes: tuple[int, ...] = field(default=(1, 2))


class Bare(Experiment):
    """The groups of every experiment, and one with a flag and two tuples."""

    data: Data = field(default=Data())


def complete(*overrides):
    return config_lib.complete(Bare, BARE, overrides)


def refusal(*overrides):
    """The one line that says why the overrides are refused."""
    with pytest.raises(ValueError) as caught:
        complete(*overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- Overrides


@given(st.integers(1, 10**9))
def test_an_int_stays_an_int_and_stands_for_a_float(value):
    config = complete(f"train.steps={value}", f"optimizer.weight_decay={value}")
    assert (config.train.steps, type(config.train.steps)) == (value, int)
    assert (config.optimizer.weight_decay, type(config.optimizer.weight_decay)) == (float(value), float)


@given(st.floats(0, allow_infinity=False))
def test_a_float_is_read_back_exactly_and_never_becomes_an_int(value):
    assert complete(f"optimizer.learning_rate={value!r}").optimizer.learning_rate == value
    assert refusal(f"train.steps={value!r}") == f"config.train.steps={value!r} is a float; it must be an int"


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))))
def test_a_string_is_taken_as_it_is(text):
    assert complete(f"data.name={text}").data.name == text


@given(st.lists(st.one_of(st.floats(-1000, 1000), st.integers(-1000, 1000))), st.sampled_from([tuple, list]))
def test_a_list_is_a_tuple_whose_items_have_the_type_of_the_default(values, kind):
    mean = complete(f"data.mean={kind(values)!r}").data.mean
    assert mean == tuple(values) and {type(item) for item in mean} <= {float}


@pytest.mark.parametrize(("text", "value"), [("true", True), ("True", True), ("false", False), ("False", False)])
def test_a_flag_is_true_or_false(text, value):
    assert complete(f"data.flip={text}").data.flip is value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps=many", "config.train.steps='many' is a str; it must be an int"),
        ("train.steps=true", "config.train.steps=True is a bool; it must be an int"),
        ("optimizer.learning_rate=false", "config.optimizer.learning_rate=False is a bool; it must be a float"),
        ("data.flip=1", "config.data.flip=1 is an int; it must be a bool"),
        ("data.mean=1.0", "config.data.mean=1.0 is a float; it must be a tuple"),
        ("data.mean=('red',)", "config.data.mean='red' is a str; it must be a float"),
        ("data.sizes=(1, 2.5)", "config.data.sizes=2.5 is a float; it must be an int"),
        ("train.stepz=3", "config.train.stepz is unknown; did you mean steps? (research/train/settings.py:"),
        ("trian.steps=3", "config.trian is unknown; did you mean train or privacy? ("),
        ("train.steps.more=3", "config.train.steps.more is unknown: the field above it is not a group"),
        ("seed.name=3", "config.seed.name is unknown: the field above it is not a group"),
        ("trian.name=3", "config.trian is unknown; did you mean train or "),
        ("name=3", "config.name is unknown; "),
        ("train=3", "config.train='3' is a group; set one of its fields: steps"),
        ("train.steps", "config.train.steps has no value; write train.steps=VALUE"),
        ("optimizer.name=adam", "config.optimizer.name='adam' is unknown; choose from adafactor, adamw"),
    ],
)
def test_invalid_values_are_refused_in_one_line(override, message):
    assert refusal(override).startswith(message)


def test_the_last_override_of_a_field_wins():
    assert complete("train.steps=3", "train.steps=4").train.steps == 4


def test_a_name_changes_which_fields_are_known_wherever_it_stands():
    assert complete("optimizer.momentum=0.5", "optimizer.name=sgd").optimizer.momentum == 0.5
    assert refusal("optimizer.b1=0.5", "optimizer.name=sgd").startswith("config.optimizer.b1 is unknown; ")


def test_overrides_leave_the_defaults_alone():
    complete("data.sizes=(3, 4)", "train.batch_size=7")
    assert complete().train.batch_size == 128 and complete().data.sizes == (1, 2)


# ---- Files


def test_a_loaded_config_is_complete_locked_and_says_where_it_came_from():
    config = config_lib.load(DIGITS, "smoke", ["train.steps=30"])
    assert config_lib.plain(config.mesh) == {"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1}
    assert config_lib.plain(config.source) == {
        "experiment": "image_classification",
        "file": DIGITS,
        "variant": "smoke",
        "overrides": ("train.steps=30",),
        "digest": config.source.digest,
    }
    with pytest.raises(AttributeError):
        config.train.steps = 3


def test_a_config_in_any_folder_is_of_the_experiment_that_it_names(tmp_path):
    (tmp_path / "mine.py").write_text((ROOT / DIGITS).read_text())
    assert config_lib.load(str(tmp_path / "mine.py"), "smoke").source.experiment == "image_classification"


def write(tmp_path, text, name="other.py"):
    folder = tmp_path / "image_classification"
    folder.mkdir()
    (folder / name).write_text(text)
    return str(folder / name)


COPY = "from configs.image_classification.digits_vit import *\n"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"model": {"name": "vit", "widht": 3}}, "config.model.widht is unknown; did you mean width"),
        (
            {"model": {"name": "vgg"}},
            "config.model.name='vgg' is unknown; choose from alexnet, convnext, efficientnet, resnet, vit",
        ),
        ({"train": {"steps": "many"}}, "config.train.steps='many' is a str; it must be an int"),
        ({"train": 3}, "config.train=3 must be a group of fields: steps, batch_size"),
    ],
)
def test_what_a_config_file_cannot_say(tmp_path, raw, message):
    file = write(tmp_path, f"{COPY}get_config = lambda variant: {{'model': {{'name': 'vit'}}}} | {raw!r}")
    with pytest.raises(ValueError, match=re.escape(message)):
        config_lib.load(file)


def test_a_spec_that_a_config_file_makes_itself_is_checked_under_the_name_of_the_file(tmp_path):
    spec = "from research.models.vit import ViTSpec\nget_config = lambda variant: {'model': ViTSpec(depth=0)}"
    with pytest.raises(ValueError, match=r"^config file '.*other.py': depth=0 must be between 1 and 10000$"):
        config_lib.load(write(tmp_path, COPY + spec))


def test_files_that_are_no_configs_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'configs/digit_vit.py' does not exist; known: .*/digits_vit.py, .* more"):
        config_lib.load("configs/digit_vit.py")
    with pytest.raises(ValueError, match=r"unknown variant 'huge' of .*digits_vit.py; choose from full, cpu, smoke"):
        config_lib.load(DIGITS, "huge")
    with pytest.raises(ValueError, match=r"'pyproject.toml' is not a Python file"):
        config_lib.load("pyproject.toml")
    with pytest.raises(ValueError, match=r"does not define EXPERIMENT"):
        config_lib.load(write(tmp_path, "RESULT, VARIANTS = {}, ('full',)"))


def test_a_variant_may_have_a_reference_of_its_own(tmp_path):
    file = write(
        tmp_path,
        "VARIANTS, EXPERIMENT = ('full', 'cpu'), None\n"
        "RESULT = {'metric': 'm', 'reference': 0.9, 'cpu': {'reference': 0.8}}\n"
        "def get_config(variant='full'): return {}",
    )
    assert config_lib.result_spec(file) == {"metric": "m", "reference": 0.9}
    assert config_lib.result_spec(file, "cpu") == {"metric": "m", "reference": 0.8}


# ---- Digests


def digest(*overrides):
    return config_lib.load(DIGITS, "smoke", overrides).source.digest


@pytest.mark.parametrize(
    "override",
    [
        "seed=7",
        "mesh.data=2",
        "mesh.tensor=4",
        "train.log_every=3",
        "train.eval_every=3",
        "train.checkpoint_every=3",
        "train.keep_last=5",
        "train.keep_best=0",
        "train.trackers=('mlflow', 'wandb')",
        "train.samples=True",
        "data.dir=/elsewhere",
        "data.workers=3",
        "data.prefetch=9",
        "train.microbatches=1",  # its default
    ],
)
def test_the_digest_leaves_out_what_no_result_depends_on(override):
    assert digest(override) == digest()


def test_the_digest_depends_on_everything_else():
    overrides = ["model.width=64", "data.shift=0.5", "task.mixup=0.1", "train.steps=21", "train.microbatches=2"]
    overrides += ["optimizer.name=lion", "train.select=best", "precision.compute=bfloat16", "train.eval_batch_size=64"]
    assert len({digest(), *map(digest, overrides)}) == len(overrides) + 1


def with_later(**declared):
    """The digest of `complete("data.flip=True", *overrides)` where the data has one more field, `new`."""

    class Later(Data, tag=Data.tag):
        new: int = field(**declared)

    class WithLater(Bare, tag=Bare.tag):
        data: Later = field(default=Later())

    return lambda *overrides: config_lib.digest(config_lib.complete(WithLater, BARE, ["data.flip=True", *overrides]))


def test_a_field_added_later_changes_no_digest_at_its_absent_value():
    before = config_lib.digest(complete("data.flip=True"))
    added = with_later(default=1, absent=1)
    assert added() == before != added("data.new=2")


def test_a_changed_default_changes_the_digest():
    before = config_lib.digest(complete("data.flip=True"))
    assert with_later(default=1)() != before
    assert with_later(default=2, absent=1)() != before
    assert with_later(default=1)("data.new=5") == with_later(default=2)("data.new=5")


def test_the_digests_of_all_configs_are_the_golden_ones():
    """Those in the results tables: where one changes, its rows are stale, so the commit must say why.

    `python -m tests.test_config` writes the file again.
    """
    assert digests() == json.loads(GOLDEN.read_text())


def digests():
    files = sorted((ROOT / "configs").glob("*/*.py"))
    load = lambda file, variant: config_lib.load(str(file), variant).source.digest
    return {
        f"{file.relative_to(ROOT)}:{variant}": load(file, variant)
        for file in files
        for variant in config_lib.load_file(str(file)).VARIANTS
    }


# ---- Resuming


def test_differences_that_a_resumed_run_may_show():
    old = config_lib.load(DIGITS, "smoke")
    overrides = ["train.steps=40", "mesh.data=4", "mesh.fsdp=2", "train.log_every=1", "data.workers=2"]
    allowed, refused = config_lib.differences(old, config_lib.load(DIGITS, "cpu", ["seed=0"]))
    assert "train.steps: 20 -> 2500" in allowed and "model.width: 32 -> 64" in refused
    allowed, refused = config_lib.differences(old, config_lib.load(DIGITS, "smoke", overrides))
    assert refused == []
    assert [line for line in allowed if not line.startswith("source.")] == [
        "data.workers: 0 -> 2",
        "mesh.data: -1 -> 4",
        "mesh.fsdp: 1 -> 2",
        "train.log_every: 5 -> 1",
        "train.steps: 20 -> 40",
    ]


def test_a_run_outlives_fields_that_newer_versions_bring():
    new = config_lib.load(DIGITS, "smoke")
    old = config_lib.plain(new)
    del old["task"]["mixup"]
    assert config_lib.differences(old, new) == ([], [])
    assert config_lib.differences(old | {"seed": 1}, new)[1] == ["seed: 1 -> 0"]
    old["source"]["digest"] = "y"
    assert config_lib.differences(old, new)[1] == ["task.mixup: absent -> 0.0"]


def test_a_trained_run_may_be_used_in_another_way():
    file = "configs/translation/multi30k_de_en.py"
    old = config_lib.load(file, "smoke", ["task.decoder=beam"])
    overrides = ["task.decoder=beam", "task.beam_size=8", "data.truncate=True"]
    new = config_lib.load(file, "smoke", [*overrides, "task.label_smoothing=0.2"])
    assert len(config_lib.differences(old, new)[1]) == 3
    (line,) = config_lib.differences(old, new, inference=True)[1]
    assert line.startswith("task.label_smoothing: ")


@pytest.mark.parametrize("override", ["seed=1", "model.width=64", "train.batch_size=64", "optimizer.name=lion"])
def test_a_run_directory_of_another_config_is_refused_untouched(tmp_path, override):
    rundir.open_run_dir(tmp_path, config_lib.load(DIGITS, "smoke"), write=True)
    before = (tmp_path / "config.json").read_bytes()
    field, value = override.split("=")
    with pytest.raises(ValueError, match=rf"belongs to another config \(.*{field}: \S+ -> {value}.*choose another"):
        rundir.open_run_dir(tmp_path, config_lib.load(DIGITS, "smoke", [override]), write=True)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_run_directory_of_the_same_config_says_what_changed(tmp_path):
    assert rundir.open_run_dir(tmp_path / "run", config_lib.load(DIGITS, "smoke"), write=True) == []
    again = config_lib.load(DIGITS, "smoke", ["train.steps=40"])
    assert rundir.open_run_dir(tmp_path / "run", again, write=False) == ["train.steps: 20 -> 40"]


# What may change in the middle of a run, and what a result does not depend on; the roles of fields say so since.
RUN_FIELDS = (
    r"mesh\..*|train\.(log|eval|checkpoint)_every|train\.(keep_(last|best)|profile|test|trackers|samples)"
    r"|data\.(dir|cache|eval_buckets|workers|prefetch)"
)
# How a trained model is used.
IN_USE = (
    r"task\.(decoder|max_decode_length|beam_size|length_penalty|early_stopping|num_return|temperature|top_k|top_p)"
    r"|task\.(threshold|flip_tta|tta|groups|score_threshold|nms_iou|candidates|max_detections|display_threshold)"
    r"|task\.(max_answer_length|unanswerable|null_threshold|candidates)"
    r"|train\.(eval_batch_size|select)|data\.(truncate(_source)?|long_sounds)"
)


@pytest.mark.parametrize("file", sorted(Path("configs").glob("*/*.py")), ids=lambda file: file.stem)
def test_every_field_has_a_role_and_says_what_it_means(file):
    config = config_lib.load(str(file), "smoke")
    # The temperature of decoders is that of sampling; that of a contrastive loss is trained with.
    of_loss = lambda name: name == "task.temperature" and config.task.tag == "retrieval"
    for name, leaf in leaves(config).items():
        role, runtime = leaf.info.role, re.fullmatch(RUN_FIELDS + r"|source\..*", name) is not None
        on_resume = runtime or name == "train.steps"
        in_use = on_resume or (re.fullmatch(IN_USE, name) is not None and not of_loss(name))
        assert (role.may_differ(inference=False), role.may_differ(inference=True)) == (on_resume, in_use), name
        assert role.in_digest == (not runtime and name != "seed"), name
        assert leaf.info.doc, f"{name} says nothing"


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(digests(), indent=1) + "\n")
