"""Suites against PyTorch: turns, the bound, and that all sides do the same work."""

import importlib
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.performance import bound, image_linen, image_steps, main, speech_steps, text_shapes, text_steps, turns
from experiments.performance.bound import Phase
from experiments.performance.measurement import load
from research.measure import flops
from research.models.caches import BeamKeyValues, KeyValues
from tests.experiments.conftest import ROOT

STEPS = main.QUICK["images"]["steps"]


class Fixed:
    """A machine of 1 GFLOP/s and 1 GB/s."""

    flops_per_s = bytes_per_s = 1e9
    seconds = bound.Machine.seconds

    def __init__(self, dtype):
        self.dtype = dtype

    def measure(self):
        pass


class Fake:
    """A side that takes `seconds`, one after the other."""

    compile_s, temporary_bytes, dtype, num_params = 7.0, 2**20, "float32", 1
    phases = (Phase(1e8, 2e8), Phase(3e8, 1e8, repeats=2))  # 0.2 s and twice 0.3 s on `Fixed`

    def __init__(self, seconds):
        self.seconds = iter(seconds)


@pytest.fixture
def fixed(monkeypatch):
    monkeypatch.setattr(turns, "Machine", Fixed)
    monkeypatch.setattr(turns, "_seconds", lambda side: float(next(side.seconds)))


def _torch():
    for package in ("torch", "transformers"):
        pytest.importorskip(package, reason=f"{package} is not installed; see the extra [interop]")


def test_text_compares_seconds(fixed, monkeypatch):
    """Sides that take 1 s and 4 s, once compiled; the first time, which is not counted, PyTorch takes 100 s."""
    sides = {"Tessera": Fake([1, 1, 1, 1]), "PyTorch": Fake([100, 4, 3, 5])}
    monkeypatch.setattr(text_steps, "make", lambda side, shapes, work: sides[side])
    measured = text_steps.compare(text_steps.T5_SMALL, "beam", 3, compiled=False)
    values = {each.name: each.value for each in measured}
    assert (measured[0].value, measured[0].goal, measured[0].met) == (4.0, ">= 3", True)
    assert (values["beam: Tessera"], values["beam: PyTorch"]) == (8 * 64 / 1, 8 * 64 / 4)
    assert (values["beam: compile time"], values["beam: temporaries"]) == (7.0, 1.0)
    assert values["beam: bound"] == pytest.approx(800)  # ms
    assert values["beam: fraction of the bound"] == pytest.approx(0.8)


def test_speech_compares_seconds_a_second_of_sound(fixed, monkeypatch):
    """Sides that take 1 s and 4 s for two sounds of 30 s."""
    sides = {"Tessera": Fake([9, 1, 1, 1]), "PyTorch": Fake([100, 4, 3, 5])}
    monkeypatch.setattr(speech_steps, "make", lambda side, shapes, work: sides[side])
    ratio, ours, theirs, *_ = speech_steps.compare(speech_steps.WHISPER_TINY, "transcribe 30 s", 3, compiled=False)
    assert (ratio.value, ratio.goal, ratio.met) == (4.0, ">= 3", True)
    assert (ours.value, theirs.value) == (pytest.approx(1 / 60), pytest.approx(4 / 60))


def test_ratios_of_all_sides_are_those_of_the_same_turn(fixed):
    """The median of 2, 1, 8 is no ratio of medians."""
    sides = {"Tessera": Fake([1, 1, 2, 1]), "PyTorch": Fake([1, 2, 2, 8]), "Linen alone": Fake([1, 1, 1, 1])}
    rate = turns.Rate(lambda seconds: 16 / seconds, "images/s")
    measured = turns.compare("train", sides, {"PyTorch": 1.2, "Linen alone": 1}, 3, rate, "compiled")
    assert [(each.name, each.value, each.met) for each in measured[:2]] == [
        ("train: Tessera / PyTorch", 2, True),
        ("train: Tessera / Linen alone", 1, True),
    ]
    assert ("train: PyTorch, compiled", 8.0) in [(each.name, each.value) for each in measured]


def test_sides_of_different_sizes_are_refused(fixed):
    sides = {"Tessera": Fake([1, 1]), "PyTorch": Fake([1, 1])}
    sides["PyTorch"].num_params = 2
    with pytest.raises(ValueError, match=r"train: .* 'PyTorch': 2.*same model"):
        turns.compare("train", sides, {}, 1, turns.Rate(float, "s"))


def test_the_fastest_settings_are_kept(fixed):
    """By medians after the first time, in which a program is compiled."""
    made = {"eager": [1, 5, 5, 1], "compiled": [90, 3, 4, 9], "compiled, other": [1, 6, 6, 6]}
    candidates = {name: lambda seconds=seconds: Fake(seconds) for name, seconds in made.items()}
    name, side = turns.fastest("train", candidates)
    assert name == "compiled" and isinstance(side, Fake)


def test_settings_that_fail_are_left_out_but_not_the_plain_ones(fixed):
    def broken():
        raise RuntimeError("no such kernel")

    name, _ = turns.fastest("train", {"eager": lambda: Fake([1, 5, 5, 5]), "compiled": broken})
    assert name == "eager"
    with pytest.raises(RuntimeError, match="no such kernel"):
        turns.fastest("train", {"eager": broken, "compiled": lambda: Fake([1, 5, 5, 5])})


def test_settings_say_where_nothing_can_be_compiled(monkeypatch):
    _torch()
    settings = importlib.import_module("experiments.performance.torch_settings")
    make = lambda **options: options
    monkeypatch.setattr(settings, "compiler_works", lambda: True)
    found = {name: make() for name, make in settings.candidates(make, True, ("NCHW", "channels last")).items()}
    assert found == {
        f"{name}, {layout}": {"compiled": compiled, "layout": layout}
        for name, compiled in (("eager", False), ("compiled", True))
        for layout in ("NCHW", "channels last")
    }
    monkeypatch.setattr(settings, "compiler_works", lambda: False)
    assert {name: make() for name, make in settings.candidates(make, True).items()} == {
        "eager, for want of a compiler": {"compiled": False}
    }
    assert list(settings.candidates(make, False)) == ["eager"]


def test_the_speeds_of_the_machine_are_the_best_measured(monkeypatch):
    machine = bound.Machine(product=64, memory=2**12)
    seconds = iter([2.0, 1.0, 4.0, 0.5, 0.25, 1.0])
    monkeypatch.setattr(bound, "_seconds", lambda function: (function(), next(seconds))[1])
    machine.measure()
    assert (machine.flops_per_s, machine.bytes_per_s) == (2 * 64**3, 2 * 2**12 / 0.25)
    assert machine.seconds([Phase(4 * 64**3, 2**15, 3), Phase(2 * 64**3, 0)]) == 3 * 2 + 1
    np.testing.assert_array_equal(machine._array, np.full(1024, 1.875))  # 1 halved, plus 1, three times


def test_decoding_reads_weights_and_caches():
    """T5 counted by hand: every matrix of the decoder but those of the source, in each of five steps."""
    shapes, work = main.QUICK["text"]["shapes"], "beam"
    task = text_steps._task(shapes, work)
    first, each = bound.decoding(task, shapes.batch_size)
    width, inner, mlp, vocab, depth, batch, beams = 16, 2 * 8, 32, 64, 2, 2, 4
    attention, gated = width * inner, 3 * width * mlp
    encoder = depth * (4 * attention + gated + 2 * width) + width + 32 * 2  # norms, relative positions of two heads
    assert first.bytes == 4 * (encoder + depth * 2 * attention)
    decoder = depth * (6 * attention + gated + 3 * width) + width + 32 * 2 + width * vocab
    written, source = 3 / 5, 2 * depth * batch * inner * shapes.source_length  # of 1 ... 5 tokens
    tokens = 2 * depth * batch * inner * beams * shapes.target_length
    assert each.bytes == pytest.approx(4 * (decoder + source + written * tokens))
    assert (first.repeats, each.repeats) == (1, 5)
    rows, products = batch * beams, depth * (6 * attention + gated) + width * vocab
    over_caches = 2 * depth * rows * inner * (shapes.source_length + beams * shapes.target_length)
    assert each.flops == 2 * (rows * products + over_caches)


def test_weights_of_tied_logits_are_read_in_each_step():
    leaf = np.zeros((3, 4), np.float32)
    layer = {"attention": {"key": {"kernel": leaf}}, "cross_attention": {"key": {"kernel": leaf}}}
    params = {"embedding": leaf, "encoder": {"blocks": layer}, "decoder": {"blocks": layer}}
    assert bound.weights_by_phase(params, tied=True) == (3 * 12, 2 * 12)
    assert bound.weights_by_phase(params, tied=False) == (3 * 12, 12)


def test_of_caches_that_grow_half_is_read():
    arrays = jnp.zeros(10), jnp.zeros(10)
    assert bound.read_of_caches({"a": KeyValues(*arrays), "b": jnp.zeros(99)}, 4) == 80
    assert bound.read_of_caches([BeamKeyValues(*arrays)], 4) == 80 * 2.5 / 4


def test_a_step_reads_and_writes_its_state_and_gradients(monkeypatch):
    monkeypatch.setattr(bound.flops, "step_flops", lambda task, batch_size: 5)
    params = {"kernel": np.zeros((3, 4), np.float32)}
    program = types.SimpleNamespace(state=types.SimpleNamespace(params=params))
    monkeypatch.setattr(bound, "nbytes", lambda tree: 48 if tree is params else 148)
    assert bound.training(None, program, 8) == [Phase(5, 2 * 148 + 2 * 48)]


def test_dtypes_and_beams_of_the_work_on_text():
    assert text_shapes.WORK == ("train", "greedy", "beam", "greedy bfloat16")
    assert [text_shapes.beams(work) for work in text_shapes.WORK] == [0, 1, 4, 1]
    assert [text_shapes.dtype(work) for work in text_shapes.WORK] == ["float32"] * 3 + ["bfloat16"]


@pytest.mark.long
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_all_sides_train_the_same_model(step, monkeypatch):
    """As many parameters and operations, by PyTorch's own count; and all learn the batch that they see."""
    _torch()
    monkeypatch.chdir(ROOT)
    torch, counter = importlib.import_module("torch"), importlib.import_module("torch.utils.flop_counter")
    config, task, _ = load(step.config, step.words)
    batch = image_steps.random_batch(task, step.batch_size)
    sides = {
        "Tessera": turns.Tessera(config, task, lambda: batch),
        "PyTorch": image_steps.make_pytorch(config, task, batch, layout="channels last"),
    }
    if step.name == "ViT-S/16":
        sides["Linen alone"] = image_linen.Linen(config, task, batch)
    assert len({side.num_params for side in sides.values()}) == 1
    with (
        counter.FlopCounterMode(display=False) as counted,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        losses = {"PyTorch": [float(sides["PyTorch"].run())]}
    ours = flops.step_flops(task, step.batch_size)
    if step.name == "U-Net":  # JAX enlarges its logits by products with a matrix, forward and backward
        half, classes = [side // 2 for side in task.image_shape[:2]], task.model.num_classes
        small, large = (step.batch_size, *half, classes), (step.batch_size, *task.image_shape[:2], classes)
        ours -= 2 * flops.forward_flops(lambda x: jax.image.resize(x, large, "bilinear"), jnp.zeros(small))
    assert counted.get_total_flops() == ours
    for name, side in sides.items():
        losses[name] = losses.get(name, []) + [float(side.run()) for _ in range(12)]
        assert abs(losses[name][0] - math.log(task.model.num_classes)) < 1.5
        assert np.mean(losses[name][-4:]) < losses[name][0]


def test_random_batches_have_labels_of_the_task(monkeypatch):
    monkeypatch.chdir(ROOT)
    for step in STEPS:
        _, task, _ = load(step.config, step.words)
        batch = image_steps.random_batch(task, 4)
        target = batch["mask" if "mask" in batch else "label"]
        assert set(np.unique(target)) <= set(range(task.model.num_classes)) and target.max() > 0
        assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
            name: (spec.shape, spec.dtype) for name, spec in task.example(4).items()
        }
