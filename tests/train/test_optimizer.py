import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.spec import FieldError, flat
from research.spec.fields import infos
from research.train import optimizer
from research.train.lora import LoraSpec

PARAMS = {"body": {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.array([0.5])}, "head": {"kernel": jnp.array([3.0])}}
GRADS = jax.tree.map(lambda x: 0.1 * jnp.ones_like(x), PARAMS)


def make(name="sgd", **settings):
    return optimizer.OPTIMIZERS[name](**({"learning_rate": 0.1, "schedule": "constant"} | settings))


def one_update(config, steps=10):
    transform = optimizer.build(config, steps)
    return transform.update(GRADS, transform.init(PARAMS), PARAMS)[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cosine", lambda k: 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * (k - 4) / 16))),
        ("linear", lambda k: 1 - 0.9 * (k - 4) / 16),
        ("constant", lambda k: 1.0),
        ("rsqrt", lambda k: np.sqrt(4 / (k + 1))),
    ],
)
def test_schedules_follow_their_formulas(name, expected):
    rate = optimizer.schedule(make(schedule=name, warmup_steps=4, final_fraction=0.1, learning_rate=2.0), 20)
    for k in range(4):
        np.testing.assert_allclose(rate(k), 2.0 * (k + 1) / 4, rtol=1e-6)
    for k in (4, 9, 19):
        np.testing.assert_allclose(rate(k), 2.0 * expected(k), rtol=1e-5)


@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
def test_every_optimizer_decreases_a_quadratic(name):
    transform = optimizer.build(make(name, learning_rate=0.05), 60)
    loss = lambda params: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))

    def step(carry, _):
        params, state = carry
        updates, state = transform.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (PARAMS, transform.init(PARAMS)), length=60)
    assert loss(params) < 0.5 * loss(PARAMS)


def test_decay_acts_on_the_paths_that_match():
    updates = one_update(make(weight_decay=0.5, decay=("body/kernel",)))
    np.testing.assert_allclose(updates["body"]["kernel"], -0.1 * (0.1 + 0.5 * PARAMS["body"]["kernel"]), rtol=1e-6)
    np.testing.assert_allclose(updates["body"]["bias"], [-0.01], rtol=1e-6)
    np.testing.assert_allclose(updates["head"]["kernel"], [-0.01], rtol=1e-6)


def test_multipliers_scale_the_first_match():
    updates = one_update(make(multipliers=(("head", 10.0), ("kernel", 0.0))))
    np.testing.assert_allclose(updates["head"]["kernel"], [-0.1], rtol=1e-6)
    np.testing.assert_allclose(updates["body"]["kernel"], [0.0, 0.0])
    np.testing.assert_allclose(updates["body"]["bias"], [-0.01], rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({"multipliers": (("head", 1.0), ("blokcs", 0.0))}, "blokcs"),
        ({"decay": ("kernal",), "weight_decay": 0.1}, "kernal"),
    ],
)
def test_a_pattern_that_matches_no_parameter_is_refused(settings, pattern):
    with pytest.raises(ValueError, match=f"config.optimizer.{next(iter(settings))} .*'{pattern}'.*body/bias"):
        optimizer.check_patterns(make(**settings), LoraSpec(), PARAMS)
    optimizer.check_patterns(make(decay=("kernal",)), LoraSpec(), PARAMS)  # nothing decays


def test_clipping_bounds_the_global_norm():
    updates = one_update(make(clip_norm=0.05))
    np.testing.assert_allclose(optax.global_norm(updates), 0.1 * 0.05, rtol=1e-5)


def test_every_field_is_an_argument_of_optax_with_its_default():
    for name, spec in optimizer.OPTIMIZERS.items():
        arguments = inspect.signature(getattr(optax, name)).parameters
        own = set(flat(spec())) - {each.name for each in infos(optimizer.OptimizerSpec)}
        for field in own:
            assert arguments[field].default == getattr(spec(), field), (name, field)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "step"}, "schedule='step' is unknown; choose from constant, cosine"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0 must be at least 0"),
        ({"b1": 2.0}, "b1=2.0 must be at least 0 and less than 1"),
        ({"warmup_steps": -3}, "warmup_steps=-3 must be at least 0"),
        ({"final_fraction": -1.0}, "final_fraction=-1.0 must be between 0 and 1"),
        ({"clip_norm": -1.0}, "clip_norm=-1.0 must be at least 0"),
        ({"mu_dtype": "float99"}, "mu_dtype='float99' is unknown; choose from bfloat16"),
        ({"decay": ("(",)}, "decay=('(',) must be a regular expression, each of them"),
        ({"multipliers": (("(", 1.0),)}, "multipliers=(('(', 1.0),) must be (regular expression, factor) pairs"),
        ({"multipliers": (("head", 1.0, 2.0),)}, "multipliers=('head', 1.0, 2.0) has 3 items; it must have 2"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(FieldError) as caught:
        optimizer.AdamW(**settings)
    assert str(caught.value).startswith(message)


def test_the_learning_rate_falls_with_the_layers_above():
    """As in BEiT and MAE: layer i of n has decay^(n - i), embeddings decay^(n + 1), head and last norm 1."""
    table = (
        ("patches/kernel", (None, "embed")),
        ("blocks/mlp/kernel", ("layers", "embed", "mlp")),
        ("(norm|head)/.*", (None,)),
    )
    ones = {
        "patches": {"kernel": jnp.ones((2, 3))},
        "blocks": {"mlp": {"kernel": jnp.ones((4, 3, 5))}},
        "norm": {"scale": jnp.ones(3)},
        "head": {"bias": jnp.ones(7)},
    }
    spec = optimizer.SGD(learning_rate=1.0, schedule="constant", layer_decay=0.5)
    transform = optimizer.build(spec, 10, table)
    updates, _ = transform.update(ones, transform.init(ones), ones)
    of_layer = -np.broadcast_to(0.5 ** np.array([4, 3, 2, 1])[:, None, None], (4, 3, 5))
    np.testing.assert_allclose(updates["blocks"]["mlp"]["kernel"], of_layer)
    np.testing.assert_allclose(updates["patches"]["kernel"], np.full((2, 3), -(0.5**5)))
    assert (updates["norm"]["scale"] == -1).all() and (updates["head"]["bias"] == -1).all()
    with pytest.raises(ValueError, match=r"layer_decay=0.5 needs the logical axes"):
        optimizer.build(spec, 10)
