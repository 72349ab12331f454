"""The loss of distillation against its formula in NumPy, in the step of a mesh, and what is refused."""

import functools

import jax
import numpy as np
import pytest

from research.parallel import mesh as mesh_lib
from research.spec import FieldError
from research.tasks import classification, distillation
from research.tasks.distillation import DistillSpec
from research.train import feed
from research.train.program import build_program
from tests.parallel import equivalence
from tests.tasks import test_classification, test_text_classification
from tests.train import toy

SPEC = DistillSpec(teacher="runs/any", temperature=3.0, weight=0.7)


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def by_formula(student, teacher, labels, smoothing=0.0):
    """Of each example, from logits: weight T^2 KL + (1 - weight) cross-entropy, with 0.7 and T = 3."""
    p, q = log_softmax(teacher / 3.0), log_softmax(student / 3.0)
    soft = 9.0 * (np.exp(p) * (p - q)).sum(-1)
    targets = np.eye(student.shape[-1])[labels] * (1 - smoothing) + smoothing / student.shape[-1]
    return 0.7 * soft - 0.3 * (targets * log_softmax(student)).sum(-1)


def value(student, teacher, of_teacher, variables, batch, spec=SPEC):
    loss = jax.jit(
        lambda variables: distillation.loss(
            spec, student, teacher, of_teacher, variables, batch, student.totals(batch), jax.random.key(0)
        )
    )
    return loss(variables)


def linear(seed, mean=100.0, std=50.0, **spec):
    """A linear classifier of images, with its variables and its logits in NumPy."""
    task = classification.ClassificationTask(
        test_classification.Linear(), (4, 4, 1), (mean,), (std,), classification.ClassificationSpec(**spec)
    )
    kernel = np.random.default_rng(seed).normal(size=(16, 3)).astype(np.float32)
    bias = np.arange(3, dtype=np.float32)
    logits = lambda images: (images.reshape(-1, 16).astype(np.float64) - mean) / std @ kernel + bias
    return task, {"params": {"head": {"kernel": kernel, "bias": bias}}}, logits


def test_images_have_the_loss_of_the_formula_whatever_each_normalises_with():
    student, variables, ours = linear(1, label_smoothing=0.1)
    teacher, of_teacher, theirs = linear(2, mean=90.0, std=70.0)
    batch = test_classification.make_batch()
    found, (_, sums) = value(student, teacher, of_teacher, variables, batch)
    losses = by_formula(ours(batch["image"]), theirs(batch["image"]), batch["label"], 0.1) * batch["weight"]
    np.testing.assert_allclose(found, losses.sum() / 4, rtol=1e-5)
    np.testing.assert_allclose(sums["loss"], (losses.sum(), 4), rtol=1e-5)


def test_the_teacher_sees_the_images_that_the_student_sees():
    """Taught by itself, the divergence of a student is 0 on mixed images, and only on the same ones."""
    student, variables, _ = linear(1, mixup=0.8)
    batch, key = test_classification.make_batch(16), jax.random.key(0)
    totals = student.totals(batch)
    taught_by = lambda of: distillation.loss(SPEC, student, student, of, variables, batch, totals, key)[0]

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def losses(other):
        return student.loss(variables, batch, totals, key)[0], taught_by(variables), taught_by(other)

    plain, by_itself, by_another = losses(linear(2)[1])
    np.testing.assert_allclose(by_itself, 0.3 * plain, rtol=1e-5)
    assert by_another > by_itself + 0.1


def test_texts_that_share_rows_have_the_loss_of_the_formula():
    make, rows = test_text_classification.make_task, test_text_classification.rows
    student = teacher = make()
    model = student.model
    zeros = np.zeros((1, 8), np.int32), np.ones((1, 8), np.int32)
    variables = test_text_classification.randomised(model, *zeros)
    of_teacher = jax.tree.map(lambda leaf: leaf[..., ::-1] if leaf.ndim else leaf, variables)
    alone = rows((0,), (1,), (2,), (3,))
    logits = [
        np.asarray(model.apply(each, alone["source"], alone["source_segments"])) for each in (variables, of_teacher)
    ]
    expected = by_formula(*logits, np.array(test_text_classification.LABELS)).mean()
    found, _ = value(student, teacher, of_teacher, variables, rows((0, 1), (2, 3)))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@functools.cache
def steps(sizes=(1, 1, 1), weight=0.7, taught=True):
    """The program, the state after three steps and the teacher, before and after them."""
    config = toy.make_config(
        mesh=dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)) | {"sequence": 1},
        distill={"teacher": "runs/any" if taught else "", "temperature": 3.0, "weight": weight},
    )
    mesh = mesh_lib.make_mesh(config.mesh.sizes, jax.devices()[: int(np.prod(sizes))])
    wide = toy.make_task(mixup=0.0)
    teacher = type(wide)(toy.Net(width=32), wide.image_shape, (100.0,), (60.0,), wide.spec) if taught else None
    program = build_program(config, toy.make_task(mixup=0.0), mesh, teacher)
    rng = np.random.default_rng(3)
    draw = lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(leaf.dtype)  # variances, too
    before = jax.tree.map(draw, program.teacher)
    placed = jax.tree.map(lambda leaf, like: jax.device_put(leaf, like.sharding), before, program.teacher)
    state = program.init()
    for k in range(3):
        batch = feed.to_mesh(next(toy.Data().train_batches(0, 16, start=k)), program.batch_sharding)
        state, metrics = program.train_step(state, batch, *placed)
    return program, jax.device_get((state, metrics)), before, placed


def test_a_step_on_a_mesh_is_the_step_of_one_device_and_leaves_the_teacher_alone():
    (_, (one, ours), _, _), (program, (many, theirs), before, after) = steps(), steps((2, 2, 2))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    jax.tree.map(close, (one.params, one.ema, ours["loss"]), (many.params, many.ema, theirs["loss"]))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after), before)
    (teacher,) = program.teacher
    assert teacher["params"]["hidden"]["kernel"].sharding.spec == jax.P("fsdp", "tensor")  # as the student's
    assert program.state.params["hidden"]["kernel"].sharding.spec == jax.P("fsdp", "tensor")
    leaves = {leaf.shape for leaf in jax.tree.leaves(program.state)}
    assert (16, 16) in leaves and (16, 32) not in leaves  # neither in the state, nor in what is saved


def test_without_weight_it_is_training_without_a_teacher():
    _, (plain, without), _, _ = steps(taught=False)
    _, (zero, silent), _, _ = steps(weight=0.0)
    _, (taught, _), _, _ = steps()
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, (plain.params, without["loss"]), (zero.params, silent["loss"]))
    assert np.abs(plain.params["head"]["kernel"] - taught.params["head"]["kernel"]).max() > 1e-3


def test_the_teacher_is_in_inference_mode():
    """Its batch norm uses what it has learnt and its dropout is off: the same logits at every step and batch."""
    task = toy.make_task()
    variables = task.init(jax.random.key(0))
    batch = next(toy.Data().train_batches(0, 8))
    whole = task.logits(variables, batch)
    rows = [task.logits(variables, {name: array[k : k + 1] for name, array in batch.items()}) for k in range(8)]
    np.testing.assert_allclose(np.concatenate(rows), whole, rtol=1e-4, atol=1e-6)


def test_what_has_no_classes_and_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"for classes of images, clips and texts, and not for a Seq2SeqTask"):
        distillation.distillable(equivalence.make_task("t5", "float32"))
    with pytest.raises(ValueError, match="and not for a FaceTask; leave it empty"):
        distillation.distillable(equivalence.make_task("faces", "float32"))
    with pytest.raises(FieldError, match=r"temperature=0.0 must be greater than 0"):
        DistillSpec(temperature=0.0)
    with pytest.raises(FieldError, match=r"weight=1.5 must be between 0 and 1"):
        DistillSpec(weight=1.5)
