"""Folders of COCO and VOC as people have them: boxes lie on their objects, and what is wrong is said in one line.

Images are grey with one red rectangle, so that a box is right where its inside is red and its rim is not.
"""

import copy
import json
import os

import numpy as np
import pytest
from PIL import Image

from research.data import detection
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
        data = detection.load({**config, "validation_fraction": 0.2})
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


# ---- Right values


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
    assert "14 boxes, 12 images turned upright, as their EXIF orientation says" in said


def test_a_size_that_fits_neither_frame_is_refused(tmp_path, prepare):
    content = coco()
    content["images"][2].update(width=160, height=120)
    error = refused(prepare(write_coco(tmp_path / "own", content)))
    assert "2.jpg is 80 x 60 px, but annotations/instances_train.json says 160 x 120" in error
    texts = [voc_xml([("cat", BOX, "")], size=(HEIGHT, WIDTH))]  # exchanged, and no EXIF says that it was turned
    error = refused(prepare(write_voc(tmp_path / "voc", texts)))
    assert "0.jpg is 80 x 60 px, but Annotations/0.xml says 60 x 80" in error


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
    assert f"({split} 4, 4 boxes)" in prepare(root).out


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
    assert "left out: 1 images that nothing annotates or lists (JPEGImages/unlabelled.JPG)" in said


def test_parts_of_a_voc_object_have_boxes_of_their_own(tmp_path, examples):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></part>"
    good = voc_xml([("person", BOX, part)])
    texts = [good, good.replace(f"<name>person</name>{part}", f"{part}<name>person</name>")]
    namespaced = good.replace("<annotation>", '<annotation xmlns="http://example.org/voc">')
    found, _ = examples(write_voc(tmp_path / "own", [*texts, namespaced, good]))
    for each in found.values():
        assert each["names"] == ["person"] and lies_on_its_object(each)


# ---- What is refused, in one line


def change(key, position, **values):
    def changed(content):
        entry = content[key][position]
        entry.update(values)
        for name in [name for name, value in values.items() if value is ...]:
            del entry[name]

    return changed


def twice(key):
    return lambda content: content[key].append(copy.deepcopy(content[key][0]))


BAD_COCO = {
    "images is an object": (lambda c: c.update(images={}), "must be an object with a list of images"),
    "annotations missing": (lambda c: c.pop("annotations"), "must be an object with a list of annotations"),
    "categories null": (lambda c: c.update(categories=None), "must be an object with a list of categories"),
    "an image is a string": (lambda c: c["images"].append("4.jpg"), 'image number 5 is "4.jpg", not an object'),
    "an annotation is null": (lambda c: c["annotations"].append(None), "annotation number 5 is null, not an object"),
    "a category is a list": (lambda c: c["categories"].append([3]), "category number 3 is [3], not an object"),
    "bbox of strings": (change("annotations", 1, bbox=["1", "2", "3", "4"]), "annotation 2 has no bbox of four"),
    "bbox of three": (change("annotations", 1, bbox=[1, 2, 3]), "annotation 2 has no bbox of four numbers"),
    "bbox missing": (change("annotations", 1, bbox=...), "annotation 2 has no bbox"),
    "bbox with NaN": (change("annotations", 1, bbox=[1, 2, float("nan"), 3]), "has no bbox of four numbers"),
    "bbox infinite": (change("annotations", 1, bbox=[1, 2, 3, 1e999]), "has no bbox of four numbers"),
    "bbox of true": (change("annotations", 1, bbox=[1, 2, True, 3]), "has no bbox of four numbers"),
    "bbox of a huge integer": (change("annotations", 1, bbox=[1, 2, 10**400, 3]), "has no bbox of four numbers"),
    "category_id a list": (change("annotations", 1, category_id=[1]), "annotation 2 has the category_id [1]; an"),
    "category_id unknown": (change("annotations", 1, category_id=7), "names a picture or category that is not in it"),
    "image_id true": (change("annotations", 1, image_id=True), "annotation 2 has the image_id true; an integer"),
    "image_id unknown": (change("annotations", 1, image_id=77), "names a picture or category that is not in it"),
    "image_id a text": (change("annotations", 1, image_id="1"), "names a picture or category that is not in it"),
    "id broken": (change("images", 1, id=1.5), "has the id 1.5; an integer or a string is needed"),
    "id null": (change("images", 1, id=None), "has the id null; an integer or a string is needed"),
    "width a text": (change("images", 1, width="80"), 'has the width "80"; a number of px is needed'),
    "height negative": (change("images", 1, height=-60), "has the height -60; a number of px is needed"),
    "width broken": (change("images", 1, width=80.5), "has a size of 80.5 x 60; whole px are needed"),
    "area a text": (change("annotations", 1, area="600"), 'annotation 2 has the area "600"; a number'),
    "iscrowd a text": (change("annotations", 1, iscrowd="0"), 'annotation 2 has iscrowd "0"; it must be 0 or 1'),
    "name a number": (change("categories", 0, name=5), "has the name 5; a text is needed"),
    "name empty": (change("categories", 0, name=" "), 'has the name " "; a text is needed'),
    "name of half a pair": (change("categories", 0, name="\ud800"), "has a name with half of a surrogate pair"),
    "file_name a list": (change("images", 1, file_name=["1.jpg"]), "a text is needed"),
    "file_name with a null byte": (change("images", 1, file_name="1\0.jpg"), "a text is needed"),
    "file_name too long": (change("images", 1, file_name="a" * 5000), "which is in none of"),
    "file_name absent": (change("images", 1, file_name="nowhere.jpg"), "names nowhere.jpg, which is in none of"),
    "two images of one id": (change("images", 1, id=0), "two entries of image have the id 0; give each its own"),
    "two images of one file": (change("images", 1, file_name="0.jpg"), "there are two entries for the picture"),
    "two categories of one id": (change("categories", 1, id=1), "two entries of category have the id 1"),
    "two annotations of one id": (twice("annotations"), "two entries of annotation have the id 1"),
    "no annotations": (lambda c: c.update(annotations=[]), "holds no boxes"),
    "no images": (lambda c: c.update(images=[], annotations=[]), "holds no annotations for train"),
}


@pytest.mark.parametrize(("changed", "message"), BAD_COCO.values(), ids=BAD_COCO)
def test_a_bad_coco_entry_is_named(tmp_path, prepare, changed, message):
    content = coco()
    changed(content)
    error = prepare(write_coco(tmp_path / "own", content)).error
    assert message in error and (f"{tmp_path / 'own'}/annotations/" in error or message == "holds no boxes"), error


BAD_FILES = {
    "empty": (b"", "is no COCO annotation"),
    "cut": (json.dumps(coco()).encode()[:300], "is no COCO annotation (JSONDecodeError"),
    "a list": (b"[]", "must be an object with a list of images"),
    "not UTF-8": (json.dumps(coco()).replace("cat", "c\xe4t").encode("latin-1"), "invalid UTF-8"),
    "deep": (b'{"images": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "are nested too deeply"),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "are nested too deeply"),
    "thousands of digits": (b'{"images": [' + b"9" * 6000 + b"]}", "an integer of thousands of digits"),
    "zeros": (bytes(10_000), "is no COCO annotation"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_coco_file_is_named(tmp_path, prepare, content, message):
    root = write_coco(tmp_path / "own")
    (root / "annotations/instances_train.json").write_bytes(content)
    error = prepare(root).error
    assert message in error and "instances_train.json" in error, error


def leaves(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*path, key))


WRONG = (None, True, "x", "", [], {}, [[]], -1, 1.5, 10**30, float("nan"), float("inf"))


@pytest.mark.parametrize("path", [path for path in leaves(coco(1)) if path], ids=str)
def test_any_wrong_type_anywhere_is_one_line_or_changes_nothing(tmp_path, prepare, path):
    """A value that is accepted in place of another is one that says nothing, or names the same."""
    for n, wrong in enumerate(WRONG):
        content = coco(1)
        entry = content
        for key in path[:-1]:
            entry = entry[key]
        entry[path[-1]] = wrong
        root = tmp_path / f"own{n}"
        write_image(root / "images/0.jpg")
        (root / "annotations").mkdir()
        (root / "annotations/train.json").write_text(json.dumps(content))
        done = prepare(root)
        if done.code:
            assert str(root) in done.error
        else:
            assert "(train 1, 1 boxes" in done.out, (wrong, done.out)


@pytest.mark.parametrize(
    "name", ["../secret/0.jpg", "/etc/hostname", "..\\..\\secret\\0.jpg", "a/../../../secret/0.jpg"]
)
def test_a_name_never_leads_out_of_the_folder(tmp_path, prepare, name):
    write_image(tmp_path / "secret/0.jpg")
    content = coco()
    content["images"][0]["file_name"] = name
    assert "names " + name in prepare(write_coco(tmp_path / "own", content)).error
    content["images"][0]["file_name"] = str(tmp_path / "secret/0.jpg")
    error = prepare(write_coco(tmp_path / "absolute", content)).error
    assert f"lies outside {tmp_path / 'absolute'}; names must be relative to that folder" in error
    root = write_voc(tmp_path / "voc")
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/train.txt").write_text("../../own/x\n0\n")
    assert "names ../../own/x, but there is no" in prepare(root).error


BOMB = b'<!DOCTYPE x [<!ENTITY a "ha">' + b"".join(
    b'<!ENTITY %c "&%c;&%c;&%c;&%c;&%c;&%c;&%c;&%c;&%c;&%c;">' % ((98 + n,) + (97 + n,) * 10) for n in range(12)
)
BAD_XML = {
    "empty": (b"", "is no XML that can be read"),
    "cut": (voc_xml([("cat", BOX, "")])[:90], "is no XML that can be read"),
    "another document": ("<html><body/></html>", "is no annotation as Pascal VOC has it: it begins with <html>"),
    "a bomb of entities": (BOMB + b"]><annotation>&m;</annotation>", "it declares entities"),
    "a bomb in UTF-16": ((BOMB + b"]><annotation>&m;</annotation>").decode().encode("utf-16"), "declares entities"),
    "a file as entity": (
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation><filename>&a;</filename></annotation>',
        "it declares entities",
    ),
    "deep": (b"<annotation>" + b"<a>" * 30_000 + b"</a>" * 30_000 + b"</annotation>", "holds no boxes"),
    "deep objects": (b"<annotation>" + b"<object>" * 30_000 + b"</object>" * 30_000 + b"</annotation>", "object 1 has"),
    "no box": ("<annotation><object><name>cat</name></object></annotation>", "object 1 has no bndbox of four"),
    "no name": (voc_xml([("", BOX, "")]), "object 1 has no name"),
    "NaN": (voc_xml([("cat", ("nan", 1, 2, 3), "")]), "object 1 has no bndbox of four numbers"),
    "infinite": (voc_xml([("cat", (1, 1, "inf", 3), "")]), "object 1 has no bndbox of four numbers"),
    "a word": (voc_xml([("cat", (1, "two", 3, 4), "")]), "object 1 has no bndbox of four numbers"),
    "huge": (voc_xml([("cat", (1, "9" * 5000, 3, 4), "")]), "object 1 has no bndbox of four numbers"),
    "difficult": (voc_xml([("cat", BOX, "<difficult>maybe</difficult>")]), "has difficult='maybe'; it must be 0 or 1"),
    "width a word": (voc_xml([("cat", BOX, "")], ("wide", 60)), "has 'wide' in its size"),
    "width negative": (voc_xml([("cat", BOX, "")], (-80, 60)), "has '-80' in its size"),
    "width NaN": (voc_xml([("cat", BOX, "")], ("nan", 60)), "has 'nan' in its size"),
    "width broken": (voc_xml([("cat", BOX, "")], ("80.5", 60)), "has '80.5' in its size"),
    "not UTF-8": (b"<annotation><object><name>c\xe4t</name></object></annotation>", "is no XML that can be read"),
}


@pytest.mark.parametrize(("text", "message"), BAD_XML.values(), ids=BAD_XML)
def test_a_bad_voc_file_is_named(tmp_path, prepare, text, message):
    error = prepare(write_voc(tmp_path / "own", [text], count=1)).error
    assert message in error and ("0.xml" in error or "holds no boxes" in error), error


def test_folders_that_say_two_things_are_refused(tmp_path, prepare):
    root = write_coco(tmp_path / "two")
    write_coco(root, name="annotations/instances_more.json")
    assert "are both of train; keep one, or say train, val or test in their names" in prepare(root).error
    root = write_coco(write_coco(tmp_path / "leak"), name="annotations/instances_test.json")
    assert "images/0.jpg is in train and in test; keep it in one of them" in prepare(root).error
    for split in ("train", "val", "valid"):
        write_coco(tmp_path / "valid" / split, images="", name="_annotations.coco.json")
    assert "are both folders for validation; keep one of them" in prepare(tmp_path / "valid").error
    root = write_voc(tmp_path / "twins")
    Image.open(root / "JPEGImages/0.jpg").save(root / "JPEGImages/0.png")
    assert "0.xml is an annotation of 0.jpg or 0.png; keep one of them" in prepare(root).error


def test_hidden_files_are_no_annotations(tmp_path, prepare):
    root = write_coco(tmp_path / "own")
    for name in ("annotations/._instances_train.json", "images/._0.jpg", ".result.json"):
        (root / name).write_bytes(os.urandom(64))
    assert "(train 4, 4 boxes)" in prepare(root).out
    root = write_voc(tmp_path / "voc")
    (root / "Annotations/._0.xml").write_bytes(os.urandom(64))
    assert "(train 4, 4 boxes)" in prepare(root).out
