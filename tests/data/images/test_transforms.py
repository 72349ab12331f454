import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from research.data.images import detection, randaugment, segmentation, transforms
from research.data.images.spec import StillImageSpec
from research.spec.fields import infos


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def sample():
    """40 x 30 px (width, height), every pixel different, with texture in the blue channel."""
    y, x = np.mgrid[:30, :40]
    return Image.fromarray(np.stack([x * 6, y * 8, x * y * 37 % 256], -1).astype(np.uint8))


def encode(image, file_format="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, format=file_format)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1", "LA"])
@pytest.mark.parametrize(("channels", "expected"), [(1, "L"), (3, "RGB")])
def test_any_kind_of_image_gets_the_channels_asked_for(sample, mode, channels, expected):
    image = transforms.decode(encode(sample.convert(mode)), channels)
    assert (image.mode, image.size) == (expected, (40, 30))


def test_cmyk_jpeg(sample):
    image = transforms.decode(encode(sample.convert("CMYK"), "JPEG"), 3)
    assert np.abs(np.asarray(image, int) - np.asarray(sample, int))[..., :2].mean() < 30  # not its negative


def test_evaluation_resizes_the_shorter_side_and_crops_the_centre(sample):
    example = {"image": encode(sample), "label": 3}
    whole = transforms.EvalImageTransform(size=30, resize=30, channels=3)(example)
    np.testing.assert_array_equal(whole["image"], np.asarray(sample)[:, 5:35])
    assert whole["label"] == 3
    assert whole["label"].dtype == np.int32
    assert transforms.resize_shorter(sample, 60).size == (80, 60)
    assert transforms.resize_shorter(sample.rotate(90, expand=True), 15).size == (15, 20)
    assert transforms.EvalImageTransform(size=24, resize=60, channels=3)(example)["image"].shape == (24, 24, 3)
    assert transforms.EvalImageTransform(size=24, resize=24, channels=1)(example)["image"].shape == (24, 24, 1)


def test_padded_crop_is_a_window_of_the_framed_image(sample, rng):
    square = sample.crop((0, 0, 30, 30))
    framed = np.pad(np.asarray(square), ((4, 4), (4, 4), (0, 0)))
    windows = [framed[top : top + 30, left : left + 30].tobytes() for top in range(9) for left in range(9)]
    drawn = [windows.index(np.asarray(transforms.random_crop(square, 30, rng, pad=4)).tobytes()) for _ in range(600)]
    assert len(set(drawn)) == 81, "every position occurs"


def test_reflecting_crop_is_a_window_of_the_reflected_image(rng):
    pixels = rng.integers(0, 256, (7, 6, 3)).astype(np.uint8)
    padded = np.pad(pixels, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    windows = [padded[y : y + 6, x : x + 6].tobytes() for y in range(6) for x in range(5)]
    crop = lambda: transforms.random_crop(Image.fromarray(pixels), 6, rng, pad=2, pad_mode="reflect")
    drawn = [windows.index(np.asarray(crop()).tobytes()) for _ in range(600)]
    assert set(drawn) == set(range(30))


def test_random_crop_stays_inside(sample, rng):
    tops = {transforms.random_crop(sample, 20, rng).getpixel((0, 0)) for _ in range(3000)}
    assert tops == {sample.getpixel((x, y)) for x in range(21) for y in range(11)}


def test_inception_crop_covers_the_stated_areas_and_ratios(rng, monkeypatch):
    image, boxes = Image.new("RGB", (400, 300)), []
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *_, box: boxes.append(box) or self.crop((0, 0, *size))
    )
    for _ in range(500):
        assert transforms.inception_crop(image, 32, rng).size == (32, 32)
    left, top, right, bottom = np.array(boxes).T
    assert left.min() >= 0
    assert top.min() >= 0
    assert right.max() <= 400
    assert bottom.max() <= 300
    area = (right - left) * (bottom - top) / (400 * 300)
    ratio = (right - left) / (bottom - top)
    assert 0.079 < area.min() < 0.12
    assert 0.85 < area.max() <= 1
    assert 0.74 < ratio.min() < 0.78
    assert 1.28 < ratio.max() < 1.36


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic"])
def test_inception_crop_resizes_as_the_config_says(sample, monkeypatch, name):
    resize, calls = Image.Image.resize, []

    def recorded(self, size, resampling, box):
        calls.append(resampling)
        return resize(self, size, resampling, box)

    monkeypatch.setattr(Image.Image, "resize", recorded)
    train = transforms.TrainImageTransform(size=16, resize=16, channels=3, crop="inception", interpolation=name)
    train({"image": encode(sample), "label": 0}, np.random.default_rng(5))
    assert calls == [Image.Resampling[name.upper()]]


def test_inception_crop_of_a_strip_falls_back_to_the_centre(rng):
    assert transforms.inception_crop(Image.new("RGB", (500, 4)), 32, rng).size == (32, 32)


def test_flip_happens_to_half_of_the_images(sample, rng):
    train = transforms.TrainImageTransform(size=30, resize=30, channels=3, flip=True)
    example = {"image": encode(sample), "label": 0}
    plain = transforms.EvalImageTransform(size=30, resize=30, channels=3)(example)["image"]
    drawn = [train(example, rng)["image"] for _ in range(200)]
    flipped = sum(np.array_equal(image, plain[:, ::-1]) for image in drawn)
    assert flipped + sum(np.array_equal(image, plain) for image in drawn) == 200
    assert 70 < flipped < 130


class Fixed:
    """A generator that draws what it is told."""

    def __init__(self, *values):
        self.values = list(values)

    def uniform(self, low, high, size=None):
        return self.values.pop(0)


def test_affine_moves_rotates_and_scales_about_the_centre():
    dot = Image.new("L", (9, 9))
    dot.putpixel((6, 4), 255)
    affine = lambda angle, move, factor: np.asarray(
        transforms.random_affine(dot, 180, 5, 0.5, Fixed(angle, np.array(move), factor))
    )
    np.testing.assert_array_equal(affine(0, (0, 0), 1), np.asarray(dot))
    assert affine(0, (1, -2), 1)[2, 7] == 255
    assert affine(90, (0, 0), 1)[6, 4] > 200, "right of the centre goes below it"
    assert affine(0, (0, 0), 1.5)[4, 7] > 150, "twice as far becomes three times"


@pytest.mark.parametrize("operation", randaugment.OPERATIONS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_randaugment_keeps_the_geometry_and_only_identity_leaves_the_image(sample, operation, mode):
    image = sample.convert(mode)
    results = [randaugment.operate(image, operation, strength=1.0, sign=sign) for sign in (-1, 1)]
    assert all((result.size, result.mode) == (image.size, mode) for result in results)
    unchanged = operation == "identity" or (operation == "color" and mode == "L")
    assert all((result.tobytes() == image.tobytes()) == unchanged for result in results)


@pytest.mark.parametrize("operation", sorted(set(randaugment.OPERATIONS) - {"autocontrast", "equalize"}))
def test_randaugment_of_no_strength_does_nothing(sample, operation):
    result = randaugment.operate(sample, operation, strength=0.0, sign=1)
    assert np.abs(np.asarray(result, int) - np.asarray(sample, int)).max() <= 1


def test_randaugment_strengths_reach_autoaugments_ranges():
    grey = Image.new("L", (331, 331), 100)
    assert randaugment.operate(grey, "solarize", 1.0, 1).getpixel((0, 0)) == 155
    assert randaugment.operate(Image.new("L", (2, 2), 255), "posterize", 1.0, 1).getpixel((0, 0)) == 0b11110000
    moved = np.asarray(randaugment.operate(grey, "translate_x", 1.0, 1))
    assert (moved == randaugment.GREY).all(axis=0).sum() == 150
    assert randaugment.operate(grey, "brightness", 1.0, -1).getpixel((0, 0)) == 10
    assert randaugment.operate(grey, "brightness", 2.8, -1).getpixel((0, 0)) == 0, "beyond the range, not below black"


def test_randaugment_is_a_function_of_the_generator(sample):
    draw = lambda seed: randaugment.apply(sample, 2, 9, np.random.default_rng(seed)).tobytes()
    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(20)}) > 10
    assert randaugment.apply(sample, 0, 9, np.random.default_rng(0)) is sample


def test_stretched_images_keep_their_edges(sample):
    example = {"image": encode(sample), "label": 3}
    seen = transforms.EvalImageTransform(size=20, resize=20, channels=3, stretch=True)(example)["image"]
    np.testing.assert_array_equal(seen, np.asarray(sample.resize((20, 20), Image.Resampling.BILINEAR)))


def test_histogram_equalisation_removes_affine_intensity_changes(rng):
    pixels = rng.permutation(np.arange(4096) // 64).reshape(64, 64).astype(np.uint8)
    settings = {"size": 64, "resize": 64, "channels": 1, "illumination": "equalized"}
    bright, dim = (
        transforms.EvalImageTransform(**settings)({"image": encode(Image.fromarray(each)), "label": 0})["image"]
        for each in (3 * pixels + 20, pixels)
    )
    np.testing.assert_array_equal(bright, dim)
    assert dim.min() == 0 and dim.max() > 240
    cropped = transforms.TrainImageTransform(**settings, crop="random")(
        {"image": encode(Image.fromarray(pixels)), "label": 0}, rng
    )
    np.testing.assert_array_equal(cropped["image"], dim)


def blur(pixels, sigma):
    """A Gaussian blur by explicit sums, the border mirrored with its last pixel."""
    reach = round(4 * sigma)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    for axis in (0, 1):
        padded = np.pad(pixels, [(reach, reach) if each == axis else (0, 0) for each in (0, 1)], "symmetric")
        pixels = np.apply_along_axis(np.convolve, axis, padded, weights / weights.sum(), mode="valid")
    return pixels


def test_tan_triggs_equals_an_independent_implementation(rng):
    pixels = rng.integers(0, 256, (24, 20)).astype(np.uint8)
    powers = (pixels + 1.0) ** 0.2
    contrast = blur(powers, 1) - blur(powers, 2)
    contrast /= np.mean(np.abs(contrast) ** 0.1) ** 10
    contrast /= np.mean(np.minimum(np.abs(contrast), 10) ** 0.1) ** 10
    expected = 127.5 + 12.75 * 10 * np.tanh(contrast / 10)
    np.testing.assert_allclose(np.asarray(transforms.local_contrast(Image.fromarray(pixels))), expected, atol=0.6)


def test_tan_triggs_removes_smooth_illumination(sample):
    grey = np.asarray(sample.convert("L").resize((64, 64), Image.Resampling.BICUBIC), float)
    light = np.linspace(0.3, 1.0, 64)[:, None] * np.linspace(1.0, 0.5, 64)
    lit, unlit = (
        np.asarray(transforms.local_contrast(Image.fromarray(each.round().astype(np.uint8))), float)
        for each in (grey * light, grey)
    )
    inner = (slice(4, -4),) * 2
    assert np.corrcoef((grey * light)[inner].ravel(), grey[inner].ravel())[0, 1] < 0.9
    assert np.corrcoef(lit[inner].ravel(), unlit[inner].ravel())[0, 1] > 0.97


def test_tan_triggs_acts_per_channel_and_is_zero_for_a_constant_image(sample):
    apart = [np.asarray(transforms.local_contrast(band)) for band in sample.split()]
    np.testing.assert_array_equal(np.asarray(transforms.local_contrast(sample)), np.stack(apart, -1))
    flat = np.asarray(transforms.local_contrast(Image.new("L", (9, 7), 40)))
    assert flat.shape == (7, 9) and (np.abs(flat - 127.5) < 1).all()


def test_color_jitter_stays_within_its_limits(sample, rng):
    pixels = np.asarray(sample, float)
    seen = [np.asarray(transforms.jitter_brightness(sample, 0.2, 0.0, rng), float) for _ in range(50)]
    gains = [(each.sum() / pixels.sum()) for each in seen if each.max() < 255]
    assert 0.79 < min(gains) < 0.9 and max(gains) < 1.21
    inner = np.abs(pixels - pixels.mean()) < 40  # where nothing is clipped
    spreads = [
        (np.asarray(transforms.jitter_brightness(sample, 0.0, 0.3, rng), float) - pixels.mean())[inner].std()
        for _ in range(50)
    ]
    spreads = np.array(spreads) / pixels[inner].std()
    assert 0.69 < spreads.min() < 0.8 and 1.2 < spreads.max() < 1.31


def test_erasing_fills_one_rectangle_of_the_area_said(rng):
    pixels = np.full((40, 30, 1), 77, np.uint8)
    shares = []
    for _ in range(200):
        changed = transforms.random_erase(pixels, rng)[..., 0] != 77
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.9
        shares.append(height * width / changed.size)
    assert 0.01 < min(shares) < 0.08 and 0.25 < max(shares) < 0.38
    assert (pixels == 77).all()
    train = transforms.TrainImageTransform(size=30, resize=30, channels=1, random_erasing=0.25)
    example = {"image": encode(Image.fromarray(np.full((30, 30), 77, np.uint8))), "label": 0}
    erased = [(train(example, rng)["image"] != 77).any() for _ in range(400)]
    assert 0.18 < np.mean(erased) < 0.32


@pytest.mark.parametrize(
    ("transform", "spec"),
    [
        (transforms.TrainImageTransform, StillImageSpec),
        (detection.TrainBoxTransform, detection.DetectionDataSpec),
        (segmentation.TrainMaskTransform, segmentation.SegmentationDataSpec),
    ],
)
def test_a_transform_has_the_defaults_of_the_fields_that_configure_it(transform, spec):
    declared = {each.name: each.default for each in infos(spec)}
    own = {each.name: each.default for each in dataclasses.fields(transform)}
    shared = {name for name in declared.keys() & own.keys() if own[name] is not dataclasses.MISSING}
    assert len(shared) >= 3
    assert {name: own[name] for name in shared} == {name: declared[name] for name in shared}
