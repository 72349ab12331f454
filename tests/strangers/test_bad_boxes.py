"""Folders of COCO and VOC that are damaged, hostile or say two things: each is refused in one line."""

import copy
import json
import os

import pytest
from PIL import Image

from tests.running import run
from tests.strangers.test_boxes import BOX, coco, voc_xml, write_coco, write_image, write_voc


@pytest.fixture
def prepare(tmp_path):
    """Runs `prepare` on a folder."""
    return lambda root: run(["research.data", "prepare", f"folder:{root}", "--data_dir", tmp_path / "data"])


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
    "category_id unknown": (
        change("annotations", 1, category_id=7),
        "refers to an image or category that is not in the file",
    ),
    "image_id true": (change("annotations", 1, image_id=True), "annotation 2 has the image_id true; an integer"),
    "image_id unknown": (
        change("annotations", 1, image_id=77),
        "refers to an image or category that is not in the file",
    ),
    "image_id a text": (
        change("annotations", 1, image_id="1"),
        "refers to an image or category that is not in the file",
    ),
    "id broken": (change("images", 1, id=1.5), "has the id 1.5; an integer or a string is needed"),
    "id null": (change("images", 1, id=None), "has the id null; an integer or a string is needed"),
    "width a text": (change("images", 1, width="80"), 'has the width "80"; a number of px is needed'),
    "height negative": (change("images", 1, height=-60), "has the height -60; a number of px is needed"),
    "width broken": (change("images", 1, width=80.5), "has a size of 80.5 x 60 px; integers are needed"),
    "area a text": (change("annotations", 1, area="600"), 'annotation 2 has the area "600"; a number'),
    "iscrowd a text": (change("annotations", 1, iscrowd="0"), 'annotation 2 has iscrowd "0"; it must be 0 or 1'),
    "name a number": (change("categories", 0, name=5), "has the name 5; a string is needed"),
    "name empty": (change("categories", 0, name=" "), 'has the name " "; a string is needed'),
    "name of half a pair": (change("categories", 0, name="\ud800"), "has a name with half of a surrogate pair"),
    "file_name a list": (change("images", 1, file_name=["1.jpg"]), "a string is needed"),
    "file_name with a null byte": (change("images", 1, file_name="1\0.jpg"), "a string is needed"),
    "file_name too long": (change("images", 1, file_name="a" * 5000), "which is in none of"),
    "file_name absent": (change("images", 1, file_name="nowhere.jpg"), "refers to nowhere.jpg, which is in none of"),
    "two images of one id": (change("images", 1, id=0), "two image entries have the id 0; ids must be unique"),
    "two images of one file": (change("images", 1, file_name="0.jpg"), "there are two entries for the image"),
    "two categories of one id": (change("categories", 1, id=1), "two category entries have the id 1"),
    "two annotations of one id": (twice("annotations"), "two annotation entries have the id 1"),
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
    "empty": (b"", "is not a COCO annotation"),
    "cut": (json.dumps(coco()).encode()[:300], "is not a COCO annotation file (JSONDecodeError"),
    "a list": (b"[]", "must be an object with a list of images"),
    "not UTF-8": (json.dumps(coco()).replace("cat", "c\xe4t").encode("latin-1"), "invalid UTF-8"),
    "deep": (b'{"images": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "are nested too deeply"),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "are nested too deeply"),
    "thousands of digits": (b'{"images": [' + b"9" * 6000 + b"]}", "an integer of thousands of digits"),
    "zeros": (bytes(10_000), "holds a NUL character"),
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
    assert "refers to " + name in prepare(write_coco(tmp_path / "own", content)).error
    content["images"][0]["file_name"] = str(tmp_path / "secret/0.jpg")
    error = prepare(write_coco(tmp_path / "absolute", content)).error
    assert f"is outside {tmp_path / 'absolute'}; names must be relative to that folder" in error
    root = write_voc(tmp_path / "voc")
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/train.txt").write_text("../../own/x\n0\n")
    assert "lists ../../own/x, but there is no" in prepare(root).error


BOMB = b'<!DOCTYPE x [<!ENTITY a "ha">' + b"".join(
    b'<!ENTITY %c "&%c;&%c;&%c;&%c;&%c;&%c;&%c;&%c;&%c;&%c;">' % ((98 + n,) + (97 + n,) * 10) for n in range(12)
)
BAD_XML = {
    "empty": (b"", "is not readable XML"),
    "cut": (voc_xml([("cat", BOX, "")])[:90], "is not readable XML"),
    "another document": ("<html><body/></html>", "is not a Pascal VOC annotation: its root is <html>"),
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
    "not UTF-8": (b"<annotation><object><name>c\xe4t</name></object></annotation>", "is not readable XML"),
}


@pytest.mark.parametrize(("text", "message"), BAD_XML.values(), ids=BAD_XML)
def test_a_bad_voc_file_is_named(tmp_path, prepare, text, message):
    error = prepare(write_voc(tmp_path / "own", [text], count=1)).error
    assert message in error and ("0.xml" in error or "holds no boxes" in error), error


def test_folders_that_say_two_things_are_refused(tmp_path, prepare):
    root = write_coco(tmp_path / "two")
    write_coco(root, name="annotations/instances_more.json")
    assert "both annotate train; keep one, or put train, val or test in their names" in prepare(root).error
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
    assert "(train 4, 4 boxes" in prepare(root).out
    root = write_voc(tmp_path / "voc")
    (root / "Annotations/._0.xml").write_bytes(os.urandom(64))
    assert "(train 4, 4 boxes" in prepare(root).out
