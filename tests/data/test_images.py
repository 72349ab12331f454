import io

import numpy as np
import pytest
from PIL import Image

from research.data import images, randaugment


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def picture():
    """40 x 30 px (width, height), every pixel different, with texture in the blue channel."""
    y, x = np.mgrid[:30, :40]
    return Image.fromarray(np.stack([x * 6, y * 8, x * y * 37 % 256], -1).astype(np.uint8))


def encode(image, file_format="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, format=file_format)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1", "LA"])
@pytest.mark.parametrize(("channels", "expected"), [(1, "L"), (3, "RGB")])
def test_any_kind_of_picture_gets_the_channels_asked_for(picture, mode, channels, expected):
    image = images.decode(encode(picture.convert(mode)), channels)
    assert (image.mode, image.size) == (expected, (40, 30))


def test_cmyk_jpeg(picture):
    image = images.decode(encode(picture.convert("CMYK"), "JPEG"), 3)
    assert np.abs(np.asarray(image, int) - np.asarray(picture, int))[..., :2].mean() < 30  # not its negative


def test_evaluation_resizes_the_shorter_side_and_crops_the_centre(picture):
    example = {"image": encode(picture), "label": 3}
    whole = images.Evaluate(size=30, resize=30, channels=3)(example)
    np.testing.assert_array_equal(whole["image"], np.asarray(picture)[:, 5:35])
    assert whole["label"] == 3
    assert whole["label"].dtype == np.int32
    assert images.resize_shorter(picture, 60).size == (80, 60)
    assert images.resize_shorter(picture.rotate(90, expand=True), 15).size == (15, 20)
    assert images.Evaluate(size=24, resize=60, channels=3)(example)["image"].shape == (24, 24, 3)
    assert images.Evaluate(size=24, resize=24, channels=1)(example)["image"].shape == (24, 24, 1)


def test_padded_crop_is_a_window_of_the_framed_picture(picture, rng):
    square = picture.crop((0, 0, 30, 30))
    framed = np.pad(np.asarray(square), ((4, 4), (4, 4), (0, 0)))
    windows = [framed[top : top + 30, left : left + 30].tobytes() for top in range(9) for left in range(9)]
    drawn = [windows.index(np.asarray(images.random_crop(square, 30, rng, pad=4)).tobytes()) for _ in range(600)]
    assert len(set(drawn)) == 81, "every position occurs"


def test_random_crop_stays_inside(picture, rng):
    tops = {images.random_crop(picture, 20, rng).getpixel((0, 0)) for _ in range(3000)}
    assert tops == {picture.getpixel((x, y)) for x in range(21) for y in range(11)}


def test_inception_crop_covers_the_stated_areas_and_ratios(rng, monkeypatch):
    image, boxes = Image.new("RGB", (400, 300)), []
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *_, box: boxes.append(box) or self.crop((0, 0, *size))
    )
    for _ in range(500):
        assert images.inception_crop(image, 32, rng).size == (32, 32)
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


def test_inception_crop_of_a_strip_falls_back_to_the_centre(rng):
    assert images.inception_crop(Image.new("RGB", (500, 4)), 32, rng).size == (32, 32)


def test_flip_happens_to_half_of_the_pictures(picture, rng):
    train = images.Train(size=30, resize=30, channels=3, flip=True)
    example = {"image": encode(picture), "label": 0}
    plain = images.Evaluate(size=30, resize=30, channels=3)(example)["image"]
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
        images.random_affine(dot, 180, 5, 0.5, Fixed(angle, np.array(move), factor))
    )
    np.testing.assert_array_equal(affine(0, (0, 0), 1), np.asarray(dot))
    assert affine(0, (1, -2), 1)[2, 7] == 255
    assert affine(90, (0, 0), 1)[6, 4] > 200, "right of the centre goes below it"
    assert affine(0, (0, 0), 1.5)[4, 7] > 150, "twice as far becomes three times"


@pytest.mark.parametrize("operation", randaugment.OPERATIONS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_randaugment_keeps_the_geometry_and_only_identity_leaves_the_picture(picture, operation, mode):
    image = picture.convert(mode)
    results = [randaugment.operate(image, operation, strength=1.0, sign=sign) for sign in (-1, 1)]
    assert all((result.size, result.mode) == (image.size, mode) for result in results)
    unchanged = operation == "identity" or (operation == "color" and mode == "L")
    assert all((result.tobytes() == image.tobytes()) == unchanged for result in results)


@pytest.mark.parametrize("operation", sorted(set(randaugment.OPERATIONS) - {"autocontrast", "equalize"}))
def test_randaugment_of_no_strength_does_nothing(picture, operation):
    result = randaugment.operate(picture, operation, strength=0.0, sign=1)
    assert np.abs(np.asarray(result, int) - np.asarray(picture, int)).max() <= 1


def test_randaugment_strengths_reach_autoaugments_ranges():
    grey = Image.new("L", (331, 331), 100)
    assert randaugment.operate(grey, "solarize", 1.0, 1).getpixel((0, 0)) == 155
    assert randaugment.operate(Image.new("L", (2, 2), 255), "posterize", 1.0, 1).getpixel((0, 0)) == 0b11110000
    moved = np.asarray(randaugment.operate(grey, "translate_x", 1.0, 1))
    assert (moved == randaugment.GREY).all(axis=0).sum() == 150
    assert randaugment.operate(grey, "brightness", 1.0, -1).getpixel((0, 0)) == 10
    assert randaugment.operate(grey, "brightness", 2.8, -1).getpixel((0, 0)) == 0, "beyond the range, not below black"


def test_randaugment_is_a_function_of_the_generator(picture):
    draw = lambda seed: randaugment.apply(picture, 2, 9, np.random.default_rng(seed)).tobytes()
    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(20)}) > 10
    assert randaugment.apply(picture, 0, 9, np.random.default_rng(0)) is picture
