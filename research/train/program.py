"""The sharded program of a config on a mesh: init, train step, eval step, predict step.

The trainer runs it, the planner compiles it ahead of time, the benchmark times it, and the tests compare it across
meshes.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.stages import Wrapped

from research.checkpoint.checksums import tree_checksums
from research.checkpoint.leaves import parameter_path
from research.parallel import mesh as mesh_lib
from research.parallel import sharding
from research.spec.contracts import DataT, Task, Tree, Variables
from research.tasks import distillation
from research.train import clipping, lora, optimizer, privacy, unfreezing
from research.train.settings import Experiment


@struct.dataclass
class TrainState:
    """The state that a step updates. `mutable` holds batch statistics, for example; `ema` moving averages."""

    step: jax.Array
    params: Mapping[str, Tree]
    mutable: Variables
    opt_state: optax.OptState
    ema: Variables

    @property
    def variables(self) -> Variables:
        """The variables that are trained."""
        return {"params": self.params, **self.mutable}

    @property
    def evaluated(self) -> Variables:
        """The variables that are evaluated: the EMA if there is one."""
        return self.ema or self.variables


@dataclasses.dataclass(frozen=True)
class ShardedProgram:
    """Jitted functions with explicit shardings; each can also be lowered on the abstract `state` and a batch.

    `init() -> state`, `train_step(state, batch, *teacher) -> (state, metrics)` (the state is donated; `teacher` are the
    variables of one, where there is one), `eval_step(variables, batch) -> sums`, `predict_step(variables, batch, rng)
    -> outputs` with the `index` and `weight` of the batch, `checksums(state) -> uint32 [leaves]`.
    """

    mesh: Mesh
    init: Wrapped
    train_step: Wrapped
    eval_step: Wrapped
    predict_step: Wrapped
    checksums: Wrapped
    state: TrainState  # abstract: shapes, dtypes and shardings
    batch_sharding: NamedSharding
    num_trained: int  # parameters that are not frozen
    frozen: frozenset[str]  # the paths of the leaves of `state` that no step changes
    teacher: tuple[Variables, ...] = ()  # abstract, as `state`; none or one

    @property
    def optimizer_bytes(self) -> int:
        """The size of the optimizer state, over all devices."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.state.opt_state))

    @property
    def num_params(self) -> int:
        """The number of parameters, including frozen ones."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.state.params))


def build_program(config: Experiment, task: Task[DataT], mesh: Mesh, teacher: Any = None) -> ShardedProgram:
    """The program of `config` and `task` on `mesh`; nothing is computed here, so the mesh need not be attached.

    With `teacher`, the task of another run, the step distils as `config.distill` says.

    Raises ValueError as `abstract_state` does.
    """
    train = config.train
    init, transform = _initialiser(config, task)
    learning_rate = optimizer.schedule(config.optimizer, train.steps)
    # XLA's convolutions are slow inside a loop on a CPU: a ResNet step with 4 microbatches took 17 times as long.
    accumulate = functools.partial(
        _accumulate, microbatches=train.microbatches, unroll=mesh_lib.platform(mesh) == "cpu"
    )
    trained = functools.partial(optimizer.trained, config.optimizer, config.lora)
    taught = None
    if teacher is not None:
        student = distillation.distillable(task)
        taught = functools.partial(distillation.loss, config.distill, student, teacher)
    private = functools.partial(_private_gradients, config) if config.privacy.on else None
    train_step = functools.partial(
        _train_step, task, taught, private, transform, trained, learning_rate, config.seed, accumulate, train.ema
    )

    state = abstract_state(config, task, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    variables = shardings.evaluated
    of_teacher = () if teacher is None else (_abstract_variables(teacher, mesh),)
    to_teacher = jax.tree.map(lambda leaf: leaf.sharding, of_teacher)
    batch, replicated = sharding.batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())

    def predict(variables, batch, rng):
        # Of the global batch, since the scoring process holds only its own rows.
        return {**task.predict(variables, batch, rng), "index": batch["index"], "weight": batch["weight"]}

    compiler_options = _compiler_options(mesh_lib.platform(mesh))

    def jit(function, in_shardings, out_shardings, **options):
        @functools.wraps(function)
        def traced(*args):
            with sharding.constraints_for(mesh):
                return function(*args)

        return jax.jit(
            traced, in_shardings=in_shardings, out_shardings=out_shardings, compiler_options=compiler_options, **options
        )

    return ShardedProgram(
        mesh=mesh,
        init=jit(init, (), shardings),
        train_step=jit(train_step, (shardings, batch, *to_teacher), (shardings, replicated), donate_argnums=0),
        eval_step=jit(task.evaluate, (variables, batch), replicated),
        predict_step=jit(predict, (variables, batch, replicated), replicated),
        checksums=jit(tree_checksums, (shardings,), replicated),
        state=state,
        batch_sharding=batch,
        num_trained=sum(leaf.size for leaf in jax.tree.leaves(trained(state.params))),
        frozen=_frozen(state, trained(state.params)),
        teacher=of_teacher,
    )


def _abstract_variables(task: Any, mesh: Mesh) -> Variables:
    """The shapes, dtypes and shardings of the variables of `task`, which are sharded as those of a state are."""
    variables = jax.eval_shape(lambda: task.init(jax.random.key(0)))
    placed = {name: sharding.parameter_shardings(tree, task.logical_axes, mesh) for name, tree in variables.items()}
    return jax.tree.map(
        lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to), dict(variables), placed
    )


def _frozen(state: TrainState, trained: Mapping[str, Any]) -> frozenset[str]:
    """The paths in `state` of the parameters that are not `trained`, and of their averages."""
    paths = lambda tree: {sharding.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}
    still = paths(state.params) - paths(trained)
    averages = {f"ema/params/{path}" for path in still} if state.ema else set()
    return frozenset({f"params/{path}" for path in still} | averages)


def abstract_state(config: Experiment, task: Task[DataT], mesh: Mesh) -> TrainState:
    """The shapes, dtypes and shardings of the state of `config` and `task` on `mesh`.

    Raises ValueError if the model shards no array over an axis of the mesh, if fsdp shards too small a part of a large
    model, if a pattern of the optimizer matches no parameter, or if it cannot be trained with differential privacy.
    """
    with sharding.constraints_for(mesh) as used:
        state = jax.eval_shape(_initialiser(config, task)[0])
    optimizer.check_patterns(config.optimizer, config.lora, state.params)
    privacy.check(config, task, state.mutable)
    table = lora.with_updates(task.logical_axes, config.lora, state.params)
    unfreezing.check(config.optimizer.unfreeze, optimizer.trained(config.optimizer, config.lora, state.params), table)
    sharding.check_used(used, mesh)
    shardings = _state_shardings(state, table, mesh)
    sharding.check_split(state.params, shardings.params, mesh)
    return jax.tree.map(lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to), state, shardings)


@functools.cache
def _compiler_options(platform: str) -> dict[str, str]:
    """Compiler options where XLA's defaults are slow."""
    # YNNPACK, which XLA uses for sums and products on a CPU, takes 40 times as long to sum over a leading axis: steps
    # of encoder-decoders took 1.25 to 1.35 times as long (jax 0.10.2).
    options = {"xla_cpu_experimental_ynn_fusion_type": ""} if platform == "cpu" else {}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # a version without these options
        return {}
    return options


def _initialiser(config, task):
    """`(init, transform)`: a function that initialises the state, and the optimizer."""
    table = task.logical_axes
    initial = functools.partial(_initial_variables, task, config.lora, config.seed)
    if config.lora.adapts:
        table = lora.with_updates(table, config.lora, jax.eval_shape(initial)["params"])
    transform = optimizer.build(config.optimizer, config.train.steps, table)
    trained = functools.partial(optimizer.trained, config.optimizer, config.lora)
    return functools.partial(_init, initial, transform, trained, bool(config.train.ema)), transform


def _initial_variables(task, updates: lora.LoraSpec, seed: int) -> dict[str, Any]:
    key = jax.random.key(seed)
    variables = dict(task.init(key))
    if updates.adapts:
        variables["params"] = lora.add(updates, variables["params"], jax.random.fold_in(key, 1), task.logical_axes)
    return variables


def _init(initial, transform, trained, with_ema) -> TrainState:
    variables = initial()
    params = variables["params"]
    mutable = {name: tree for name, tree in variables.items() if name != "params"}
    # Copies, since a buffer must not be donated twice.
    ema = jax.tree.map(lambda leaf: jnp.copy(_at_least_float32(leaf)), variables) if with_ema else {}
    return TrainState(jnp.zeros((), jnp.int32), params, mutable, transform.init(trained(params)), ema)


def _train_step(
    task, taught, private, transform, trained, learning_rate, seed, accumulate, ema_decay, state: TrainState, batch,
    *teacher,
):  # fmt: skip
    of_task = functools.partial(taught, *teacher) if teacher else task.loss
    rng = jax.random.fold_in(jax.random.key(seed), state.step)
    totals, before = task.totals(batch), trained(state.params)

    def gradients(mutable, microbatch, index):
        loss = lambda params: of_task(
            {"params": optimizer.merged(state.params, params), **mutable},
            microbatch,
            totals,
            jax.random.fold_in(rng, index),
        )
        (_, (mutable, sums)), grads = jax.value_and_grad(loss, has_aux=True)(before)
        return mutable, (grads, sums)

    if private:
        mutable, (grads, sums) = private(task, accumulate, before, state, batch, rng)
    else:
        mutable, (grads, sums) = accumulate(gradients, state.mutable, batch)
    updates, opt_state = transform.update(grads, state.opt_state, before)
    params = optimizer.merged(state.params, optax.apply_updates(before, updates))
    ema = state.ema
    if ema_decay:
        # With warm-up, so that the average of a short run is not dominated by the initial weights.
        decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
        average = lambda old, new: old + (1 - decay).astype(old.dtype) * (new.astype(old.dtype) - old)
        own = {"params": trained(ema["params"]), **{name: ema[name] for name in mutable}}
        own = jax.tree.map(average, own, {"params": trained(params), **mutable})
        ema = own | {"params": optimizer.merged(ema["params"], own["params"])}
    metrics = {name: total / jnp.maximum(weight, 1) for name, (total, weight) in sums.items()}
    metrics |= {"grad_norm": optax.global_norm(grads), "learning_rate": learning_rate(state.step)}
    return TrainState(state.step + 1, params, mutable, opt_state, ema), metrics


def _private_gradients(config: Experiment, task, accumulate, trained, state: TrainState, batch, rng):
    """As `accumulate` of the gradients of `trained`: those of DP-SGD, see clipping.py."""
    settings, parts = config.privacy, config.train.microbatches

    def loss(params, one, key):
        variables = {"params": optimizer.merged(state.params, params)}
        return task.loss(variables, one, task.totals(one), key)

    def gradients(mutable, microbatch, index):
        rows = index + parts * jnp.arange(len(microbatch["weight"]))
        return mutable, clipping.clipped_sum(loss, trained, microbatch, rows, rng, settings.clip_norm)

    mutable, (grads, sums) = accumulate(gradients, state.mutable, batch)
    deviation = settings.noise_multiplier * settings.clip_norm
    grads = clipping.noisy_mean(grads, config.seed, state.step, deviation, config.train.batch_size)
    return mutable, (grads, sums)


def _at_least_float32(leaf: jax.Array) -> jax.Array:
    """`leaf` in at least float32, since sums and averages in bfloat16 would lose small terms."""
    floating = jnp.issubdtype(leaf.dtype, jnp.floating)
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) if floating else leaf


def _accumulate(gradients, mutable, batch, microbatches: int, unroll: bool):
    """Accumulates gradients and metrics over the microbatches.

    Microbatch m is rows m, m + M, ...: every device slices its own rows, without communication. Sums are accumulated
    in at least float32, independent of the dtype of the parameters.
    """
    if microbatches == 1:
        return gradients(mutable, batch, 0)
    split = jax.tree.map(lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1), batch)

    def body(carry, row):
        mutable, total = carry
        mutable, new = gradients(mutable, *row)
        return (mutable, jax.tree.map(lambda sum, part: sum + part.astype(sum.dtype), total, new)), None

    first = jax.tree.map(lambda x: x[0], split)
    shapes = jax.eval_shape(gradients, mutable, first, 0)[1]
    zeros = jax.tree.map(lambda leaf: _at_least_float32(jnp.zeros(leaf.shape, leaf.dtype)), shapes)
    carry, _ = jax.lax.scan(body, (mutable, zeros), (split, jnp.arange(microbatches)), unroll=unroll)
    return carry


def with_values(state: TrainState, values: Mapping[str, np.ndarray]) -> TrainState:
    """`state` with the parameters and statistics at the paths of `values`, and their averages, replaced by these."""

    def replaced(path, leaf):
        value = values.get(parameter_path(sharding.path_name(path)) or "")
        if value is None:
            return leaf
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: value[index].astype(leaf.dtype))

    return jax.tree_util.tree_map_with_path(replaced, state)


def _state_shardings(state: TrainState, table, mesh: Mesh) -> TrainState:
    variables = lambda tree: sharding.parameter_shardings(tree, table, mesh)
    collections = lambda trees: {name: variables(tree) for name, tree in trees.items()}
    return TrainState(
        step=NamedSharding(mesh, PartitionSpec()),  # pyright: ignore[reportArgumentType]  in place of an array
        params=variables(state.params),
        mutable=collections(state.mutable),
        opt_state=sharding.optimizer_shardings(state.opt_state, state.params, table, mesh),
        ema=collections(state.ema),
    )
