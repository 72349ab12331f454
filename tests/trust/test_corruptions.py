"""Corruptions: strength, independence of the batch, and what each leaves as it is."""

import numpy as np
import pytest

from research.trust import corruptions


@pytest.fixture(scope="module")
def images():
    """Smooth images, so that each kind changes them."""
    rows, columns = np.mgrid[:32, :32] / 31
    waves = [np.stack([rows, columns, 0.5 + 0.4 * np.sin(9 * rows + k * columns)], -1) for k in range(3)]
    return np.rint(np.array(waves) * 255).astype(np.uint8)


@pytest.mark.parametrize("kind", corruptions.KINDS)
def test_each_severity_changes_more(images, kind):
    seeds = np.arange(len(images))
    distance = [
        np.abs(corruptions.corrupt(images, kind, severity, seeds).astype(int) - images).mean() for severity in (1, 3, 5)
    ]
    assert 0 < distance[0] < distance[1] < distance[2]


@pytest.mark.parametrize("kind", corruptions.KINDS)
@pytest.mark.parametrize("size", [32, 80])
def test_an_image_is_corrupted_alike_in_every_batch_and_of_any_channels(kind, size):
    grey = np.random.default_rng(0).integers(0, 256, (4, size, size + 2, 1), np.uint8)
    whole = corruptions.corrupt(grey, kind, 4, np.array([5, 6, 7, 8]))
    np.testing.assert_array_equal(corruptions.corrupt(grey[2:3], kind, 4, np.array([7])), whole[2:3])
    assert whole.shape == grey.shape and whole.dtype == np.uint8


def test_noise_has_its_strength_and_blurs_keep_the_mean(images):
    flat = np.full((1, 200, 200, 1), 128, np.uint8)
    noise = corruptions.corrupt(flat, "gaussian_noise", 2, np.array([0])).astype(float) - 128
    assert noise.std() / 255 == pytest.approx(0.12, rel=0.03)
    salt = corruptions.corrupt(flat, "impulse_noise", 5, np.array([0]))
    assert (salt != 128).mean() == pytest.approx(0.27, rel=0.05)
    for kind in ("gaussian_blur", "defocus_blur", "motion_blur", "zoom_blur", "pixelate"):
        assert np.abs(corruptions.corrupt(flat, kind, 5, np.array([0])).astype(int) - 128).max() <= 1


def test_an_unknown_kind_is_refused(images):
    with pytest.raises(ValueError, match=r"unknown corruption 'rain'.*fog"):
        corruptions.corrupt(images, "rain", 1, np.arange(3))
