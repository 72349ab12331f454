"""FLOPs counted in jaxprs against closed formulas."""

import jax
import jax.numpy as jnp
import pytest
from jax.extend import core

from research.measure.flops import forward_flops, mfu, training_flops
from research.models import alexnet, efficientnet, resnet, seq2seq, vit


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


# ---- Single operations.


def test_a_product_counts_two_operations_a_multiplication():
    assert forward_flops(jnp.matmul, array(3, 5, 7), array(3, 7, 11)) == 2 * 3 * 5 * 7 * 11


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 8), (2, 4)])
def test_a_convolution_and_its_two_gradients_cost_the_same(stride, groups):
    def convolve(kernel, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=numbers, feature_group_count=groups
        ).sum()

    kernel, x = array(3, 3, 8 // groups, 16), array(2, 12, 12, 8)
    forward = 2 * 2 * (12 // stride) ** 2 * 16 * 9 * 8 // groups
    assert forward_flops(convolve, kernel, x) == forward
    assert forward_flops(jax.grad(convolve, argnums=(0, 1)), kernel, x) == 3 * forward
    assert training_flops(convolve, kernel, x) == 2 * forward  # the images need no gradient


def test_a_scan_counts_as_often_as_it_runs_also_inside_another():
    def nested(x, weights):
        inner = lambda x, _: (jax.lax.scan(lambda x, w: (x @ w, None), x, weights)[0], None)
        return jax.lax.scan(inner, x, None, length=3)[0]

    assert forward_flops(nested, array(2, 4), array(5, 4, 4)) == 3 * 5 * 2 * 2 * 4 * 4


def test_a_loop_counts_once_and_a_conditional_as_its_most_expensive_branch():
    def loop(x, w):
        return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ w, x)

    def either(x, w):
        return jax.lax.cond(x.sum() > 0, lambda: x @ w @ w, lambda: x @ w)

    assert forward_flops(loop, array(4, 4), array(4, 4)) == 2 * 4**3
    assert forward_flops(either, array(4, 4), array(4, 4)) == 2 * 2 * 4**3


@pytest.mark.parametrize(("name", "products"), [("fwd_wrapper", 2), ("bwd_wrapper", 5)])
def test_attention_in_a_kernel_counts_as_its_products(name, products):
    """Under the names that JAX gives to cuDNN's kernels, which no CPU has; tests/parallel/test_gpu.py asks a GPU."""
    kernel = core.Primitive(f"dot_product_attention_{name}")
    kernel.def_abstract_eval(lambda query, key, value: query)
    attend = lambda query, key, value: kernel.bind(query, key, value).sum()
    query, key = array(2, 5, 3, 8), array(2, 7, 3, 8)
    product = 2 * 2 * 3 * 5 * 7 * 8
    assert forward_flops(attend, query, key, key) == products * product
    assert training_flops(attend, query, key, key) == (products + 2) * product  # nothing reaches key and value


# ---- What a gradient has to reach.


def layers(params, x, policy=None):
    def layer(x, w):
        return jnp.tanh(x @ w), None

    step = layer if policy is None else jax.checkpoint(layer, policy=policy)
    return jax.lax.scan(step, x @ params["first"], params["rest"])[0].sum()


PARAMS = {"first": array(6, 8), "rest": array(5, 8, 8)}
FIRST, REST = 2 * 4 * 6 * 8, 5 * 2 * 4 * 8 * 8


def test_training_costs_three_forward_passes_less_the_gradient_of_the_input():
    expected = 2 * FIRST + 3 * REST
    assert training_flops(layers, PARAMS, array(4, 6)) == expected
    assert forward_flops(jax.grad(layers), PARAMS, array(4, 6)) == expected


def test_rematerialisation_counts_in_the_hardware_only():
    policy = jax.checkpoint_policies.nothing_saveable
    loss = lambda params, x: layers(params, x, policy)
    assert training_flops(loss, PARAMS, array(4, 6)) == 2 * FIRST + 3 * REST
    assert forward_flops(jax.grad(loss), PARAMS, array(4, 6)) == 2 * FIRST + 4 * REST


def test_no_gradient_flows_through_what_is_stopped():
    def loss(params, x):
        return (jax.lax.stop_gradient(jnp.tanh(x)) @ params["first"]).sum() + (x @ params["first"]).argmax()

    dropped = lambda params, x: loss({"first": params["first"]}, jax.lax.stop_gradient(x @ params["before"]))
    params = {"first": array(6, 8), "before": array(6, 6)}
    before = 2 * 2 * 4 * 6 * 6  # counts as trained, although its gradient would be dropped
    assert training_flops(dropped, params, array(4, 6)) == before + 2 * 2 * FIRST


def test_custom_gradients_and_jitted_functions_are_looked_into():
    @jax.custom_jvp
    def product(x, w):
        return x @ w

    product.defjvp(lambda primals, tangents: (product(*primals), tangents[0] @ primals[1]))
    loss = lambda w, x: jax.jit(product)(x, w).sum()
    assert training_flops(loss, array(8, 3), array(4, 8)) == 2 * 2 * 4 * 8 * 3


# ---- Whole models.


def model_flops(model, size, batch=2):
    """Of a forward pass and of a training step, for one image."""
    images = array(batch, size, size, 3)
    variables = dict(jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, 3)))))
    params = variables.pop("params")
    run = lambda params, rest, images: model.apply({"params": params, **rest}, images)
    loss = lambda *args: run(*args).sum()
    forward = forward_flops(run, params, variables, images)
    return forward / batch, training_flops(loss, params, variables, images) / batch


def vit_forward(width, depth, mlp_dim, length, patch_pixels, classes):
    """Multiplications of a ViT (Kaplan et al., 2020, table 1, with attention): 4 D^2 + 2 D M and 2 L D a token."""
    tokens = length + 1
    layer = tokens * (4 * width**2 + 2 * width * mlp_dim) + 2 * tokens**2 * width
    return depth * layer + length * patch_pixels * width + width * classes


@pytest.mark.parametrize("remat", ["none", "operands", "dots", "full"])
def test_a_vit_costs_what_the_formula_says(remat):
    model = vit.ViT.of(10, image_size=32, patch_size=8, width=24, depth=3, mlp_dim=80, num_heads=4, remat=remat)
    multiplications = vit_forward(24, 3, 80, 16, 8 * 8 * 3, 10)
    forward, training = model_flops(model, 32)
    assert forward == 2 * multiplications
    assert training == 6 * multiplications - 2 * 16 * 8 * 8 * 3 * 24  # the image needs no gradient


def test_a_vit_l16_costs_61_billion_multiplications():
    """Dosovitskiy et al., 2021; He et al., 2021 (MAE) and DeiT III name 61.6 G."""
    assert model_flops(vit.ViT.of(1000, **vit.SIZES["L"]), 224)[0] / 2 == pytest.approx(61.6e9, rel=0.005)


@pytest.mark.parametrize(
    ("model", "multiplications"),
    [
        (resnet.ResNet.of(1000, **resnet.SIZES["50"]), 4.089e9),
        (alexnet.AlexNet.of(1000), 0.714e9),
        (efficientnet.EfficientNet.of(1000), 0.385e9),
    ],  # as torchvision counts, and for EfficientNet-Lite0 d-li14/efficientnet-lite.pytorch
    ids=["resnet50", "alexnet", "efficientnet_lite0"],
)
def test_cnns_cost_what_torchvision_states(model, multiplications):
    assert model_flops(model, 224)[0] / 2 == pytest.approx(multiplications, rel=0.002)


def seq2seq_forward(width, depths, mlp, heads, source, target, vocab):
    """Multiplications of an encoder-decoder: per token 4 D H and its MLP, and 2 L H for what it attends to.

    `mlp` is what an MLP costs a token, `heads` the features of all heads together.
    """
    encoder = source * (4 * width * heads + mlp + 2 * source * heads)
    own = target * (4 * width * heads + mlp + 2 * target * heads)
    cross = target * 2 * width * heads + source * 2 * width * heads + 2 * target * source * heads
    return depths[0] * encoder + depths[1] * (own + cross) + target * width * vocab


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("remat", ["none", "full"])
def test_an_encoder_decoder_costs_what_the_formula_says(gated, remat):
    """Positions and masks cost nothing. All of it is trained: before the first layers, too, there are embeddings."""
    width, mlp_dim, source, target, vocab, batch = 24, 40, 9, 7, 50, 2
    spec = seq2seq.Seq2SeqSpec(
        width=width, encoder_depth=3, decoder_depth=2, num_heads=3, kv_dim=10, mlp_dim=mlp_dim, gated=gated,
        remat=remat,
    )  # fmt: skip
    model = seq2seq.Seq2Seq(spec, vocab)
    tokens = [jax.ShapeDtypeStruct((batch, length), jnp.int32) for length in (source,) * 3 + (target,) * 3]
    variables = jax.eval_shape(model.init, jax.eval_shape(lambda: jax.random.key(0)), *tokens)
    run = lambda variables, *tokens: model.apply(variables, *tokens).sum()
    multiplications = seq2seq_forward(width, (3, 2), (3 if gated else 2) * width * mlp_dim, 30, source, target, vocab)
    assert forward_flops(run, variables, *tokens) == 2 * batch * multiplications
    assert training_flops(run, variables, *tokens) == 6 * batch * multiplications


# ---- Utilisation.


def test_mfu_is_the_share_of_the_peak():
    assert mfu(model_flops=6e15, step_time_s=2.0, chips=10, peak_flops=1e15) == pytest.approx(0.3)
    assert mfu(6e15, 2.0, 10, None) is None
