"""Tokens of clips, and which of them attend to which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models import video
from research.models.attention import Context

TINY = {
    "num_classes": 3, "frames": 4, "tubelet": 1, "image_size": 4, "patch_size": 2, "width": 8, "depth": 1, "mlp_dim": 8,
    "num_heads": 2,
}  # fmt: skip


def clips(seed=0, count=2, frames=4):
    return np.random.default_rng(seed).normal(size=(count, frames, 4, 4, 1)).astype(np.float32)


def make(space_time, **settings):
    """A model, and random variables for it, since behind a fresh head of zeros all logits would be zero."""
    model = video.VideoViT.of(**{**TINY, "space_time": space_time, **settings})
    shapes = jax.eval_shape(model.init, jax.random.key(0), clips(frames=model.spec.frames))
    rng = np.random.default_rng(1)
    return model, jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)


def test_a_tubelet_is_a_patch_of_neighbouring_frames():
    model, _ = make("joint", tubelet=2)
    images = clips()
    tubelets = np.asarray(model._tubelets(jnp.asarray(images)))
    assert tubelets.shape == (2, 2, 4, 8)
    for time in range(2):
        for row in range(2):
            for column in range(2):
                cut = images[1, 2 * time : 2 * time + 2, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                np.testing.assert_array_equal(tubelets[1, time, 2 * row + column], cut.ravel())


def test_single_frames_do_not_know_their_order():
    model, variables = make("frames")
    mixed = clips()[:, [2, 0, 3, 1]]
    apply = jax.jit(model.apply)
    np.testing.assert_allclose(apply(variables, clips()), apply(variables, mixed), atol=1e-5)
    # And the logits of a clip of one frame again and again are those of the frame.
    head = variables["params"]["head"]
    still = np.repeat(clips()[:, :1], 4, axis=1)
    one, ones = make("frames", frames=1)
    ones["params"] |= variables["params"]
    np.testing.assert_allclose(apply(variables, still), jax.jit(one.apply)(ones, still[:, :1]), atol=1e-5)
    assert head["kernel"].shape == (8, 3)


def test_changes_are_those_since_the_frame_before():
    images = jnp.asarray(clips())
    seen = np.asarray(make("joint", input_mode="both")[0]._inputs(images))
    np.testing.assert_array_equal(seen[..., :1], images)
    expected = 4 * np.abs(np.asarray(images)[:, 1:] - np.asarray(images)[:, :-1])
    np.testing.assert_allclose(seen[:, 1:, ..., 1:], expected, rtol=1e-6)
    np.testing.assert_array_equal(seen[:, 0], np.concatenate([images[:, 0], seen[:, 1, ..., 1:]], -1))


def test_frame_differences_alone_ignore_a_static_background():
    background = clips(seed=3, frames=1)
    for sees, moved in (("changes", False), ("both", True), ("frames", True)):
        model, variables = make("factorised", input_mode=sees)
        apply = jax.jit(model.apply)
        difference = np.abs(apply(variables, clips()) - apply(variables, clips() + background)).max()
        assert bool(difference > 1e-3) is moved, sees


@pytest.mark.parametrize("space_time", ["joint", "factorised"])
def test_other_input_modes_depend_on_a_static_background(space_time):
    model, variables = make(space_time)
    apply = jax.jit(model.apply)
    assert np.abs(apply(variables, clips()) - apply(variables, clips()[:, [2, 0, 3, 1]])).max() > 1e-3


def test_a_factorised_layer_attends_to_the_same_time_and_the_same_place():
    """The gradient of one token of a layer: not zero where a path leads, over space and then over time to all."""
    spec = video.VideoViTSpec(**{name: value for name, value in TINY.items() if name != "num_classes"})
    ((_, make),) = video.vit.make_stack(spec, {}, "pre", video.FACTORISED)().pattern
    model = make(parent=None)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 4, 8)), jnp.float32)
    variables = model.init(jax.random.key(0), x, Context())
    seen = jax.grad(lambda x, params: model.apply({"params": params}, x, Context())[0, 0, 0].sum())
    assert (np.abs(seen(x, variables["params"])).max(-1) > 0).all()
    # Without attention over time, only the tokens of the same time; without that over space, those of the same place.
    for silent, expected in (
        ("time_attention", {(0, place) for place in range(4)}),
        ("attention", {(time, 0) for time in range(3)}),
    ):
        params = dict(variables["params"])
        params[silent] = jax.tree.map(np.zeros_like, params[silent])
        reached = np.abs(np.asarray(seen(x, params))).max(-1)[0] > 0
        assert set(zip(*np.nonzero(reached), strict=True)) == expected


@pytest.mark.parametrize(("settings", "message"), [
    ({"input_mode": "flow"}, r"^input_mode='flow' is unknown; choose from both, changes, frames"),
    ({"space_time": "divided"}, r"^space_time='divided' is unknown; choose from factorised, frames, joint"),
    ({"tubelet": 3}, r"^frames=4 must be a multiple of tubelet=3"),
])  # fmt: skip
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        video.VideoViT.of(**{**TINY, **settings})


def test_clips_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"frames=4 and image_size=4, but clips have 2 frames of 4 x 4"):
        jax.eval_shape(video.VideoViT.of(**TINY).init, jax.random.key(0), clips(frames=2))
