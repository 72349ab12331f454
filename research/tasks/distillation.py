"""Distillation (Hinton et al., 2015): a student learns the probabilities of a trained teacher beside the labels."""

from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.spec import Spec, checks, field
from research.spec.contracts import Batch, LossAux, Totals, Variables
from research.tasks.classification import LabelTask, Soften
from research.tasks.text_classification import TextClassificationTask


class DistillSpec(Spec, tag="distill"):
    """Distillation of a classifier: weight * T^2 * KL(teacher || student) + (1 - weight) * the loss of the labels.

    Both distributions are softmaxes of logits / T. T^2 makes the gradients of the first term as large as those of the
    second for every T (Hinton et al., 2015, section 2).
    """

    teacher: str = field(default="", doc="the run directory of the teacher; none: off")
    temperature: float = field(default=2.0, check=checks.above(0) & checks.at_most(1000), doc="T")
    weight: float = field(
        default=0.5, check=checks.between(0, 1), doc="weight of the teacher; 1 - weight: of the labels"
    )


class Distillable(Protocol):
    """A task whose loss can take a teacher's probabilities."""

    def softened_loss(
        self, variables: Variables, batch: Batch, totals: Totals, rng: jax.Array, soften: Soften
    ) -> tuple[jax.Array, LossAux]:
        """As `Task.loss`, with `soften(losses, logits, batch)` in place of the losses of the examples."""
        ...

    def logits(self, variables: Variables, batch: Batch) -> jax.Array:
        """The logits [..., classes] in inference mode."""
        ...


def distillable(task: object) -> LabelTask | TextClassificationTask:
    """`task`. Raises ValueError for one whose loss cannot take a teacher's probabilities."""
    if not isinstance(task, LabelTask | TextClassificationTask):
        raise ValueError(
            f"config.distill.teacher is for classes of images, clips and texts, and not for a {type(task).__name__}; "
            "leave it empty"
        )
    return task


def loss(
    spec: DistillSpec,
    student: Distillable,
    teacher: Distillable,
    of_teacher: Variables,
    variables: Variables,
    batch: Batch,
    totals: Totals,
    rng: jax.Array,
) -> tuple[Float[Array, ""], LossAux]:
    """The loss of `student` with `variables`, with `teacher` as the teacher, whose variables `of_teacher` are constant.

    The teacher is in inference mode and sees what the student sees: the same crops, mixed images and tokens.
    """

    def soften(losses: jax.Array, logits: jax.Array, seen: Batch) -> jax.Array:
        theirs = jax.lax.stop_gradient(teacher.logits(of_teacher, seen))
        return spec.weight * soft_loss(logits, theirs, spec.temperature) + (1 - spec.weight) * losses

    return student.softened_loss(variables, batch, totals, rng, soften)


def soft_loss(
    student: Float[Array, "*batch classes"], teacher: Float[Array, "*batch classes"], temperature: float
) -> Float[Array, "*batch"]:
    """T^2 KL(teacher || student) of each example, of softmaxes of logits / T."""
    dtype = jnp.promote_types(student.dtype, jnp.float32)
    ours, theirs = (jax.nn.log_softmax(logits.astype(dtype) / temperature) for logits in (student, teacher))
    return temperature**2 * (jnp.exp(theirs) * (theirs - ours)).sum(-1)
