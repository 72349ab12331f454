"""Pixels, masks and boxes move alike: what is drawn before is found again after."""

import numpy as np
import pytest
from PIL import Image

from research.data.images import views

SIZE, BOX = (60, 80), (22, 15, 50, 40)  # of the image; left, top, right, bottom of what is drawn in it


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def mask():
    mask = np.zeros(SIZE, np.uint8)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 1
    return mask


def found(mask):
    """The box around the ones of a mask."""
    rows, columns = np.flatnonzero((mask == 1).any(1)), np.flatnonzero((mask == 1).any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def test_a_drawn_box_is_found_where_the_view_says(mask, rng):
    image, seen = Image.fromarray(mask * 200), 0
    for _ in range(200):
        canvas = (int(rng.integers(40, 90)), int(rng.integers(40, 90)))
        view = views.drawn(SIZE, canvas, (0.5, 2.0), flip=True, rng=rng, vertical_flip=True)
        moved = view.boxes(np.array([BOX], float), SIZE)[0]
        placed = view.mask(mask)
        assert placed.shape == canvas
        # Where the image is bright there is the box, and void is where it is not at all.
        bright = np.asarray(view.image(image, (255,)))
        assert ((bright > 150) == (placed > 0)).mean() > 0.93
        assert (bright[placed == views.VOID] == 255).all()
        if (placed == 1).sum() > 0 and (moved.clip(0, [canvas[1], canvas[0]] * 2) == moved).all():
            np.testing.assert_allclose(found(placed), moved, atol=1.01)
            seen += 1
    assert seen > 50


def test_boxes_come_back(rng):
    boxes = rng.uniform(0, 60, (5, 4))
    for _ in range(20):
        view = views.drawn(SIZE, (70, 50), (0.5, 2.0), flip=True, rng=rng, vertical_flip=True)
        np.testing.assert_allclose(view.back(view.boxes(boxes, SIZE), SIZE), boxes, atol=1e-9)


def test_a_view_without_changes_is_the_image(mask):
    view = views.corner(SIZE, SIZE)
    np.testing.assert_array_equal(view.mask(mask), mask)
    np.testing.assert_array_equal(view.boxes(np.array([BOX]), SIZE), [BOX])


def test_an_image_is_fitted_at_its_own_ratio():
    assert views.fitted((60, 80), (30, 30)).resized == (22, 30)
    assert views.fitted((60, 80), (120, 400)).resized == (120, 160)
    assert views.fitted((1, 999), (8, 8)).resized == (1, 8)


def test_scales_offsets_and_flips_cover_their_ranges(rng):
    drawn = [views.drawn((20, 20), (24, 16), (1.0, 1.0), flip=True, rng=rng) for _ in range(400)]
    assert {(view.top, view.left) for view in drawn} == {(top, left) for top in range(-4, 1) for left in range(5)}
    assert 150 < sum(view.flip for view in drawn) < 250 and not any(view.vertical_flip for view in drawn)
    sides = [views.drawn((100, 100), (9, 9), (0.5, 2.0), flip=False, rng=rng).resized[0] for _ in range(400)]
    assert 50 <= min(sides) < 55 and 180 < max(sides) <= 200
    assert 170 < sum(side < 100 for side in sides) < 230, "log-uniform: as often smaller as larger"
