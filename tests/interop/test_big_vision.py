"""ViT of big_vision: our logits beside its forward pass in plain NumPy, written from its paper and names."""

import math

import jax
import ml_dtypes
import numpy as np
import pytest

from research.cli.experiments import config_class
from research.interop import checkpoints, exports, imports, loading, npz, runs

pytestmark = pytest.mark.usefixtures("quick_compilation")
WIDTH, DEPTH, MLP, HEADS, PATCH = 24, 3, 40, 3, 4


def random_weights(image_size, classes, cls, seed=0, learned=True):
    """Tensors by the names that big_vision gives them, float32; positions are sines and cosines unless `learned`."""
    rng = np.random.default_rng(seed)
    dense = lambda *shape, fan: rng.normal(0, (2 / fan) ** 0.5, shape)
    bias = lambda *shape: rng.normal(0, 0.2, shape)
    kv = WIDTH // HEADS
    tensors = {
        "embedding/kernel": dense(PATCH, PATCH, 3, WIDTH, fan=3 * PATCH**2),
        "embedding/bias": bias(WIDTH),
        "Transformer/encoder_norm/scale": 1 + bias(WIDTH),
        "Transformer/encoder_norm/bias": bias(WIDTH),
        "head/kernel": dense(WIDTH, classes, fan=WIDTH),
        "head/bias": bias(classes),
    } | ({"cls": bias(1, 1, WIDTH)} if cls else {})
    if learned:
        tensors["pos_embedding"] = bias(1, (image_size // PATCH) ** 2, WIDTH)
    for layer in range(DEPTH):
        block = f"Transformer/encoderblock_{layer}"
        for norm in ("LayerNorm_0", "LayerNorm_1"):
            tensors |= {f"{block}/{norm}/scale": 1 + bias(WIDTH), f"{block}/{norm}/bias": bias(WIDTH)}
        for part in ("query", "key", "value"):
            name = f"{block}/MultiHeadDotProductAttention_0/{part}"
            tensors |= {f"{name}/kernel": dense(WIDTH, HEADS, kv, fan=WIDTH), f"{name}/bias": bias(HEADS, kv)}
        name = f"{block}/MultiHeadDotProductAttention_0/out"
        tensors |= {f"{name}/kernel": dense(HEADS, kv, WIDTH, fan=WIDTH), f"{name}/bias": bias(WIDTH)}
        for index, (inputs, outputs) in enumerate([(WIDTH, MLP), (MLP, WIDTH)]):
            name = f"{block}/MlpBlock_0/Dense_{index}"
            tensors |= {f"{name}/kernel": dense(inputs, outputs, fan=inputs), f"{name}/bias": bias(outputs)}
    return {name: array.astype(np.float32) for name, array in tensors.items()}


def forward(tensors, images):
    """Logits, in float64."""
    get = lambda name: tensors[name].astype(np.float64)

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return centred / deviation * get(f"{name}/scale") + get(f"{name}/bias")

    def gelu(x):  # the approximation by tanh, which is flax's default
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def attention(x, name):
        heads = []
        for head in range(HEADS):
            query, key, value = (
                x @ get(f"{name}/{part}/kernel")[:, head] + get(f"{name}/{part}/bias")[head]
                for part in ("query", "key", "value")
            )
            scores = np.exp(query @ key.T / math.sqrt(WIDTH // HEADS))
            heads.append(scores / scores.sum(-1, keepdims=True) @ value @ get(f"{name}/out/kernel")[head])
        return sum(heads) + get(f"{name}/out/bias")

    def one(image):
        side = len(image) // PATCH
        x = np.stack([
            np.einsum("hwc,hwcd->d", image[y * PATCH : (y + 1) * PATCH, x * PATCH : (x + 1) * PATCH],
                      get("embedding/kernel")) + get("embedding/bias")
            for y in range(side) for x in range(side)
        ])  # fmt: skip
        x = x + (get("pos_embedding")[0] if "pos_embedding" in tensors else sines_and_cosines(side))
        x = np.concatenate([get("cls")[0], x]) if "cls" in tensors else x
        for layer in range(DEPTH):
            block = f"Transformer/encoderblock_{layer}"
            x = x + attention(norm(x, f"{block}/LayerNorm_0"), f"{block}/MultiHeadDotProductAttention_0")
            hidden = norm(x, f"{block}/LayerNorm_1") @ get(f"{block}/MlpBlock_0/Dense_0/kernel")
            hidden = gelu(hidden + get(f"{block}/MlpBlock_0/Dense_0/bias"))
            x = x + hidden @ get(f"{block}/MlpBlock_0/Dense_1/kernel") + get(f"{block}/MlpBlock_0/Dense_1/bias")
        x = norm(x, "Transformer/encoder_norm")
        return (x[0] if "cls" in tensors else x.mean(0)) @ get("head/kernel") + get("head/bias")

    return np.stack([one(image.astype(np.float64)) for image in images])


def sines_and_cosines(side):
    """Positions [side**2, WIDTH], row by row: a quarter of the features each for sin x, cos x, sin y and cos y."""
    count = WIDTH // 4
    positions = []
    for y in range(side):
        for x in range(side):
            positions.append([
                wave(place / 10_000 ** (k / (count - 1)))
                for place in (x, y) for wave in (math.sin, math.cos) for k in range(count)
            ])  # fmt: skip
    return np.array(positions)


def load(path, **settings):
    """Our model and its variables, of which nothing may be left over."""
    checkpoint = checkpoints.open_checkpoint(str(path), config_class)
    model = checkpoint.make_model(**settings)
    shapes = loading.abstract(model, checkpoints.channels(checkpoint))
    plan = loading.plan(checkpoint, model, loading.leaves_of(shapes), exact=True)
    return model, plan.variables(shapes)


@pytest.mark.parametrize(
    ("cls", "prefix", "learned"),
    [(False, "", True), (True, "params/", True), (False, "params/", False), (True, "", False)],
)
def test_logits_are_those_of_an_independent_forward_pass(cls, prefix, learned, tmp_path):
    tensors = random_weights(image_size=16, classes=5, cls=cls, learned=learned)
    other = {"opt/0/count": np.int32(3)} if prefix else {}
    np.savez(tmp_path / "vit.npz", **{prefix + name: array for name, array in tensors.items()}, **other)
    # The size of images is not said where positions are computed.
    model, variables = load(tmp_path / "vit.npz", **({} if learned else {"image_size": 16}))
    assert (model.spec.pool, model.spec.depth) == ("cls" if cls else "mean", DEPTH)
    assert (model.spec.positions, model.spec.image_size) == ("learned" if learned else "sincos", 16)
    images = np.random.default_rng(1).normal(0, 1, (3, 16, 16, 3)).astype(np.float32)
    ours = jax.jit(lambda variables: model.apply(variables, images))(variables)
    expected = forward(tensors, images)
    assert expected.std() > 0.1
    assert np.abs(np.asarray(ours) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(("cls", "learned"), [(False, True), (True, True), (False, False)])
def test_import_export_import_is_bitwise(cls, learned, tmp_path):
    tensors = random_weights(image_size=8, classes=4, cls=cls, learned=learned)
    np.savez(tmp_path / "vit.npz", **tensors)
    sizes = [] if learned else ["model.image_size=8", "data.image_size=8"]
    imports.run(str(tmp_path / "vit.npz"), str(tmp_path / "run"), config_class, sizes)
    assert runs.open_run(tmp_path / "run", config_class).model.spec.image_size == 8
    exports.run(str(tmp_path / "run"), str(tmp_path / "out.npz"), config_class)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as out:
        assert set(out.files) == tensors.keys()
        assert all(out[name].tobytes() == array.tobytes() for name, array in tensors.items())
    assert not list(tmp_path.glob("*.partial"))


def test_a_position_of_the_class_token_moves_into_the_token(tmp_path):
    """Where a model has one, such as one from transformers, what big_vision computes is the same."""
    tensors = random_weights(image_size=8, classes=4, cls=True)
    np.savez(tmp_path / "vit.npz", **tensors)
    imports.run(str(tmp_path / "vit.npz"), str(tmp_path / "run"), config_class)
    ours = runs.open_run(tmp_path / "run", config_class).tensors
    model = runs.open_run(tmp_path / "run", config_class).model
    position = np.linspace(-1, 1, WIDTH).astype(np.float32)

    def read(path):
        array = np.array(ours.read(path))
        if path == "positions":
            array[:, 0] += position
        return array

    family = checkpoints.FAMILIES["big_vision"]
    rows = {row.ours: row for row in family.table(model)}
    folded, written = family.fold(read, ours.specs), {}
    for path, spec in ours.specs.items():
        written |= {name: make() for name, make in rows[path].write(lambda path=path: folded(path), spec.shape)}
    params = {}
    for path in ours.specs:
        *groups, last = path.split("/")
        tree = params
        for group in groups:
            tree = tree.setdefault(group, {})
        tree[last] = read(path)
    images = np.random.default_rng(1).normal(0, 1, (2, 8, 8, 3)).astype(np.float32)
    expected = np.asarray(jax.jit(lambda params: model.apply({"params": params}, images))(params))
    np.testing.assert_allclose(forward(written, images), expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_read_and_written(tmp_path):
    """NumPy writes it as two bytes of anything, which is how big_vision stores it."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16)
    np.savez(tmp_path / "theirs.npz", x=array.view("V2"))
    npz.write(tmp_path / "ours.npz", ["x"], lambda name: array)
    for file in ("theirs.npz", "ours.npz"):
        archive = npz.Npz(tmp_path / file)
        assert archive.specs["x"] == ((2, 3), np.dtype(ml_dtypes.bfloat16))
        np.testing.assert_array_equal(archive.read("x"), array)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("Transformer/encoderblock_1/LayerNorm_0/bias"), "blocks/attention_norm/bias needs"),
        (lambda t: t.pop("embedding/kernel"), "embedding/kernel is missing"),
        (lambda t: t.update(pos_embedding=t["pos_embedding"][:, 1:]), "not a square number"),
        (lambda t: t.update({"MAPHead_0/probe": t["head/bias"]}), "MAPHead_0/probe: MAP pooling"),
        (lambda t: t.update({"head/bias": t["head/bias"][1:]}), "head/bias is [3] in"),
        (lambda t: t.update(other=t["head/bias"]), "first other"),
    ],
)
def test_what_does_not_fit_is_refused(change, message, tmp_path):
    tensors = random_weights(image_size=8, classes=4, cls=False)
    change(tensors)
    np.savez(tmp_path / "vit.npz", **tensors)
    with pytest.raises(ValueError) as caught:
        imports.run(str(tmp_path / "vit.npz"), str(tmp_path / "run"), config_class)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["vit.npz"]
