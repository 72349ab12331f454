"""Models that nothing here trains yet, put together from the parts as they are: BERT, Llama, layers in a pattern."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from research.models import decoding, layers, stack
from research.models.attention import Attention, Context, Heads
from research.models.block import TOPOLOGIES, Parallel, PostNorm, PreNorm, Sandwich
from research.models.mlp import MLP, GatedMLP
from research.models.positions import Learned, Positions, Rotary
from research.models.stack import Segment, Stack
from research.models.transformer import Transformer
from research.parallel.sharding import logical_axes, path_name

VOCAB, WIDTH, HEADS, GROUPS, MLP_DIM, DEPTH, LENGTH = 13, 16, 4, 2, 24, 3, 7
DTYPES = {"dtype": "float32", "param_dtype": "float32"}
DENSE = functools.partial(nn.DenseGeneral, **DTYPES)
LAYER_NORM = functools.partial(layers.LayerNorm, epsilon=1e-12, **DTYPES)
RMS_NORM = functools.partial(nn.RMSNorm, epsilon=1e-6, **DTYPES)
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)


def make_stack(topology, parts, norm, repeats=DEPTH, **segment):
    block = functools.partial(topology, parts, norm)
    return functools.partial(Stack, (("layer", block),), (Segment(repeats, **segment),))


class Bert(nn.Module):
    """Token ids, their types and a mask to features (Devlin et al., 2019)."""

    @nn.compact
    def __call__(self, tokens, types, mask):
        biased = functools.partial(
            Attention, Heads(WIDTH, HEADS, WIDTH // HEADS), DENSE, ("query", "key", "value", "out")
        )
        mlp = functools.partial(MLP, MLP_DIM, functools.partial(nn.Dense, **DTYPES), "gelu_exact")
        blocks = make_stack(PostNorm, (("attention", biased), ("mlp", mlp)), LAYER_NORM)
        table = lambda name, rows: self.param(name, nn.initializers.normal(0.02), (rows, WIDTH))
        positions = Learned((LENGTH, WIDTH))
        x = table("embedding", VOCAB)[tokens] + table("types", 2)[types]
        x = positions.embed(positions.create(self.param, "float32"), x)
        encoder = Transformer(blocks, Positions(), None, DTYPES, name="encoder")
        return encoder(LAYER_NORM(name="norm")(x), mask, jnp.broadcast_to(jnp.arange(LENGTH), mask.shape))


class Llama(nn.Module):
    """Token ids to logits of the next ones: rotary positions, grouped heads, gated MLPs (Touvron et al., 2023)."""

    topology: type = PreNorm
    window: int = 0
    qk_norm: bool = False
    unroll: int = 1
    shared: bool = False

    def setup(self):
        self.embedding = self.param("embedding", nn.initializers.normal(1.0), (VOCAB, WIDTH))
        self.head = self.param("head", nn.initializers.lecun_normal(), (WIDTH, VOCAB))
        mlp = functools.partial(GatedMLP, MLP_DIM, functools.partial(nn.Dense, **DTYPES), "silu", bias=False)
        attention = functools.partial(
            Attention, Heads(WIDTH, HEADS, WIDTH // HEADS, GROUPS), DENSE, rotary=Rotary(),
            qk_norm=RMS_NORM if self.qk_norm else None,
        )  # fmt: skip
        block = lambda window: functools.partial(
            self.topology, (("attention", functools.partial(attention, window=window)), ("mlp", mlp)), RMS_NORM
        )
        # With a window, every second layer sees all.
        pattern = (("local", block(self.window)), ("global", block(0))) if self.window else (("layer", block(0)),)
        repeats = DEPTH - len(pattern) + 1
        blocks = functools.partial(Stack, pattern, (Segment(repeats, unroll=self.unroll),), shared=self.shared)
        self.decoder = Transformer(blocks, Positions(), RMS_NORM, DTYPES, causal=True)

    def __call__(self, tokens, segments, positions):
        return self.decoder(self.embedding[tokens], segments, positions) @ self.head

    def init_cache(self, batch, length, beams):
        return self.decoder.init_cache(batch, length, beams)

    def decode_step(self, token, position, cache):
        rows = cache["hypotheses"]["ancestors"].shape[0]
        x, cache = self.decoder.step(self.embedding[token].reshape(2, rows // 2, WIDTH), jnp.asarray(position), cache)
        return (x @ self.head).reshape(rows, VOCAB), cache


def batch():
    """Two rows, of which the second ends in padding."""
    tokens = np.random.default_rng(0).integers(1, VOCAB, (2, LENGTH))
    segments = (np.arange(LENGTH) < np.array([[LENGTH], [4]])).astype(np.int32)
    return tokens, segments, np.broadcast_to(np.arange(LENGTH), (2, LENGTH))


def random_variables(model, *arrays):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *arrays))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.4, leaf.shape), leaf.dtype), shapes)


# ---- Against transformers.


def dense(linear, shape=None):
    kernel = linear.weight.detach().numpy().T
    bias = {} if linear.bias is None else {"bias": linear.bias.detach().numpy()}
    return {"kernel": kernel if shape is None else kernel.reshape(shape)} | bias


def attention(query, key, value, out):
    tree = {}
    for name, linear in (("query", query), ("key", key), ("value", value)):
        tree[name] = dense(linear, (WIDTH, -1, WIDTH // HEADS))
        if "bias" in tree[name]:
            tree[name]["bias"] = tree[name]["bias"].reshape(-1, WIDTH // HEADS)
    return tree | {"out": dense(out, (HEADS, WIDTH // HEADS, WIDTH))}


def norm(module):
    names = {"scale": module.weight, "bias": getattr(module, "bias", None)}
    return {name: value.detach().numpy() for name, value in names.items() if value is not None}


def stacked(blocks):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)


def randomise(torch, reference):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for each in reference.parameters():
            each.copy_(0.4 * torch.randn(each.shape, generator=generator))
    return reference.eval()


def assert_equal_to(model, params, arrays, expected):
    """Features or logits of our model at the real tokens; no leaf is left over."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *arrays))["params"]
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    real = batch()[1] > 0
    found = np.asarray(jit(model.apply)({"params": params}, *arrays))
    assert np.abs(expected[real]).max() > 0.5
    np.testing.assert_allclose(found[real], expected[real], rtol=1e-3, atol=1e-4)


def test_bert_is_that_of_transformers():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS,
        intermediate_size=MLP_DIM, max_position_embeddings=LENGTH,
    )  # fmt: skip
    reference = randomise(torch, transformers.BertModel(config, add_pooling_layer=False))
    tokens, mask, _ = batch()
    types = (np.arange(LENGTH) > 2) * np.ones_like(tokens)

    def block(one):
        own = one.attention.self
        return {
            "attention": attention(own.query, own.key, own.value, one.attention.output.dense),
            "attention_norm": norm(one.attention.output.LayerNorm),
            "mlp": {"up": dense(one.intermediate.dense), "down": dense(one.output.dense)},
            "mlp_norm": norm(one.output.LayerNorm),
        }

    embeddings = reference.embeddings
    tables = {"embedding": "word_embeddings", "types": "token_type_embeddings", "learned": "position_embeddings"}
    params = {ours: getattr(embeddings, theirs).weight.detach().numpy() for ours, theirs in tables.items()}
    params |= {"norm": norm(embeddings.LayerNorm)}
    params |= {"encoder": {"blocks": stacked([block(one) for one in reference.encoder.layer])}}
    with torch.no_grad():
        expected = reference(
            torch.tensor(tokens), torch.tensor(mask), token_type_ids=torch.tensor(types)
        ).last_hidden_state.numpy()
    assert_equal_to(Bert(), params, (tokens, types, mask), expected)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_decoder_is_that_of_transformers(name):
    """Llama, and Qwen3, which norms queries and keys."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    kinds = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    }
    config, make = kinds[name]
    config = config(
        vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, rms_norm_eps=1e-6,
        num_key_value_heads=GROUPS, head_dim=WIDTH // HEADS, intermediate_size=MLP_DIM, tie_word_embeddings=False,
    )  # fmt: skip
    reference = randomise(torch, make(config))
    tokens, mask, positions = batch()

    def block(one):
        own = one.self_attn
        normed = ("query", "key") if name == "qwen3" else ()
        mlp = {"gate": one.mlp.gate_proj, "up": one.mlp.up_proj, "down": one.mlp.down_proj}
        return {
            "attention": attention(own.q_proj, own.k_proj, own.v_proj, own.o_proj)
            | {f"{part}_norm": norm(getattr(own, f"{part[0]}_norm")) for part in normed},
            "attention_norm": norm(one.input_layernorm),
            "mlp": {part: dense(linear) for part, linear in mlp.items()},
            "mlp_norm": norm(one.post_attention_layernorm),
        }

    inner = reference.model
    params = {
        "embedding": inner.embed_tokens.weight.detach().numpy(),
        "head": reference.lm_head.weight.detach().numpy().T,
        "decoder": {"blocks": stacked([block(one) for one in inner.layers]), "norm": norm(inner.norm)},
    }
    with torch.no_grad():
        expected = reference(torch.tensor(tokens), torch.tensor(mask)).logits.numpy()
    assert_equal_to(Llama(qk_norm=name == "qwen3"), params, (tokens, mask, positions), expected)


# ---- Decoding, patterns and segments.

KINDS = {
    "plain": {},
    "unrolled": {"unroll": DEPTH},
    "local and global": {"window": 3},
    "unrolled pattern": {"window": 2, "unroll": 2},
    "sandwich": {"topology": Sandwich},
    "parallel": {"topology": Parallel},
    "post": {"topology": PostNorm},
    "shared": {"shared": True},
    "shared, unrolled": {"shared": True, "unroll": DEPTH},
}


@pytest.mark.parametrize("kind", KINDS)
def test_cached_decoding_of_a_decoder_alone_equals_the_whole(kind):
    model, arrays = Llama(**KINDS[kind]), batch()
    variables = random_variables(model, *arrays)
    expected = jit(model.apply)(variables, *arrays)
    cache = model.apply(variables, 2, LENGTH + 2, 3, method="init_cache")
    step = jit(functools.partial(model.apply, method="decode_step"))
    for position in range(LENGTH):
        logits, cache = step(variables, np.repeat(arrays[0][:, position], 3), position, cache)
        for row in np.flatnonzero(arrays[1][:, position]):
            close(logits[3 * row : 3 * row + 3], np.repeat(expected[None, row, position], 3, 0))


def test_scores_of_a_beam_search_are_those_of_its_hypotheses():
    model = Llama(window=2)
    variables = random_variables(model, *batch())

    def search(variables):
        cache = model.apply(variables, 2, LENGTH, 4, method="init_cache")
        step = functools.partial(model.apply, variables, method="decode_step")
        return decoding.beam_search(step, cache, 2, LENGTH, 3, -1, beam_size=4, num_return=4, length_penalty=0.0)

    tokens, scores = jit(search)(variables)
    for beam in range(4):
        target = np.asarray(tokens[:, beam])
        shifted = np.concatenate([np.full((2, 1), 3), target[:, :-1]], 1)
        logits = model.apply(variables, shifted, np.ones_like(shifted), batch()[2])
        close(scores[:, beam], np.take_along_axis(jax.nn.log_softmax(logits), target[..., None], 2).sum((1, 2)))


def test_a_window_is_as_far_as_a_local_layer_sees():
    attention = Attention(Heads(WIDTH, HEADS, 4), DENSE, window=3)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, LENGTH, WIDTH)), jnp.float32)
    variables = attention.init(jax.random.key(0), x, Context())
    reached = jax.jacobian(lambda x: attention.apply(variables, x, Context())[0].sum(-1))(x)[:, 0]
    seen = np.abs(reached).max(-1) > 0
    np.testing.assert_array_equal(seen, np.abs(np.arange(LENGTH)[:, None] - np.arange(LENGTH)) < 3)


def two_kinds(*segments):
    """A stack of dense and gated layers in turn, with dropout, over features."""
    heads = functools.partial(Attention, Heads(WIDTH, HEADS, 4), DENSE)
    kinds = {"dense": MLP, "expert": GatedMLP}
    pattern = tuple(
        (name, functools.partial(
            PreNorm, (("attention", heads), ("mlp", functools.partial(kind, 8, nn.Dense, "relu"))), RMS_NORM, 0.2
        )) for name, kind in kinds.items()
    )  # fmt: skip
    return Stack(pattern, segments, stochastic_depth=0.3)


def value_and_grad(model, variables, x):
    context = Context(train=True)
    loss = lambda v: (model.apply(v, x, context, rngs={"dropout": jax.random.key(1)}) ** 2).mean()
    return jit(jax.value_and_grad(loss))(variables)


def test_segments_change_neither_the_checkpoint_nor_a_number():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, LENGTH, WIDTH)), jnp.float32)
    whole = two_kinds(Segment(4))
    variables = whole.init(jax.random.key(0), x, Context())
    assert set(variables["params"]) == {"dense", "expert"}
    cut = two_kinds(Segment(1, remat="full"), Segment(2, unroll=2), Segment(1, remat="operands"))
    jax.tree.map(np.testing.assert_array_equal, cut.init(jax.random.key(0), x, Context()), variables)
    jax.tree.map(close, value_and_grad(cut, variables, x), value_and_grad(whole, variables, x))


def test_a_frozen_segment_has_no_gradient_and_the_others_have_theirs():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, LENGTH, WIDTH)), jnp.float32)
    whole = two_kinds(Segment(3))
    variables = whole.init(jax.random.key(0), x, Context())
    _, expected = value_and_grad(whole, variables, x)
    _, found = value_and_grad(two_kinds(Segment(2, frozen=True), Segment(1)), variables, x)
    for leaf, full in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert not np.any(leaf[:2])
        close(leaf[2:], full[2:])


def test_shared_layers_are_equal_layers_whose_gradients_are_summed():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, LENGTH, WIDTH)), jnp.float32)
    untied = two_kinds(Segment(1, remat="full"), Segment(2))
    shared = untied.clone(shared=True)
    variables = shared.init(jax.random.key(0), x, Context())
    assert {leaf.shape[0] for leaf in jax.tree.leaves(variables)} == {1}
    repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf, 3, 0), variables)
    value, found = value_and_grad(shared, variables, x)
    expected, by_layer = value_and_grad(untied, repeated, x)
    close(value, expected)
    jax.tree.map(close, found, jax.tree.map(lambda leaf: leaf.sum(0, keepdims=True), by_layer))


def test_layers_of_a_stack_are_drawn_one_by_one():
    """So the fan-in of a kernel is that of a projection, and no two layers are alike."""
    wide = functools.partial(Attention, Heads(64, 4, 16), DENSE)
    model = make_stack(PreNorm, (("attention", wide),), RMS_NORM, repeats=4)()
    params = jit(model.init)(jax.random.key(0), jnp.zeros((1, 2, 64)), Context())["params"]["attention"]
    for name in ("query", "key", "value", "out"):
        assert np.std(params[name]["kernel"]) == pytest.approx(64**-0.5, rel=0.05)
    assert len(np.unique(np.asarray(params["query"]["kernel"]))) > 0.99 * params["query"]["kernel"].size


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_every_leaf_of_a_pattern_has_one_name_for_each_axis(topology):
    model = Llama(window=2, qk_norm=True, topology=TOPOLOGIES[topology])
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *batch()))["params"]["decoder"]["blocks"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        assert len(logical_axes(f"decoder/blocks/{path_name(path)}", stack.LOGICAL_AXES)) == leaf.ndim
    with pytest.raises(ValueError, match="has no entry"):
        logical_axes("decoder/blocks/local/mixer/kernel", stack.LOGICAL_AXES)
