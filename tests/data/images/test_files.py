"""What the one reader makes of odd image files; its reasons end a sentence that begins with the file's name."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from research.data.images import files as image_files

UPRIGHT = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40  # no symmetry: each orientation gives other pixels


def encode(image, file_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def stored(orientation, pixels=UPRIGHT):
    """The pixels that a camera stores with this EXIF orientation, of a view that is `pixels` upright; by the standard,
    which says where row 0 and column 0 of what is stored lie in the view."""
    moves = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(moves[orientation](pixels))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_read_upright(orientation, file_format):
    exif = Image.Exif()
    exif[image_files.ORIENTATION] = orientation
    large = np.kron(UPRIGHT, np.ones((16, 16), np.uint8))  # which a lossy format keeps
    options = {"lossless": True} if file_format == "WEBP" else {}
    encoded = encode(Image.fromarray(stored(orientation, large)), file_format, exif=exif, **options)
    image = image_files.decode(encoded, 1)
    assert image.size == (48, 32)
    assert np.abs(np.asarray(image, int) - large).max() < 8


def test_a_mask_is_turned_as_its_image_is():
    exif = Image.Exif()
    exif[image_files.ORIENTATION] = 6
    np.testing.assert_array_equal(image_files.decode_mask(encode(Image.fromarray(stored(6)), exif=exif)), UPRIGHT)


def test_broken_exif_says_nothing():
    image = Image.fromarray(UPRIGHT)
    for exif in (b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0nonsense", b"Exif\0\0"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert image_files.decode(encode(image, "JPEG", exif=exif), 1).size == (3, 2)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_sixteen_bits_are_scaled_by_their_full_range(file_format, channels, mode):
    levels = np.array([[0, 128, 129], [257, 32896, 65535]], np.uint16)
    image = image_files.decode(encode(Image.fromarray(levels), file_format), channels)
    assert image.mode == mode
    np.testing.assert_array_equal(np.atleast_3d(np.asarray(image))[..., 0], [[0, 0, 1], [1, 128, 255]])


def test_big_endian_sixteen_bits():
    header = b"P5 2 1 65535\n" + struct.pack(">2H", 65535, 32896)
    assert list(np.asarray(image_files.decode(header, 1))[0]) == [255, 128]
    tiff = Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 65535, 257))
    assert list(np.asarray(image_files.decode(encode(tiff, "TIFF"), 1))[0]) == [255, 1]


@pytest.mark.parametrize(("dtype", "word"), [(np.int32, "32-bit"), (np.float32, "floating-point")])
def test_numbers_of_unknown_range_are_refused(dtype, word):
    with pytest.raises(ValueError, match=f"^holds {word} numbers, whose range is unknown"):
        image_files.decode(encode(Image.fromarray(np.ones((2, 2), dtype)), "TIFF"), 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_is_left_out(mode, channels):
    """A pixel has the colour that is stored, whatever its transparency; nothing is warned of."""
    colours = Image.fromarray(np.array([[[200, 200, 200], [40, 40, 40]]], np.uint8))
    if mode in ("P", "PA"):
        image = colours.quantize(2)
        encoded = encode(image, transparency=bytes([0, 128]))
    else:
        image = colours.convert(mode)
        image.putalpha(Image.fromarray(np.array([[0, 255]], np.uint8)))
        encoded = encode(image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = np.atleast_3d(np.asarray(image_files.decode(encoded, channels)))
    np.testing.assert_array_equal(seen[0, :, 0], [200, 40])


def test_the_first_frame_of_an_animation():
    frames = [Image.fromarray(np.full((2, 2), level, np.uint8)) for level in (10, 250)]
    for file_format in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if file_format == "WEBP" else {}
        encoded = encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
        assert np.asarray(image_files.decode(encoded, 1)).max() == 10, file_format


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with(width, height, *more):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


BAD = {
    "bomb": (png_with(60000, 60000), "^has more than the allowed 178,956,970 pixels; resize it$"),
    "text bomb": (
        png_with(1, 1, chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b" " * (1 << 27)))),
        r"^cannot be decoded \(ValueError: .*too large",
    ),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", r"\(it is none of AVIF, .*"),
    "PDF": (b"%PDF-1.4\n", "it is none of AVIF"),
    "truncated": (encode(Image.effect_noise((64, 64), 50), "JPEG")[:900], r"^cannot be decoded \(OSError: .*truncated"),
    "empty": (b"", "it is none of AVIF"),
    "text": (b"Not an image.\n" * 40, "it is none of AVIF"),
}


@pytest.mark.parametrize(("content", "reason"), BAD.values(), ids=BAD)
def test_what_cannot_be_read_gives_one_reason(content, reason):
    with pytest.raises(ValueError, match=reason) as refused:
        image_files.decode(content, 3)
    assert type(refused.value) is ValueError and "\n" not in str(refused.value)
    with pytest.raises(ValueError, match=reason):
        image_files.decode_mask(content)


def test_a_mask_of_sixteen_bits_holds_its_numbers_unscaled():
    mask = np.array([[0, 3], [255, 7]], np.uint16)
    np.testing.assert_array_equal(image_files.decode_mask(encode(Image.fromarray(mask))), mask)
    with pytest.raises(ValueError, match=r"^holds the class index 256; a mask may hold 0 to 255"):
        image_files.decode_mask(encode(Image.fromarray(mask + 1)))


def test_orientations_are_those_of_pillow():
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[image_files.ORIENTATION] = orientation
        encoded = encode(Image.fromarray(stored(orientation)), exif=exif)
        theirs = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
        np.testing.assert_array_equal(np.asarray(theirs), UPRIGHT)


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(ValueError, match=r"image '.*' cannot be read: Is a directory$"):
        image_files.read(str(tmp_path), 3)
