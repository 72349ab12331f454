"""The encoder-decoder against transformers' T5 and Whisper and PyTorch's transformer, with their random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models import seq2seq
from research.models.positions import buckets
from research.parallel.sharding import path_name

torch = pytest.importorskip("torch", reason="PyTorch is not installed; it comes with the extra [interop]")
transformers = pytest.importorskip("transformers", reason="transformers is not installed; see the extra [interop]")

VOCAB, WIDTH, HEADS, KV, MLP = 30, 24, 3, 10, 40
BATCH, SOURCE, TARGET = 3, 9, 7
SIZE = {"width": WIDTH, "encoder_depth": 2, "decoder_depth": 3, "num_heads": HEADS, "kv_dim": KV, "mlp_dim": MLP}
SOURCE_LENGTHS, TARGET_LENGTHS = np.array([9, 4, 6]), np.array([7, 5, 1])


def randomise(model):
    """Random weights of a size that lets every part of the model show in its logits."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if "norm" in name and name.endswith("weight") else 0.3 * noise)
    return model.eval()


def array(tensor):
    return tensor.detach().numpy()


def heads_of(linear, heads):
    """A torch layer as one of ours of [inputs, heads, kv], with a bias [heads, kv] if it has one."""
    kernel = array(linear.weight).T
    bias = {} if linear.bias is None else {"bias": array(linear.bias).reshape(heads, -1)}
    return {"kernel": kernel.reshape(len(kernel), heads, -1)} | bias


def dense(linear, heads=None):
    """What flax's dense layers hold, of [heads, kv] to the width if `heads` is given."""
    kernel = array(linear.weight).T
    kernel = kernel if heads is None else kernel.reshape(heads, -1, kernel.shape[-1])
    return {"kernel": kernel} | ({} if linear.bias is None else {"bias": array(linear.bias)})


def attention(query, key, value, out, heads):
    parts = {"query": query, "key": key, "value": value}
    return {name: heads_of(part, heads) for name, part in parts.items()} | {"out": dense(out, heads)}


def norm(module):
    bias = getattr(module, "bias", None)
    return {"scale": array(module.weight)} | ({} if bias is None else {"bias": array(bias)})


def layers(blocks):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)


def batch(rng):
    """Ids and segments of sources and targets with padding at their ends."""
    rows = lambda length: np.broadcast_to(np.arange(length), (BATCH, length))
    source, target = rng.integers(4, VOCAB, (BATCH, SOURCE)), rng.integers(4, VOCAB, (BATCH, TARGET))
    source_segments = (rows(SOURCE) < SOURCE_LENGTHS[:, None]).astype(np.int32)
    target_segments = (rows(TARGET) < TARGET_LENGTHS[:, None]).astype(np.int32)
    return source, source_segments, rows(SOURCE), target, target_segments, rows(TARGET)


def assert_same_tree(model, params, arrays):
    """Nothing is left over on either side."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *arrays))["params"]
    named = lambda tree: {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    assert named(params) == named(shapes)


def check(model, params, arrays, expected, method=None):
    """Logits of our model at the real target tokens; `expected` [batch, target length, vocab] of torch."""
    if method is None:
        assert_same_tree(model, params, arrays)
    logits = jax.jit(lambda params: model.apply({"params": params}, *arrays, method=method))(params)
    real = arrays[-2] > 0
    assert np.abs(expected[real]).max() > 0.5
    np.testing.assert_allclose(np.asarray(logits)[real], expected[real], rtol=2e-4, atol=2e-4)


# ---- T5.


def t5_params(model, untied):
    """Of transformers' T5ForConditionalGeneration."""

    def block(module):
        own, *rest = module.layer
        tree = {
            "attention": t5_attention(own.SelfAttention),
            "attention_norm": norm(own.layer_norm),
            "mlp_norm": norm(rest[-1].layer_norm),
        }
        if len(rest) == 2:
            tree["cross_attention"] = t5_attention(rest[0].EncDecAttention)
            tree["cross_attention_norm"] = norm(rest[0].layer_norm)
        mlp = rest[-1].DenseReluDense
        up = {"gate": dense(mlp.wi_0), "up": dense(mlp.wi_1)} if hasattr(mlp, "wi_0") else {"up": dense(mlp.wi)}
        return tree | {"mlp": up | {"down": dense(mlp.wo)}}

    def t5_attention(module):
        return attention(module.q, module.k, module.v, module.o, HEADS)

    def t5_stack(module):
        table = module.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        blocks = layers([block(one) for one in module.block])
        return {"blocks": blocks, "relative": array(table), "norm": norm(module.final_layer_norm)}

    params = {"embedding": array(model.shared.weight)}
    params |= {"encoder": t5_stack(model.encoder), "decoder": t5_stack(model.decoder)}
    return params | ({"head": array(model.lm_head.weight).T} if untied else {})


def make_t5(gated, untied):
    config = transformers.T5Config(
        vocab_size=VOCAB, d_model=WIDTH, d_kv=KV, d_ff=MLP, num_layers=2, num_decoder_layers=3, num_heads=HEADS,
        feed_forward_proj="gated-gelu" if gated else "relu", relative_attention_num_buckets=8,
        relative_attention_max_distance=12, tie_word_embeddings=not untied,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config)
    if untied:  # transformers 5 ties the weights of every T5 that it makes
        model.lm_head.weight = torch.nn.Parameter(torch.zeros(VOCAB, WIDTH))
        model.config.scale_decoder_outputs = False
    return randomise(model)


@pytest.mark.parametrize(("gated", "untied"), [(True, True), (True, False), (False, False)])
def test_logits_are_those_of_t5(gated, untied):
    reference = make_t5(gated, untied)
    options = {} if gated else {"gated": False, "activation": "relu"}
    logits = "untied" if untied else "tied_scaled"
    spec = seq2seq.Seq2SeqSpec(**SIZE, **options, logits=logits, relative_buckets=8, relative_distance=12)
    model = seq2seq.Seq2Seq(spec, VOCAB)
    arrays = batch(np.random.default_rng(0))
    source, source_segments, _, target, target_segments, _ = arrays
    with torch.no_grad():
        expected = reference(
            input_ids=torch.tensor(source), attention_mask=torch.tensor(source_segments),
            decoder_input_ids=torch.tensor(target), decoder_attention_mask=torch.tensor(target_segments),
        ).logits.numpy()  # fmt: skip
    check(model, t5_params(reference, untied), arrays, expected)


@pytest.mark.parametrize(("count", "max_distance"), [(32, 128), (8, 12), (32, 20)])
@pytest.mark.parametrize("causal", [False, True])
def test_distances_fall_into_the_buckets_of_t5(causal, count, max_distance):
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = np.arange(-1000, 1000)
    expected = T5Attention._relative_position_bucket(torch.tensor(distances), not causal, count, max_distance)
    np.testing.assert_array_equal(buckets(distances, count, max_distance, causal), expected.numpy())


@pytest.mark.parametrize("size", ["t5_small", "t5_base", "t5_large", "t5_3b", "t5_11b"])
def test_transformers_counts_as_many_parameters(size):
    spec = seq2seq.Seq2SeqSpec(**seq2seq.SIZES[size])
    model = seq2seq.Seq2Seq(spec, 32128)
    config = transformers.T5Config(
        vocab_size=32128, d_model=spec.width, d_kv=spec.kv_dim, d_ff=spec.mlp_dim, num_heads=spec.num_heads,
        num_layers=spec.encoder_depth, num_decoder_layers=spec.decoder_depth, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    with torch.device("meta"):
        reference = transformers.T5ForConditionalGeneration(config)
        reference.lm_head.weight = torch.nn.Parameter(torch.zeros(32128, spec.width))  # untied
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *(jnp.zeros((1, 2), jnp.int32),) * 6))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == sum(p.numel() for p in reference.parameters())


# ---- Vaswani et al.


def torch_attention(module, heads):
    """Of torch.nn.MultiheadAttention, which joins the three projections in one matrix."""
    parts = []
    for weight, bias in zip(module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3), strict=True):
        linear = torch.nn.Linear(*weight.shape)
        linear.weight, linear.bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)
        parts.append(linear)
    return attention(*parts, module.out_proj, heads)


def torch_block(module, heads):
    norms = ["attention_norm", *["cross_attention_norm"] * hasattr(module, "norm3"), "mlp_norm"]
    tree = {name: norm(getattr(module, f"norm{index + 1}")) for index, name in enumerate(norms)}
    tree |= {"attention": torch_attention(module.self_attn, heads)}
    tree |= {"mlp": {"up": dense(module.linear1), "down": dense(module.linear2)}}
    if hasattr(module, "multihead_attn"):
        tree["cross_attention"] = torch_attention(module.multihead_attn, heads)
    return tree


def test_logits_are_those_of_the_original_transformer():
    """Vaswani et al. (2017): PyTorch's layers, between embeddings and positions as the paper states them."""
    width, heads = 24, 4
    options = dict(d_model=width, nhead=heads, dim_feedforward=MLP, dropout=0.0, batch_first=True, layer_norm_eps=1e-6)
    encoder = randomise(
        torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(**options), 2, enable_nested_tensor=False)
    )
    decoder = randomise(torch.nn.TransformerDecoder(torch.nn.TransformerDecoderLayer(**options), 3))
    table = np.random.default_rng(1).normal(0, 0.3, (VOCAB, width)).astype(np.float32)
    params = {
        "embedding": table,
        "encoder": {"blocks": layers([torch_block(one, heads) for one in encoder.layers])},
        "decoder": {"blocks": layers([torch_block(one, heads) for one in decoder.layers])},
    }
    size = SIZE | {"width": width, "num_heads": heads, "kv_dim": width // heads}
    model = seq2seq.Seq2Seq(seq2seq.Seq2SeqSpec(**(seq2seq.SIZES["vaswani_base"] | size)), VOCAB)
    arrays = batch(np.random.default_rng(0))
    source, source_segments, source_positions, target, target_segments, target_positions = arrays

    def embed(tokens, positions):
        angles = positions[..., None] * 10_000.0 ** -(np.arange(width // 2) / (width // 2 - 1))
        placed = table[tokens] * np.sqrt(width) + np.concatenate([np.sin(angles), np.cos(angles)], -1)
        return torch.tensor(placed, dtype=torch.float32)

    source_padding, target_padding = (torch.tensor(part == 0) for part in (source_segments, target_segments))
    causal = torch.triu(torch.ones(TARGET, TARGET, dtype=torch.bool), 1)
    with torch.no_grad():
        memory = encoder(embed(source, source_positions), src_key_padding_mask=source_padding)
        out = decoder(
            embed(target, target_positions), memory, tgt_mask=causal, tgt_key_padding_mask=target_padding,
            memory_key_padding_mask=source_padding,
        )  # fmt: skip
    check(model, params, arrays, out.numpy() @ table.T)


# ---- Whisper.


def whisper_stack(module, heads):
    def block(one):
        own = one.self_attn
        tree = {
            "attention": attention(own.q_proj, own.k_proj, own.v_proj, own.out_proj, heads),
            "attention_norm": norm(one.self_attn_layer_norm),
            "mlp": {"up": dense(one.fc1), "down": dense(one.fc2)},
            "mlp_norm": norm(one.final_layer_norm),
        }
        if hasattr(one, "encoder_attn"):
            cross = one.encoder_attn
            tree["cross_attention"] = attention(cross.q_proj, cross.k_proj, cross.v_proj, cross.out_proj, heads)
            tree["cross_attention_norm"] = norm(one.encoder_attn_layer_norm)
        return tree

    return {"blocks": layers([block(one) for one in module.layers]), "norm": norm(module.layer_norm)}


def test_logits_are_those_of_whisper():
    """All but its two convolutions, which are a front end: what goes in is what comes out of Whisper's own."""
    heads, width = 4, 24
    config = transformers.WhisperConfig(
        vocab_size=VOCAB, d_model=width, encoder_layers=2, decoder_layers=3, encoder_attention_heads=heads,
        decoder_attention_heads=heads, encoder_ffn_dim=MLP, decoder_ffn_dim=MLP, num_mel_bins=8, max_source_positions=6,
        max_target_positions=TARGET, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3,
    )  # fmt: skip
    reference = transformers.WhisperForConditionalGeneration(config)
    sinusoids = array(reference.model.encoder.embed_positions.weight).copy()
    randomise(reference)
    encoder, decoder = reference.model.encoder, reference.model.decoder
    with torch.no_grad():
        encoder.embed_positions.weight.copy_(torch.tensor(sinusoids))
    spec = seq2seq.Seq2SeqSpec(
        **(SIZE | {"num_heads": heads, "kv_dim": width // heads}), norm="layer", norm_epsilon=1e-5, gated=False,
        activation="gelu_exact", bias=True, key_bias=False, attention_scale=True, encoder_positions="sinusoidal",
        decoder_positions="learned", logits="tied",
    )  # fmt: skip
    model = seq2seq.Seq2Seq(spec, VOCAB, max_target_length=TARGET)
    params = {
        "embedding": array(decoder.embed_tokens.weight),
        "encoder": whisper_stack(encoder, heads),
        "decoder": whisper_stack(decoder, heads) | {"learned": array(decoder.embed_positions.weight)},
    }
    rng = np.random.default_rng(0)
    _, _, _, target, _, positions = batch(rng)
    mel = torch.tensor(rng.normal(0, 1, (BATCH, 8, 12)), dtype=torch.float32)
    with torch.no_grad():
        frames = torch.nn.functional.gelu(encoder.conv2(torch.nn.functional.gelu(encoder.conv1(mel)))).mT
        expected = reference(input_features=mel, decoder_input_ids=torch.tensor(target)).logits.numpy()
    ones = lambda length: np.ones((BATCH, length), np.int32)
    source_positions = np.broadcast_to(np.arange(6), (BATCH, 6))
    assert_same_tree(model, params, (ones(6), ones(6), source_positions, target, ones(TARGET), positions))

    def whisper(model, frames, target, segments, positions):
        encoded = model.encode_embedded(frames, ones(6), source_positions)
        return model.decode(encoded, ones(6), target, segments, positions)

    arrays = jnp.asarray(frames.numpy()), target, ones(TARGET), positions
    check(model, params, arrays, expected, method=whisper)
