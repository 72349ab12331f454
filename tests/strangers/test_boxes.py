"""Folders of COCO and VOC as people have them: boxes lie on their objects, and what is left out is counted.

Images are grey with one red rectangle, so that a box is right where its inside is red and its rim is not.
"""

import json

import numpy as np
import pytest
from PIL import Image

from research.data.images import detection
from tests.running import run

GREY, RED = (90, 90, 90), (250, 30, 30)
WIDTH, HEIGHT, BOX = 80, 60, (10, 8, 40, 28)  # of the image as it is stored
INVERSE = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip  what a camera does when it stores


def write_image(path, orientation=1, size=(WIDTH, HEIGHT), box=BOX):
    """Writes an image that shows `box` when it is upright, and is stored as EXIF says."""
    pixels = np.full((size[1], size[0], 3), GREY, np.uint8)
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = RED
    image, exif = Image.fromarray(pixels), Image.Exif()
    if INVERSE[orientation] is not None:
        image = image.transpose(INVERSE[orientation])
        exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif, quality=95)
    return image


def stored_box(path):
    """The red rectangle in the image as stored."""
    red = np.asarray(Image.open(path).convert("RGB"))[..., 1] < 60
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def coco(count=4, **images):
    """The content of a small valid file; image n has one box."""
    left, top, right, bottom = BOX
    return {
        "images": [
            {"id": n, "file_name": f"{n}.jpg", "width": WIDTH, "height": HEIGHT, **images} for n in range(count)
        ],
        "annotations": [
            {"id": n + 1, "image_id": n, "category_id": 1, "bbox": [left, top, right - left, bottom - top],
             "area": 600, "iscrowd": 0}
            for n in range(count)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }  # fmt: skip


def write_coco(root, content=None, name="annotations/instances_train.json", images="images"):
    content = coco() if content is None else content
    for n in range(4):
        write_image(root / images / f"{n}.jpg")
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return root


def voc_xml(objects, size=(WIDTH, HEIGHT), more=""):
    entries = "".join(
        f"<object><name>{name}</name>{extra}<bndbox><xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax>"
        f"<ymax>{bottom}</ymax></bndbox></object>"
        for name, (left, top, right, bottom), extra in objects
    )
    said = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation>{said}{more}{entries}</annotation>"


def write_voc(root, texts=(), count=4):
    """Image n with Annotations/n.xml; `texts` replace the first ones."""
    texts = [*texts, *[voc_xml([("cat", BOX, "")])] * count][:count]
    for n, text in enumerate(texts):
        write_image(root / "JPEGImages" / f"{n}.jpg")
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{n}.xml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


@pytest.fixture
def prepare(tmp_path):
    """Runs `prepare` on a folder."""
    return lambda root: run(["research.data", "prepare", f"folder:{root}", "--data_dir", tmp_path / "data"])


def refused(done):
    """The last line of a command that began to read images, which it shows the progress of, and was refused."""
    assert done.code == 2 and "Traceback" not in done.err, done.err
    return done.err.splitlines()[-1]


@pytest.fixture
def examples(tmp_path, prepare):
    """Name -> image and boxes, labels and crowd of every example of a folder, as evaluation sees it, in px."""

    def load(root):
        done = prepare(root)
        assert done.code == 0, done.err
        config = {"name": f"folder:{root}", "dir": str(tmp_path / "data"), "image_size": (80, 80), "max_boxes": 8}
        data = detection.load(detection.DetectionDataSpec(**config, validation_fraction=0.2))
        found = {}
        for split, count in data.counts.items():
            for batch in data.eval_batches(split, 1):
                for row in np.flatnonzero(batch["weight"]):
                    reference = data.reference(split, int(batch["index"][row]))
                    kept = batch["box_weight"][row] > 0
                    found[reference["name"]] = {
                        "image": batch["image"][row], "boxes": batch["boxes"][row][kept], "split": split,
                        "names": [data.class_names[label] for label in batch["labels"][row][kept]],
                        "crowd": list(reference["crowd"]), "size": reference["size"], "all": reference["boxes"],
                    }  # fmt: skip
            assert count == sum(each["split"] == split for each in found.values())
        return found, done.out

    return load


def lies_on_its_object(example):
    """Whether the box's inside is red and its rim is grey."""
    (left, top, right, bottom), image = example["boxes"][0].round().astype(int), example["image"].astype(int)
    scale = 80 / max(example["size"])
    inside = image[top + 2 : bottom - 2, left + 2 : right - 2].mean((0, 1))
    wide = image[max(0, top - 4) : bottom + 4, max(0, left - 4) : right + 4]
    area = 600 * scale**2
    red = ((wide[..., 0] > 170) & (wide[..., 1] < 60)).sum()
    return (np.abs(inside - RED) < 20).all() and abs(red - area) < 0.15 * area and wide[0, 0, 1] > 60


@pytest.mark.parametrize("layout", ["COCO", "VOC"])
def test_boxes_lie_on_their_objects_whatever_way_the_image_is_stored(tmp_path, examples, layout):
    content, texts = coco(0), []
    for n, (orientation, frame) in enumerate(
        [(o, "shown") for o in range(1, 9)] + [(o, "stored") for o in (5, 6, 7, 8)] + [(o, "unsaid") for o in (1, 6)]
    ):
        path = tmp_path / "own" / ("images" if layout == "COCO" else "JPEGImages") / f"{n}.jpg"
        stored = write_image(path, orientation)
        size, box = (stored.size, stored_box(path)) if frame == "stored" else ((WIDTH, HEIGHT), BOX)
        left, top, right, bottom = map(int, box)
        said = {} if frame == "unsaid" else {"width": size[0], "height": size[1]}
        content["images"].append({"id": n, "file_name": f"{n}.jpg", **said})
        content["annotations"].append(
            {"image_id": n, "category_id": 1, "bbox": [left, top, right - left, bottom - top]}
        )
        texts.append(voc_xml([("cat", box, "")], None if frame == "unsaid" else size))
    annotations = tmp_path / "own" / ("annotations" if layout == "COCO" else "Annotations")
    annotations.mkdir()
    if layout == "COCO":
        (annotations / "instances_train.json").write_text(json.dumps(content))
    else:
        for n, text in enumerate(texts):
            (annotations / f"{n}.xml").write_text(text)
    found, said = examples(tmp_path / "own")
    assert len(found) == 14 and all(each["size"] == (HEIGHT, WIDTH) for each in found.values())
    assert [name for name, each in found.items() if not lies_on_its_object(each)] == []
    assert "14 boxes, 12 images turned upright by their EXIF orientation" in said


def test_a_size_that_fits_neither_frame_is_refused(tmp_path, prepare):
    content = coco()
    content["images"][2].update(width=160, height=120)
    error = refused(prepare(write_coco(tmp_path / "own", content)))
    assert "2.jpg is 80 x 60 px, but 160 x 120 px in annotations/instances_train.json" in error
    texts = [voc_xml([("cat", BOX, "")], size=(HEIGHT, WIDTH))]  # exchanged, and no EXIF says that it was turned
    error = refused(prepare(write_voc(tmp_path / "voc", texts)))
    assert "0.jpg is 80 x 60 px, but 60 x 80 px in Annotations/0.xml" in error


def test_coco_with_gaps_crowds_and_images_without_boxes(tmp_path, examples):
    content = coco()
    content["categories"] = [{"id": 90, "name": "zebra"}, {"id": 0, "name": "ant"}, {"id": 44, "name": "never"}]
    for each, category in zip(content["annotations"], (0, 90, 0, 90), strict=True):
        each["category_id"] = category
        del each["iscrowd"], each["area"]
    del content["annotations"][3]
    content["annotations"].append({"image_id": 0, "category_id": 90, "bbox": [0, 0, 80, 60], "iscrowd": 1})
    found, said = examples(write_coco(tmp_path / "own", content))
    assert {name: each["names"] for name, each in found.items()} == {
        "images/0.jpg": ["ant"], "images/1.jpg": ["zebra"], "images/2.jpg": ["ant"], "images/3.jpg": [],
    }  # fmt: skip
    assert found["images/0.jpg"]["crowd"] == [0, 1]
    assert "4 boxes, 1 crowd or difficult, 1 images without boxes" in said


def test_categories_of_several_files_are_matched_by_name(tmp_path, examples):
    root = tmp_path / "own"
    for split, number in (("train", 1), ("val", 2)):
        content = coco()
        names = ["cat", "dog"] if split == "train" else ["dog", "cat"]
        content["categories"] = [{"id": n, "name": name} for n, name in enumerate(names, start=1)]
        for each in content["annotations"]:
            each["category_id"] = number
        write_coco(root, content, f"annotations/instances_{split}.json", f"images/{split}")
    found, _ = examples(root)
    assert len(found) == 8 and all(each["names"] == ["cat"] for each in found.values())


@pytest.mark.parametrize(("name", "split"), [
    ("annotations/latest.json", "train"),
    ("annotations/contest_interval.json", "train"),
    ("annotations/instances_train2017.json", "train"),
    ("annotations/my_Test.json", "test"),
    ("annotations/instancesVal.json", "validation"),
    ("result.json", "train"),
    ("_annotations.coco.json", "train"),
    ("images/labels.json", "train"),
])  # fmt: skip
def test_a_split_is_a_word_of_the_name(tmp_path, prepare, name, split):
    if name == "images/labels.json":
        root = write_coco(tmp_path / "own/train", images="", name="labels.json").parent
    else:
        root = write_coco(tmp_path / "own", name=name)
    assert f"({split} 4, 4 boxes" in prepare(root).out


def test_windows_separators_and_names_above_the_file_but_inside_the_folder(tmp_path, examples):
    content = coco()
    names = ("images\\0.jpg", ".\\images\\1.jpg", "../images/2.jpg", str(tmp_path / "own/images/3.jpg"))
    for each, name in zip(content["images"], names, strict=True):
        each["file_name"] = name
    found, _ = examples(write_coco(tmp_path / "own", content))
    assert sorted(found) == [f"images/{n}.jpg" for n in range(4)]
    assert all(map(lies_on_its_object, found.values()))


def test_difficult_objects_of_voc_and_images_without_xml(tmp_path, examples):
    words = ("1", "true", " Yes ", "0", "false", "no", "", "Unspecified")
    objects = [("cat", BOX, f"<difficult>{word}</difficult>") for word in words]
    root = write_voc(tmp_path / "own", [voc_xml(objects)])
    write_image(root / "JPEGImages/unlabelled.JPG")
    write_image(root / "JPEGImages/._hidden.jpg")
    found, said = examples(root)
    assert found["JPEGImages/0.jpg"]["crowd"] == [1, 1, 1, 0, 0, 0, 0, 0]
    assert len(found) == 4 and "11 boxes, 3 crowd or difficult" in said
    assert "left out: 1 images without annotation or not listed (JPEGImages/unlabelled.JPG)" in said


def test_parts_of_a_voc_object_have_boxes_of_their_own(tmp_path, examples):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></part>"
    good = voc_xml([("person", BOX, part)])
    texts = [good, good.replace(f"<name>person</name>{part}", f"{part}<name>person</name>")]
    namespaced = good.replace("<annotation>", '<annotation xmlns="http://example.org/voc">')
    found, _ = examples(write_voc(tmp_path / "own", [*texts, namespaced, good]))
    for each in found.values():
        assert each["names"] == ["person"] and lies_on_its_object(each)
