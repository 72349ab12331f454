"""ViT against an implementation in NumPy, and its switches against each other."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models import dot_product, layers, positions, remat, vit
from research.models.attention import Context
from research.parallel import mesh as mesh_lib
from research.parallel import sharding

SMALL = {"image_size": 8, "patch_size": 4, "width": 16, "depth": 3, "mlp_dim": 24, "num_heads": 2}


def images(seed=0, count=2):
    return np.random.default_rng(seed).normal(size=(count, 8, 8, 3)).astype(np.float32)


def build(seed=0, **settings):
    """A model and random variables: the head starts at zero, which would hide everything before it."""
    model = vit.ViT.of(5, **(SMALL | settings))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images()))
    rng = np.random.default_rng(seed)
    return model, jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(leaf.dtype), shapes)


def layer_norm(x, p, epsilon=1e-6):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    return x * p["scale"] + p.get("bias", 0)


def rms_norm(x, p, epsilon=1e-6):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * p["scale"]


NORMS = {"layer": layer_norm, "rms": rms_norm}


def numpy_gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def numpy_attention(x, p, qk_norm, numpy_norm):
    q, k, v = (np.einsum("ble,ehd->bhld", x, p[n]["kernel"]) for n in ("query", "key", "value"))
    q, k, v = (
        a + p[n]["bias"][None, :, None] if "bias" in p[n] else a for a, n in ((q, "query"), (k, "key"), (v, "value"))
    )
    if qk_norm:
        q, k = numpy_norm(q, p["query_norm"]), numpy_norm(k, p["key_norm"])
    scores = np.einsum("bhld,bhmd->bhlm", q, k) / math.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhlm,bhmd,hde->ble", weights, v, p["out"]["kernel"]) + p["out"]["bias"]


def numpy_vit(images, params, parallel=False, qk_norm=False, pool="cls", norm="layer"):
    numpy_norm = NORMS[norm]
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    kernel = p["patches"]["kernel"]
    size, count = kernel.shape[0], len(images)
    side = images.shape[1] // size
    cut = images.reshape(count, side, size, side, size, 3).transpose(0, 1, 3, 2, 4, 5).reshape(count, side * side, -1)
    x = cut @ kernel.reshape(-1, kernel.shape[-1]) + p["patches"]["bias"]
    if pool == "cls":
        x = np.concatenate([np.broadcast_to(p["cls"], (count, 1, x.shape[-1])), x], 1)
    x = x + p["positions"]
    for layer in range(len(p["blocks"]["mlp"]["up"]["bias"])):
        b = jax.tree.map(lambda leaf, layer=layer: leaf[layer], p["blocks"])
        mlp = lambda y, b=b: (
            numpy_gelu(y @ b["mlp"]["up"]["kernel"] + b["mlp"]["up"]["bias"]) @ b["mlp"]["down"]["kernel"]
            + b["mlp"]["down"]["bias"]
        )
        y = numpy_norm(x, b["norm" if parallel else "attention_norm"])
        if parallel:
            x = x + numpy_attention(y, b["attention"], qk_norm, numpy_norm) + mlp(y)
        else:
            x = x + numpy_attention(y, b["attention"], qk_norm, numpy_norm)
            x = x + mlp(numpy_norm(x, b["mlp_norm"]))
    x = numpy_norm(x, p["norm"])
    return (x[:, 0] if pool == "cls" else x.mean(1)) @ p["head"]["kernel"] + p["head"]["bias"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pool": "mean"},
        {"parallel": True, "qk_norm": True, "qkv_bias": False, "norm": "rms"},
        {"key_bias": False, "qk_norm": True},
    ],
)
def test_forward_equals_numpy(settings):
    model, variables = build(**settings)
    options = {k: v for k, v in settings.items() if k in ("parallel", "qk_norm", "pool", "norm")}
    expected = numpy_vit(images(), variables["params"], **options)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, images()), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("settings", [{"unroll": 3}, {"remat": "full"}, {"remat": "dots"}, {"remat": "operands"}])
def test_unroll_and_remat_change_no_gradient(settings):
    def gradients(model, variables):
        loss = lambda v: (model.apply(v, images(), train=True, rngs={"dropout": jax.random.key(1)}) ** 2).sum()
        return jax.jit(jax.grad(loss))(variables)

    plain, variables = build(dropout=0.2, stochastic_depth=0.3)
    other, _ = build(dropout=0.2, stochastic_depth=0.3, **settings)
    close = functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=1e-3)
    jax.tree.map(close, gradients(plain, variables), gradients(other, variables))


def test_a_gathered_kernel_is_multiplied_as_any_other():
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((3, 5, 8), (8, 4, 2)))
    dimensions = (((2,), (0,)), ((), ()))
    mesh = mesh_lib.make_mesh(dict.fromkeys(mesh_lib.AXES, 1) | {"fsdp": 8}, jax.devices())
    placed = jax.device_put(kernel, jax.NamedSharding(mesh, jax.P("fsdp")))

    def gathered(x, kernel):
        with sharding.constraints_for(mesh):
            return (dot_product.dot_gathered((None, "heads", "kv"), x, kernel, dimensions) ** 2).sum()

    plain = lambda x, kernel: (jax.lax.dot_general(x, kernel, dimensions) ** 2).sum()
    expected = jax.value_and_grad(plain, (0, 1))(x, kernel)
    chex.assert_trees_all_close(
        jax.jit(jax.value_and_grad(gathered, (0, 1)))(x, placed), expected, rtol=1e-5, atol=1e-6
    )


def test_remat_operands_saves_matmul_inputs_alone():
    """In bfloat16, of [8, 4, 16] tokens with an MLP of 4 times their width: 16 arrays of that size a layer, no float32.

    What a norm takes and gives, twice; query, key, value, the heads' answer; before and behind the activation.
    """
    x = jnp.zeros((8, 4, 16), "bfloat16")
    spec = vit.ViTSpec(width=16, mlp_dim=64, num_heads=2, depth=1, remat="operands", attention="xla")
    ((_, make),) = vit.make_stack(spec, {"dtype": "bfloat16", "param_dtype": "float32"}, "pre", vit.MIXERS)().pattern
    block = make(parent=None)
    variables = jax.eval_shape(lambda: block.init({"params": jax.random.key(0)}, x, Context()))
    apply = remat.remat(lambda v, x: block.apply(v, x, Context()), spec.remat)
    kept = jax.tree.leaves(jax.eval_shape(lambda v, x: jax.vjp(apply, v, x)[1], variables, x))
    tokens = [leaf for leaf in kept if leaf.shape[0] == 8]
    assert {leaf.dtype.name for leaf in tokens} == {"bfloat16"}
    assert sum(leaf.size for leaf in tokens) == 16 * x.size


@pytest.mark.parametrize(("unroll", "barriers"), [(1, False), (2, False), (3, True), (4, True)])
def test_remat_keeps_the_compiler_from_merging_layers_that_are_in_no_loop(unroll, barriers):
    model, variables = build(remat="full", unroll=unroll)
    text = jax.jit(jax.grad(lambda v: model.apply(v, images()).sum())).lower(variables).as_text()
    assert ("optimization_barrier" in text) == barriers


def test_the_stem_doubles_its_channels_up_to_the_given_width():
    widths = lambda **settings: [
        build(patch_size=4, stem="conv", **settings)[1]["params"]["stem"][f"conv{i}"]["kernel"].shape[-1]
        for i in (1, 2)
    ]
    assert widths() == [4, 8]
    assert widths(stem_width=16) == [8, 16]  # Xiao et al.: the last has the width of the tokens


def test_attention_in_float64_rounds_nothing_to_float32():
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 2, 5, 2, 4))
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) / 2
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    with jax.enable_x64(True):
        given = jax.jit(dot_product.attention)(q, k, v)
    np.testing.assert_allclose(given, np.einsum("bhqk,bkhd->bqhd", weights, v), rtol=1e-13)


@pytest.mark.parametrize(
    ("platform", "shape", "dtype", "sizes", "expected"),
    [
        ("gpu", (2, 197, 6, 64), "bfloat16", (2, 1, 2, 1), "cudnn"),
        ("gpu", (2, 197, 6, 64), "float16", (4, 1, 1, 1), "cudnn"),
        ("tpu", (2, 197, 6, 64), "bfloat16", (4, 1, 1, 1), "needs an NVIDIA GPU, not tpu"),
        ("gpu", (2, 197, 6, 64), "float32", (4, 1, 1, 1), "needs precision.compute='bfloat16' or 'float16'"),
        ("gpu", (2, 197, 6, 36), "bfloat16", (4, 1, 1, 1), "multiple of 8"),
        ("gpu", (2, 196, 6, 64), "bfloat16", (2, 1, 1, 2), "mesh.sequence=1"),
        ("gpu", (2, 197, 6, 64), "bfloat16", (1, 1, 4, 1), "a mesh.tensor that divides 6 heads"),
    ],
)
def test_cudnn_is_taken_where_it_can_be_had(monkeypatch, platform, shape, dtype, sizes, expected):
    taken = []
    monkeypatch.setattr(dot_product, "platform", lambda: platform)
    fake = lambda query, *_, implementation, **__: taken.append(implementation) or query
    monkeypatch.setattr(jax.nn, "dot_product_attention", fake)
    mesh = mesh_lib.make_mesh(dict(zip(mesh_lib.AXES, sizes, strict=True)), jax.devices()[: math.prod(sizes)])
    x = jnp.zeros(shape, dtype)
    with sharding.constraints_for(mesh):
        dot_product.attention(x, x, x, "auto")
        dot_product.attention(x, x, x, "xla")
        assert taken == ["cudnn" if expected == "cudnn" else "xla", "xla"]
        if expected == "cudnn":
            dot_product.attention(x, x, x, "cudnn")
            assert taken[-1] == "cudnn"
        else:
            with pytest.raises(ValueError, match=f"^attention='cudnn' .*{expected}.*; use 'auto' or 'xla'"):
                dot_product.attention(x, x, x, "cudnn")


@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (5, 6), (6, 5)])
def test_cudnn_is_given_even_lengths_and_told_what_is_real(monkeypatch, queries, keys):
    """XLA's attention in cuDNN's place, which would refuse odd lengths in training."""
    xla, rng = jax.nn.dot_product_attention, np.random.default_rng(0)
    query, key, value = (
        jnp.asarray(rng.normal(size=(2, length, 3, 8)), "bfloat16") for length in (queries, keys, keys)
    )

    def cudnn(*parts, implementation, **lengths):
        assert implementation == "cudnn" and all(part.shape[1] % 2 == 0 for part in parts)
        return xla(*parts, implementation="xla", **lengths)

    expected = xla(query, key, value, implementation="xla")
    monkeypatch.setattr(jax.nn, "dot_product_attention", cudnn)
    monkeypatch.setattr(dot_product, "_no_cudnn", lambda *_: "")
    given = dot_product.attention(query, key, value, "cudnn")
    chex.assert_trees_all_close(given.astype("float32"), expected.astype("float32"), rtol=1e-2, atol=1e-2)


def test_evaluation_ignores_dropout_and_training_does_not():
    model, variables = build(dropout=0.5, stochastic_depth=0.5)
    plain, _ = build()
    evaluate = lambda model: jax.jit(model.apply)(variables, images())
    np.testing.assert_array_equal(evaluate(model), evaluate(plain))
    train = jax.jit(lambda key: model.apply(variables, images(), train=True, rngs={"dropout": jax.random.key(key)}))
    assert not np.allclose(train(0), train(1))
    np.testing.assert_array_equal(train(0), train(0))


def test_stochastic_depth_keeps_the_mean_and_drops_whole_examples():
    x = jnp.ones((4000, 2, 3))
    y = np.asarray(layers.StochasticDepth().apply({}, x, 0.25, True, rngs={"dropout": jax.random.key(0)}))
    assert set(np.unique(y).round(4)) == {0.0, np.float32(1.3333)}
    assert (y == y[:, :1, :1]).all()
    assert abs((y[:, 0, 0] == 0).mean() - 0.25) < 0.025
    assert layers.StochasticDepth().apply({}, x, 0.25, False) is x


def test_stochastic_depth_grows_linearly_over_the_layers():
    """At a rate of nearly 1 the last layer is always dropped, the first never: what is left is a ViT of one layer."""
    model, variables = build(depth=2, stochastic_depth=1 - 1e-6)
    params = variables["params"] | {"blocks": jax.tree.map(lambda leaf: leaf[:1], variables["params"]["blocks"])}
    one, _ = build(depth=1)
    train = jax.jit(lambda v: model.apply(v, images(), train=True, rngs={"dropout": jax.random.key(0)}))
    np.testing.assert_allclose(train(variables), jax.jit(one.apply)({"params": params}, images()), rtol=1e-4, atol=1e-4)


def test_sincos_positions_follow_their_formula():
    table = positions.sincos_positions(3, 4, 8)
    frequency = 10_000.0 ** -np.array([0.0, 1.0])
    for row in range(3):
        for column in range(4):
            expected = [f(a * frequency) for a in (column, row) for f in (np.sin, np.cos)]
            np.testing.assert_allclose(table[row * 4 + column], np.concatenate(expected))


def test_dtypes():
    model, variables = build(dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    logits = jax.jit(model.apply)(variables, images())
    assert logits.dtype == jnp.float32
    full, _ = build()
    np.testing.assert_allclose(logits, jax.jit(full.apply)(variables, images()), rtol=0.2, atol=0.3)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"patch_size": 3}, "image_size=8 must be a multiple of patch_size=3"),
        ({"num_heads": 3}, "width=16 must be a multiple of num_heads=3"),
        ({"pool": "max"}, "^pool='max' is unknown; choose from cls, cls_mean, map, mean"),
        ({"remat": "some"}, "^remat='some' is unknown"),
        ({"norm": "batch"}, "^norm='batch' is unknown; choose from layer, rms"),
        ({"attention": "flash"}, "^attention='flash' is unknown; choose from auto, cudnn, xla"),
        ({"attention": "cudnn"}, "^attention='cudnn' needs an NVIDIA GPU, not cpu; use 'auto' or 'xla'"),
        ({"depth": 0}, "^depth=0 must be between 1 and 10000"),
        ({"dropout": 1.0}, "^dropout=1.0 must be at least 0 and less than 1"),
        ({"positions": "sincos", "width": 18}, "width=18 must be a multiple of 4 for positions='sincos'"),
        ({"patch_size": 4, "stem": "conv", "stem_width": 7}, "stem_width=7 must be a multiple of 2"),
        ({"image_size": 16}, "image_size=16, but images are 8 x 8"),
        ({"patch_size": 1, "stem": "conv"}, "must be 2, 4, 8, 16"),
    ],
)
def test_bad_settings_are_refused(settings, reason):
    with pytest.raises(ValueError, match=reason):
        build(**settings)
