"""Folders of images and masks as people have them: masks lie on their objects, and what is wrong is one line."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from research.data.images import segmentation
from tests.running import run
from tests.strangers.test_boxes import BOX, HEIGHT, INVERSE, WIDTH, refused, write_image


def mask_of(size=(WIDTH, HEIGHT), box=BOX, value=1, dtype=np.uint8):
    numbers = np.zeros((size[1], size[0]), dtype)
    left, top, right, bottom = box
    numbers[top:bottom, left:right] = value
    return Image.fromarray(numbers)


def write_masks(root, masks=(), classes="wall\nthing\n", count=4):
    """Image n and the n-th mask, or a good one."""
    masks = [*masks, *[mask_of()] * count][:count]
    for n, mask in enumerate(masks):
        write_image(root / "images" / f"{n}.jpg")
        (root / "masks").mkdir(exist_ok=True)
        if isinstance(mask, bytes):
            (root / f"masks/{n}.png").write_bytes(mask)
        else:
            mask.save(root / f"masks/{n}.png")
    (root / "classes.txt").write_text(classes)
    return root


@pytest.fixture
def prepare(tmp_path):
    """Runs `prepare` on a folder."""
    return lambda root: run(["research.data", "prepare", f"folder:{root}", "--data_dir", tmp_path / "data"])


def test_masks_lie_on_their_objects_whatever_way_the_image_is_stored(tmp_path, prepare):
    root = tmp_path / "own"
    (root / "masks").mkdir(parents=True)
    write_masks(root, count=0)
    cases = [(o, "shown") for o in range(1, 9)] + [(o, "stored") for o in (5, 6, 7, 8)] + [(6, "with EXIF")]
    for n, (orientation, frame) in enumerate(cases):
        write_image(root / "images" / f"{n}.jpg", orientation)
        mask, exif = mask_of(), Image.Exif()
        if frame != "shown":
            mask = mask.transpose(INVERSE[orientation])
        if frame == "with EXIF":
            exif[0x0112] = orientation
        mask.save(root / f"masks/{n}.png", exif=exif)
    assert prepare(root).code == 0
    config = {"name": f"folder:{root}", "dir": str(tmp_path / "data"), "validation_fraction": 0.2}
    data, seen = segmentation.load(segmentation.SegmentationDataSpec(**config)), 0
    for split in data.counts:
        for batch in data.eval_batches(split, 1):
            if batch["weight"][0]:
                red = batch["image"][0][..., 1] < 60
                assert batch["mask"][0].shape == (HEIGHT, WIDTH)
                assert (red == (batch["mask"][0] == 1)).mean() > 0.98
                seen += 1
    assert seen == len(cases)


def encoded(image, file_format):
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


BAD_MASKS = {
    "colours": (mask_of().convert("RGB"), "has the channels RGB; one channel of class indices is needed"),
    "grey with alpha": (mask_of().convert("LA"), "has the channels LA; one channel"),
    "another size": (mask_of((40, 30)), "is 80 x 60 px, but its mask"),
    "turned, and no EXIF says so": (mask_of((HEIGHT, WIDTH)), "is 60 x 80 px"),
    "beyond the classes": (mask_of(value=2), "holds the class index 2; the 2 classes are 0 to 1, and 255 is void"),
    "16 bits": (mask_of(value=256, dtype=np.uint16), "holds the class index 256; a mask may hold 0 to 255"),
    "negative": (
        encoded(mask_of(value=-1, dtype=np.int32), "TIFF"),
        "holds the class index -1; a mask may hold 0 to 255",
    ),
    "fractions": (encoded(mask_of(dtype=np.float32), "TIFF"), "has the channels F; one channel"),
    "JPEG": (encoded(mask_of(value=255), "JPEG"), "is a JPEG, whose compression changes class indices"),
    "noise": (os.urandom(200), "cannot be decoded"),
    "empty": (b"", "cannot be decoded"),
}


@pytest.mark.parametrize(("mask", "message"), BAD_MASKS.values(), ids=BAD_MASKS)
def test_a_bad_mask_is_named(tmp_path, prepare, mask, message):
    error = refused(prepare(write_masks(tmp_path / "own", [mask])))
    assert message in error and "masks/0.png" in error, error


def test_masks_with_a_palette_of_16_bits_or_all_void(tmp_path, prepare):
    palette = mask_of().convert("P")
    palette.putpalette([0, 0, 0, 200, 30, 30] + [0] * 762)
    masks = [palette, mask_of(dtype=np.uint16), mask_of(value=255), mask_of().point(lambda value: value * 255, "1")]
    done = prepare(write_masks(tmp_path / "own", masks))
    assert "pixels of train: wall 90.3%, thing 9.7%" in done.out, done.err  # 3 of 4 boxes of 600 px, and 1 of void
    done = prepare(write_masks(tmp_path / "void", [mask_of(box=(0, 0, WIDTH, HEIGHT), value=255)], count=1))
    assert done.code == 0 and "all void, none has a class" in done.out and "Warning" not in done.err


def folder_with(change):
    def build(root):
        change(write_masks(root))
        return root

    return build


def split_twice(root):
    for split in ("train", "val", "valid"):
        write_masks(root / split)


def move_deeper(root):
    (root / "images/more").mkdir()
    (root / "images/3.jpg").rename(root / "images/more/3.jpg")
    (root / "masks/3.png").unlink()


BAD_FOLDERS = {
    "no classes": (lambda root: (root / "classes.txt").unlink(), "classes.txt is missing"),
    "one class": (lambda root: (root / "classes.txt").write_text("wall\n"), "lists 1 classes; 2 to 255 are allowed"),
    "too many": (
        lambda root: (root / "classes.txt").write_text("".join(f"c{n}\n" for n in range(256))),
        "lists 256 classes; 2 to 255 are allowed",
    ),
    "classes in Latin 1": (lambda root: (root / "classes.txt").write_bytes(b"w\xe4ll\nthing\n"), "invalid UTF-8"),
    "no mask": (lambda root: (root / "masks/2.png").unlink(), "2.jpg is an image without mask"),
    "no image": (lambda root: (root / "images/2.jpg").unlink(), "2.png is a mask without image"),
    "val and valid": (split_twice, "are both folders for validation; keep one of them"),
    "deeper": (move_deeper, "images/more/3.jpg is in a subfolder, which is not read (1 such)"),
}


@pytest.mark.parametrize(("change", "message"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_a_bad_folder_is_refused(tmp_path, prepare, change, message):
    assert message in prepare(folder_with(change)(tmp_path / "own")).error


def test_hidden_files_are_no_images(tmp_path, prepare):
    root = write_masks(tmp_path / "own")
    for name in ("images/._0.jpg", "masks/._1.png", "images/.DS_Store"):
        (root / name).write_bytes(os.urandom(64))
    (root / "images/.ipynb_checkpoints").mkdir()
    write_image(root / "images/.ipynb_checkpoints/0-checkpoint.jpg")
    assert "(train 4, pixels of train" in prepare(root).out
