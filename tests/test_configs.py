"""Every config and variant builds its program, and no config sets a key that nothing uses."""

import dataclasses
import functools
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from research import config as config_lib
from research.data.images import detection, segmentation
from research.data.images.faces import FaceDataset
from research.data.sound.speech import Speech
from research.data.text.dataset import Text
from research.data.text.pairs import Pairs
from research.data.text.spans import Spans
from research.metrics import box_scores, face_scores, retrieval_scores, text_scores
from research.parallel import mesh as mesh_lib
from research.report import records
from research.tasks import seq2seq
from research.tasks.retrieval import RetrievalSpec
from research.tasks.span_extraction import SpanExtractionSpec
from research.tasks.text_classification import TextClassificationSpec
from research.train import feed
from research.train.program import build_program
from tests import samples, weights

FILES = sorted(str(path.relative_to(Path.cwd())) for path in Path.cwd().glob("configs/*/*.py"))


def variants(file):
    return config_lib.load_file(file).VARIANTS


def build(config):
    """The task and the data of a config."""
    return config.build()


def experiment(file):
    return Path(file).parent.name


# Similarities, same, folds: pairs that have every score.
PAIRS = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
# Experiments over images, with what their evaluations measure.
IMAGES = {
    "image_classification": {"accuracy"},
    "driving_segmentation": {"miou"},
    "detection": set(box_scores.NAMES),
    "video": {"accuracy"},
    "face_recognition": {"accuracy", "identification", *face_scores.verify(*PAIRS)},
}


def is_text(file):
    """Whether what it trains writes text."""
    return experiment(file) not in IMAGES


def classifies(config):
    """Whether it is of texts, to which it gives classes."""
    return isinstance(config.task, TextClassificationSpec)


def extracts(config):
    """Whether it is of texts, of which it takes a part as the answer."""
    return isinstance(config.task, SpanExtractionSpec)


def retrieves(config):
    """Whether it is of texts, which it finds by their embeddings."""
    return isinstance(config.task, RetrievalSpec)


def is_speech(file):
    return experiment(file) == "speech_recognition"


VARIANTS = [(file, variant) for file in FILES for variant in variants(file)]
each_variant = pytest.mark.parametrize(("file", "variant"), VARIANTS, ids=lambda value: Path(value).stem)
each_file = pytest.mark.parametrize("file", FILES, ids=lambda value: Path(value).stem)
each_text = pytest.mark.parametrize("file", filter(is_text, FILES), ids=lambda value: Path(value).stem)


def set_keys(file, variant):
    """The dotted names of what a config file itself says."""
    return set(config_lib.flat(config_lib.load_file(file).get_config(variant)))


def changed(config, name, value):
    """`config` with one field at another value. Raises ValueError where the field does not accept it."""
    group, _, key = name.rpartition(".")
    if not group:
        return dataclasses.replace(config, **{key: value})
    return dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **{key: value})})


@each_variant
def test_its_program_builds_on_several_devices_without_data(file, variant):
    name = config_lib.load_file(file).get_config(variant).model.get("name")
    tensor = 1 if name in ("resnet", "whitened_cnn") else 4  # convolutions are not split over it
    sizes = ["mesh.data=1", "mesh.fsdp=2", f"mesh.tensor={tensor}"]
    config = config_lib.load(file, variant, [*sizes, "data.dir=/nowhere"])
    weights.skip_without(config)
    task, data = build(config)
    mesh = mesh_lib.make_mesh(config.mesh.sizes, jax.devices()[: 2 * tensor])
    feed.check_batch(config.train, mesh)
    program = build_program(config, task, mesh)
    batch = task.example(config.train.batch_size)
    outputs = program.predict_step.eval_shape(program.state.evaluated, batch, jax.random.key(0))
    if is_text(file):
        assert task.model.vocab_size == data.vocabulary.size == config.data.vocab_size
        if classifies(config):
            assert task.model.num_classes == len(data.class_names) == outputs["probabilities"].shape[1]
            return
        if retrieves(config):
            assert outputs["embedding"].shape == (config.train.batch_size, config.model.width)
            return
        if extracts(config):
            assert task.model.num_classes == 2 == outputs["spans"].shape[2]
            assert outputs["scores"].shape == (config.train.batch_size, config.task.num_return)
            return
        assert outputs["tokens"].shape == (config.train.batch_size, 1, config.task.max_decode_length)
        return
    if experiment(file) == "face_recognition":
        assert outputs["embedding"].shape == (config.train.batch_size, config.model.embed_dim)
        assert task.model.num_classes == data.num_classes <= len(data.class_names)
        return
    if experiment(file) == "driving_segmentation":
        assert outputs["mask"].shape == (config.train.batch_size, *data.image_shape[:2])
        assert data.num_classes == (4 if variant == "smoke" else 19 if "cityscapes" in file else 11)
        return
    if experiment(file) == "detection":
        assert outputs["boxes"].shape == (config.train.batch_size, outputs["scores"].shape[1], 4)
        assert data.num_classes == (80 if variant == "full" and "coco" in file else 3)
        return
    if experiment(file) == "image_classification":
        assert data.num_classes == (10 if variant == "smoke" or "imagenet" not in file else 1000)
    assert outputs["probabilities"].shape == (config.train.batch_size, data.num_classes)


@each_file
def test_a_reference_has_a_source_and_lies_in_the_range_of_its_metric(file):
    result = config_lib.result_spec(file)
    if result["reference"] is None:
        assert not result["reference_source"]
        return
    most = 1 if "accuracy" in result["metric"] or "bleu1" in result["metric"] else 100
    assert 0 < result["reference"] < most and result["reference_source"]


@each_file
def test_its_floor_is_measured_or_stated_with_its_source(file):
    """What was measured is not typed, too."""
    path = Path("experiments", experiment(file), "results.jsonl")
    rows = records.read_lines(path) if path.exists() else []
    methods = {row["baseline"] for row in rows if "baseline" in row and row["file"] == file}
    result = config_lib.result_spec(file)
    if methods:
        assert len(methods) >= 2 and "floor" not in result
        return
    assert result["floor_source"] and 0 < result["floor"] <= 100
    if result["reference"] is not None and result["metric"] != "test/wer":  # of which less is better
        assert result["floor"] < result["reference"]


@each_variant
def test_its_runs_have_the_metrics_of_its_result(file, variant):
    result, config = config_lib.result_spec(file, variant), config_lib.load(file, variant)
    measured = IMAGES.get(experiment(file))
    if experiment(file) == "face_recognition":
        assert config.task.select_by in measured and config.train.score == "all"
    if is_text(file) and classifies(config):
        measured = {"accuracy"}
    elif is_text(file) and retrieves(config):
        measured = set(retrieval_scores.NAMES)
        assert config.task.select_by in measured and config.train.score == "all"
    elif is_text(file):
        example = {"references": ("a text",), "task": 1, "speaker": "a"}
        measured = {name for metric in config.task.metrics for name in text_scores.METRICS[metric](["a"], [example])[0]}
        assert config.task.select_by in measured | {"loss"}
        assert config.train.score == "all" or config.task.select_by == "loss"
    assert {result["metric"], *result.get("also", ())} <= {f"test/{name}" for name in measured}


@each_text
def test_smoke_runs_need_no_download_and_stay_small(file):
    config = config_lib.load(file, "smoke")
    made_here = "dial_tones" if experiment(file) == "speech_recognition" else "spelled_numbers"
    assert config.data.name == made_here and config.data.workers == 0
    assert config.train.steps * config.train.batch_size * build(config)[0].source_length < 50_000


# ---- Every key that is set is used: another value gives other batches or another program, or is refused.


def data_fingerprint(config):
    _, data = build(config)
    if isinstance(data, Speech):
        prepared = data.prepared
        return (
            *samples.sounds(data),
            data.name,
            prepared.template,
            prepared.settings,
            data.spec.cache,
            data.workers,
            data.prefetch,
        )
    if isinstance(data, Spans):
        return *samples.spans(data), data.name, data.prepared.settings, data.workers, data.prefetch
    if isinstance(data, Pairs):
        return *samples.pairs(data), data.name, data.prepared.settings, data.workers, data.prefetch
    if isinstance(data, Text):
        return *samples.texts(data), data.name, data.prepared.settings, data.workers, data.prefetch
    if isinstance(data, segmentation.SegmentationDataset | detection.DetectionDataset):
        return *samples.marked(data), data.name, data.mean, data.std, data.workers, data.prefetch
    return *samples.images(data), data.name, data.mean, data.std, data.cache, data.workers, data.prefetch


@functools.cache
def training(task):
    """What `init` and `loss` of a task compute, as text, and the variables."""
    batch, rng, totals = (
        task.example(4),
        jax.random.key(0),
        dict.fromkeys(("examples", "tokens", "pixels", "positives", "centreness"), 4.0),
    )
    init, variables = jax.make_jaxpr(lambda rng: task.init(rng), return_shape=True)(rng)
    loss = jax.make_jaxpr(lambda *args: task.loss(*args[:2], totals, args[2]))(variables, batch, rng)
    return re.sub("0x[0-9a-f]+", "", f"{init} {loss}"), variables


@functools.cache
def decoding(task):
    """What `predict` of a task computes, as text."""
    predict = jax.make_jaxpr(lambda *args: task.predict(*args))
    return re.sub("0x[0-9a-f]+", "", str(predict(training(task)[1], task.example(4), jax.random.key(0))))


def with_spec(task, **fields):
    """A task with other fields of its spec."""
    return dataclasses.replace(task, spec=dataclasses.replace(task.spec, **fields))


def training_fingerprint(config):
    task, data = build(config)
    if isinstance(data, Speech):  # of a loss that is made of more
        how = {"metrics": (), "select_by": "loss", "decoder": "greedy", "num_return": 1, "max_decode_length": 4}
        task = with_spec(task, **how)
    if isinstance(
        task, seq2seq.Seq2SeqTask
    ):  # many configs have the same smoke model, and decode its answers in their own ways
        learnt = {name: getattr(task.spec, name) for name in ("label_smoothing", "word_dropout", "z_loss")}
        task = dataclasses.replace(task, spec=seq2seq.Seq2SeqTaskSpec(**learnt))
    return training(task)[0]


def task_fingerprint(config):
    task, data = build(config)
    if isinstance(data, detection.DetectionDataset):
        return training(task)[0], decoding(task), task.selection, task.spec.display_threshold
    if isinstance(data, segmentation.SegmentationDataset):
        return training(task)[0], decoding(task)
    if isinstance(data, FaceDataset):
        return training(task)[0], decoding(task), task.spec.metrics, task.spec.groups, task.selection
    if classifies(config):
        return training(task)[0], data.class_names
    if retrieves(config):
        return training(task)[0], task.selection, task.spec.num_return
    if extracts(config):
        return training(task)[0], decoding(task), task.spec.metrics, task.selection, data.stride, data.prepared.min_f1
    if not isinstance(data, Text | Speech):
        return training(task)[0]
    how = {"metrics": (), "select_by": "loss", "label_smoothing": 0.0, "z_loss": 0.0}
    how |= {"word_dropout": 0.0} if isinstance(data, Text) else {}
    return training_fingerprint(config), decoding(with_spec(task, **how)), task.spec.metrics, task.selection


FINGERPRINTS = {
    "data": data_fingerprint,
    "model": training_fingerprint,
    "task": task_fingerprint,
    "precision": training_fingerprint,
}


def others(value):
    """Other values of the same type; a word is replaced by one that nothing knows."""
    match value:
        case bool():
            return (not value,)
        case int():
            return (value + 1, 1)
        case float():
            return (value / 2 + 0.125, 0.0)  # of a probability, no draw may lie between the first and `value`
        case str():
            return ("nonsense",)
        case tuple():
            return (tuple(other for item in value for other in others(item)[:1]),)
    raise TypeError(f"no other value is known for {value!r}")


def is_used(config, name, fingerprint, before):
    """Whether another value of a field is seen by what its group makes, or refused in a message that shows it."""
    for other in others(config_lib.flat(config)[name]):
        try:
            if fingerprint(changed(config, name, other)) != before:
                return True
        except (KeyError, TypeError, ValueError) as error:
            if name.split(".")[-1] in str(error) or str(other) in str(error):
                return True
    return False


def unused(config, names):
    left = []
    for group, fingerprint in FINGERPRINTS.items():
        mine = sorted(name for name in names if name.startswith(f"{group}."))
        before = fingerprint(config) if mine else None
        left += [name for name in mine if not is_used(config, name, fingerprint, before)]
    return left


@each_file
def test_every_data_key_that_it_sets_is_used(file):
    """By one variant at least: where a variant switches RandAugment off, its magnitude may stand idle."""
    left = {name for variant in variants(file) for name in set_keys(file, variant) if name.startswith("data.")}
    assert len(left) > 3
    for variant in variants(file):
        weights.skip_without(config_lib.load(file, variant))
        left = set(unused(config_lib.load(file, variant), left))
    assert left == set()


def set_beside_data(file):
    """The names of fields; those of a model and of a task are none."""
    names = {name for variant in variants(file) for name in set_keys(file, variant) if not name.startswith("data.")}
    return names - {"model.name", "task.name"}


@pytest.mark.parametrize("file", [file for file in FILES if not is_text(file)], ids=lambda value: Path(value).stem)
def test_every_model_task_and_precision_key_that_it_sets_is_used(file):
    """By one variant at least: a width of a convolutional stem stands idle where a variant has none."""
    left = set_beside_data(file)
    assert len([name for name in left if name.startswith("model.")]) >= 2
    for variant in reversed(variants(file)):  # smoke first; most keys need no other
        left = unused(config_lib.load(file, variant), left)
        if not left:
            return
    pytest.fail(f"no variant uses {left}")


@pytest.mark.parametrize("experiment_name", sorted({experiment(file) for file in FILES if is_text(file)}))
def test_every_model_task_and_precision_key_of_an_encoder_decoder_is_used(experiment_name):
    """By one config of those that set it: tracing them all for every file would take a quarter of an hour."""
    files = [file for file in FILES if experiment(file) == experiment_name]
    left = set().union(*map(set_beside_data, files))
    assert len([name for name in left if name.startswith("model.")]) >= 3
    for file in files:
        mine = left & set_beside_data(file)
        left -= mine - set(unused(config_lib.load(file, "smoke"), mine))
    assert left == set()


def test_a_fingerprint_depends_on_nothing_else():
    config = config_lib.load("configs/image_classification/digits_vit.py", "smoke")
    for fingerprint in set(FINGERPRINTS.values()):
        assert fingerprint(config) == fingerprint(changed(config, "train.steps", 999))


def test_a_key_that_nothing_uses_is_reported():
    config = config_lib.load("configs/image_classification/digits_vit.py", "smoke", ["model.qkv_bias=False"])
    names = {"data.pad", "data.scale", "model.key_bias", "model.width"}  # pad waits for crop="pad"
    assert unused(config, names) == ["data.pad", "model.key_bias"]


def test_a_key_of_a_text_config_that_nothing_uses_is_reported():
    config = config_lib.load("configs/question_answering/squad.py", "smoke")
    idle = ["model.key_bias", "task.beam_size"]  # they wait for bias=True and decoder="beam"
    used = {"data.pack", "data.truncate_source", "model.dropout", "task.label_smoothing", "task.max_decode_length"}
    assert unused(config, used | set(idle)) == idle
