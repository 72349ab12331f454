"""Boxes move with what they are drawn around; folders of VOC and COCO, their bad entries, and what a batch holds."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from research.data import prepare
from research.data.images import detection, transforms
from research.data.images.builders import boxes, shapes
from tests import samples
from tests.data.conftest import encoded_image

CONFIG = {"image_size": (24, 32), "max_boxes": 8}


def voc(objects):
    """The XML of (name, left, top, right, bottom, difficult)."""
    entries = []
    for name, *corners, difficult in objects:
        sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
        entries.append(f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>")
    return f"<annotation><filename>x.jpg</filename>{''.join(entries)}</annotation>"


def write_voc(root, count=10, replaced=None, folders=("JPEGImages", "Annotations")):
    """Images of 20 x 30 px (height, width), image n with boxes of a cat and, where n is even, a dog."""
    for folder in folders:
        (root / folder).mkdir(parents=True)
    for number in range(count):
        cat, dog = ("cat", 2, 3, 12, 9 + number, 0), ("dog", 10, 5, 25.5, 18, 0)
        objects = [cat, dog] if number % 2 == 0 else [cat]
        (root / folders[0] / f"{number}.jpg").write_bytes(encoded_image(number, (30, 20)))
        (root / folders[1] / f"{number}.xml").write_text((replaced or {}).get(number, voc(objects)))
    return root


def load_data(**config):
    return samples.prepared(detection.load(detection.DetectionDataSpec(**(CONFIG | config))))


@pytest.fixture
def load(tmp_path):
    return lambda root, **config: load_data(name=f"folder:{root}", dir=str(tmp_path / "data"), **config)


def by_name(data):
    """What scores compare with, of every image."""
    references = [data.reference(split, index) for split, count in data.counts.items() for index in range(count)]
    return {reference["name"]: reference for reference in references}


@pytest.mark.parametrize("folders", [("JPEGImages", "Annotations"), ("images", "annotations")])
def test_a_voc_folder_is_a_data_set(tmp_path, load, folders):
    data = load(write_voc(tmp_path / "own", folders=folders))
    assert data.class_names == ("cat", "dog") and data.counts == {"train": 8, "validation": 1, "test": 1}
    reference = by_name(data)[f"{folders[0]}/4.jpg"]
    np.testing.assert_array_equal(reference["boxes"], [[2, 3, 12, 13], [10, 5, 25.5, 18]])
    assert (list(reference["labels"]), list(reference["areas"])) == ([0, 1], [100, 201.5])
    batch = next(data.eval_batches("train", 8))
    row = int(np.argmax(batch["box_weight"].sum(1)))  # one of those with a dog
    boxes = data.reference("train", int(batch["index"][row]))["boxes"]
    # 30 x 20 px become 32 x 21, and the largest comes first.
    order = np.argsort(-(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    np.testing.assert_allclose(batch["boxes"][row, :2], boxes[order] * ([32 / 30, 21 / 20] * 2), rtol=1e-6)
    np.testing.assert_array_equal(batch["labels"][row], [*order, *[0] * 6])
    np.testing.assert_array_equal(batch["box_weight"][row], [1, 1, *[0] * 6])
    assert batch["image"].shape == (8, 24, 32, 3)


def test_lists_of_image_sets_are_the_splits(tmp_path, load):
    root = write_voc(tmp_path / "own")
    (root / "ImageSets/Main").mkdir(parents=True)
    for split, numbers in {"train": range(6), "val": (6, 7), "test": (8, 9)}.items():
        (root / f"ImageSets/Main/{split}.txt").write_text("".join(f"{number}\n" for number in numbers))
    assert load(root).counts == {"train": 6, "validation": 2, "test": 2}
    (root / "ImageSets/Main/val.txt").write_text("6\n77\n")
    with pytest.raises(ValueError, match=r"val.txt lists 77, but there is no .*Annotations/77.xml"):
        load(root)


def test_names_with_spaces_and_lists_of_one_class(tmp_path, load):
    root = write_voc(tmp_path / "own")
    for folder, suffix in (("Annotations", "xml"), ("JPEGImages", "jpg")):
        (root / folder / f"3.{suffix}").rename(root / folder / f"my cell 3.{suffix}")
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/trainval.txt").write_text("my cell 3\n" + "".join(f"{number} -1\n" for number in range(3)))
    (root / "ImageSets/Main/test.txt").write_text("4 1\n5 1\n")
    assert sum(load(root).counts.values()) == 6 and load(root).counts["test"] == 2


def test_xml_beside_images_in_one_folder(tmp_path, load):
    root = tmp_path / "own"
    root.mkdir()
    for file in write_voc(tmp_path / "made").glob("*/*"):
        file.rename(root / file.name)
    assert sum(load(root).counts.values()) == 10


def test_an_image_of_another_size_than_annotated_is_named(tmp_path, load):
    xml = voc([("cat", 2, 3, 12, 9, 0)])
    sizes = {3: (30, 20), 4: (20, 30), 5: (0, 0)}  # width and height; they are 30 x 20, and 0 is not known
    texts = {
        number: xml.replace("</annotation>", f"<size><width>{w}</width><height>{h}</height></size></annotation>")
        for number, (w, h) in sizes.items()
    }
    with pytest.raises(ValueError, match=r"4.jpg is 30 x 20 px, but 20 x 30 px in Annotations/4.xml, so its boxes"):
        load(write_voc(tmp_path / "own", replaced=texts))
    del texts[4]
    assert sum(load(write_voc(tmp_path / "good", replaced=texts)).counts.values()) == 10


def test_an_image_that_is_listed_twice_is_named(tmp_path, load):
    root = write_voc(tmp_path / "own")
    copy = root / "Annotations/copy.xml"
    copy.write_text((root / "Annotations/3.xml").read_text().replace("x.jpg", "3.jpg"))
    with pytest.raises(
        ValueError, match=r"Annotations/3.xml and .*copy.xml: there are two entries for .*3.jpg; keep one"
    ):
        load(root)


def test_xml_beside_images_in_folders_of_splits(tmp_path, load):
    for split, count in {"train": 4, "valid": 2, "test": 3}.items():
        write_voc(tmp_path / f"made/{split}", count, folders=("a", "b"))
        (tmp_path / "own" / split).mkdir(parents=True)
        for file in (tmp_path / f"made/{split}").glob("*/*"):
            file.rename(tmp_path / "own" / split / file.name)
    assert load(tmp_path / "own").counts == {"train": 4, "validation": 2, "test": 3}


def write_coco(root, changed=None):
    categories = [{"id": 7, "name": "zebra"}, {"id": 3, "name": "ant"}, {"id": 9, "name": "unused"}]
    for split, count in {"train2017": 6, "val2017": 2}.items():
        (root / split).mkdir(parents=True)
        names = [f"{number:012}.jpg" for number in range(count)]
        for number, name in enumerate(names):
            (root / split / name).write_bytes(encoded_image(number, (30, 20)))
        content = {
            "images": [{"id": 10 + number, "file_name": name} for number, name in enumerate(names)],
            "categories": categories,
            "annotations": [
                {"id": 1, "image_id": 10, "category_id": 7, "bbox": [1, 2, 10, 5], "area": 33.5, "iscrowd": 0},
                {"id": 2, "image_id": 10, "category_id": 3, "bbox": [0, 0, 30, 20], "area": 600, "iscrowd": 1},
                *((changed or {}).get(split, [])),
            ],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
        (root / f"annotations/captions_{split}.json").write_text("{}")
    return root


def test_a_coco_folder_is_a_data_set(tmp_path, load):
    data = load(write_coco(tmp_path / "coco"))
    assert data.class_names == ("ant", "zebra"), "in the order of their ids"
    assert data.counts == {"train": 5, "validation": 1, "test": 2}
    reference = by_name(data)["val2017/000000000000.jpg"]
    np.testing.assert_array_equal(reference["boxes"], [[1, 2, 11, 7], [0, 0, 30, 20]])
    assert list(reference["labels"]) == [1, 0] and list(reference["crowd"]) == [0, 1]
    np.testing.assert_allclose(reference["areas"], [33.5, 600])
    weights = next(data.eval_batches("test", 2))["box_weight"].sum(1)
    assert sorted(weights) == [0, 1], "a crowd is not learnt, and an image may show nothing"


BAD_ENTRIES = {
    "no XML": ("<annotation><obj", r"Annotations/3.xml is not readable XML"),
    "another encoding": (
        "<?xml version='1.0' encoding='gb2312'?><a/>",
        r"Annotations/3.xml is not readable XML",
    ),
    "no numbers": (voc([("cat", 1, 2, 3, "x", 0)]), r"Annotations/3.xml: object 1 has no bndbox of four numbers"),
    "no name": (voc([("cat", 1, 2, 3, 4, 0), ("", 1, 2, 3, 4, 0)]), r"Annotations/3.xml: object 2 has no name"),
}


@pytest.mark.parametrize(("xml", "message"), BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_a_bad_annotation_is_named(tmp_path, load, xml, message):
    with pytest.raises(ValueError, match=message):
        load(write_voc(tmp_path / "own", replaced={3: xml}))


def test_an_annotation_without_its_image_is_named(tmp_path, load):
    root = write_voc(tmp_path / "own")
    (root / "JPEGImages/3.jpg").unlink()
    with pytest.raises(ValueError, match=r"Annotations/3.xml is an annotation without its image x.jpg"):
        load(root)
    coco = write_coco(tmp_path / "coco")
    (coco / "val2017/000000000001.jpg").unlink()
    with pytest.raises(ValueError, match=r"instances_val2017.json refers to 000000000001.jpg, which is in none of"):
        load(coco)


def test_coco_entries_of_nothing_are_named(tmp_path, load):
    lost = {"id": 5, "image_id": 99, "category_id": 7, "bbox": [0, 0, 1, 1]}
    with pytest.raises(ValueError, match=r"instances_val2017.json: annotation 5 refers to an image or category"):
        load(write_coco(tmp_path / "coco", {"val2017": [lost]}))
    short = {"id": 6, "image_id": 10, "category_id": 7, "bbox": [0, 0, 1]}
    with pytest.raises(ValueError, match=r"instances_train2017.json: annotation 6 has no bbox of four numbers"):
        load(write_coco(tmp_path / "other", {"train2017": [short]}))
    vague = {"id": 6, "image_id": 10, "category_id": 7, "bbox": [0, 0, 1, 1], "area": "much"}
    with pytest.raises(ValueError, match=r"instances_train2017.json: annotation 6 has the area \"much\""):
        load(write_coco(tmp_path / "vague", {"train2017": [vague]}))
    assert load(write_coco(tmp_path / "null", {"train2017": [vague | {"area": None}]})).counts["test"] == 2


def edit_coco(root, split, change):
    file = root / f"annotations/instances_{split}.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return root


@pytest.mark.parametrize(("part", "key", "message"), [
    ("categories", "name", r"train2017.json: the category \{\"id\": 7\} has no name"),
    ("images", "id", r"train2017.json: the image \{\"file_name\": \"000000000000.jpg\"\} has no id"),
    ("images", "file_name", r"train2017.json: the image \{\"id\": 10\} has no file_name"),
])  # fmt: skip
def test_coco_entries_that_lack_something_are_named(tmp_path, load, part, key, message):
    with pytest.raises(ValueError, match=message):
        load(edit_coco(write_coco(tmp_path / "coco"), "train2017", lambda content: content[part][0].pop(key)))


def test_coco_files_may_number_their_classes_in_different_ways(tmp_path, load):
    def renumber(content):
        content["categories"] = [{"id": 3, "name": "zebra"}, {"id": 4, "name": "zebra"}, {"id": 7, "name": "ant"}]

    data = load(edit_coco(write_coco(tmp_path / "coco"), "val2017", renumber))
    assert data.class_names == ("ant", "zebra")
    labels = lambda split: by_name(data)[f"{split}/000000000000.jpg"]["labels"]
    assert list(labels("train2017")) == [1, 0] and list(labels("val2017")) == [0, 1]


def test_sides_that_are_no_numbers_make_a_bad_box():
    empty, outside = boxes.bad(np.array([[1, np.nan, 5, 5], [1, 1, np.nan, 5], [1, 1, 5, 5]]), (20, 30))
    assert list(empty) == [True, True, False] and not outside.any()


def test_bad_boxes_are_counted_and_then_cut_left_out_or_refused(tmp_path, load):
    boxes = [("cat", 5, 5, 5, 9, 0), ("cat", 9, 9, 2, 12, 0), ("cat", 40, 1, 50, 9, 0), ("cat", 20, 10, 36, 20, 0)]
    root = write_voc(tmp_path / "own", replaced={3: voc([*boxes, ("cat", 1, 1, 5, 5, 0)])})
    message = prepare.prepare(f"folder:{root}", data_dir=str(tmp_path / "data"))
    assert "3 empty or inverted: Annotations/3.xml [40, 1, 50, 9]; Annotations/3.xml [5, 5, 5, 9]" in message
    assert "1 extending outside: Annotations/3.xml [20, 10, 36, 20]" in message
    for how, expected in (("clip", [[20, 10, 30, 20], [1, 1, 5, 5]]), ("drop", [[1, 1, 5, 5]])):
        reference = by_name(load(root, bad_boxes=how))["JPEGImages/3.jpg"]
        np.testing.assert_array_equal(reference["boxes"], expected)
        assert reference["areas"][0] == (100 if how == "clip" else 16)
    with pytest.raises(ValueError, match=r"has 4 bad boxes, the first in Annotations/3.xml \[20, 10, 36, 20\]; fix"):
        load(root, bad_boxes="refuse")


def test_bad_settings_are_refused(tmp_path, load):
    root = write_voc(tmp_path / "own")
    for setting, message in (
        ({"max_boxes": 1}, r"config.data.max_boxes=1 is less than the 2 boxes of an image of"),
        ({"image_size": (0, 0)}, r"image_size=\(0, 0\) must be a height and a width"),
        ({"bad_boxes": "fix"}, r"bad_boxes='fix' is unknown; choose from clip, drop, refuse"),
        ({"mosaic": 2.0}, r"mosaic=2.0 must be between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            load(root, **setting)


def test_bccd_from_its_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "BCCD.zip", "w") as archive:
        for split, numbers in {"train": range(3), "val": (3,), "test": (4, 5)}.items():
            names = [f"BloodImage_{number:05}" for number in numbers]
            archive.writestr(f"BCCD/ImageSets/Main/{split}.txt", "\n".join(names))
            for name in names:
                archive.writestr(f"BCCD/JPEGImages/{name}.jpg", encoded_image(0, (64, 48)))
                archive.writestr(
                    f"BCCD/Annotations/{name}.xml", voc([("RBC", 1, 1, 20, 20, 0), ("WBC", 9, 9, 9, 9, 0)])
                )
    message = prepare.prepare("bccd_voc", manual_dir=str(tmp_path), data_dir=str(tmp_path / "data"))
    assert "train 3, validation 1, test 2, 12 boxes, of them 6 empty or inverted" in message
    data = load_data(name="bccd_voc", dir=str(tmp_path / "data"))
    assert data.class_names == ("RBC", "WBC", "Platelets") and len(data.reference("test", 0)["boxes"]) == 1


# ---- Augmentation: rectangles are drawn, moved, and found again by their colours.


def drawn(number):
    """A black image of one to three bright rectangles of different classes that do not touch, and their boxes."""
    rng = np.random.default_rng(number)
    pixels, boxes, labels = np.zeros((60, 90, 3), np.uint8), [], []
    for label in range(rng.integers(1, 4)):
        left, top = 30 * label + rng.integers(2, 8), rng.integers(2, 20)
        right, bottom = left + rng.integers(10, 20), top + rng.integers(10, 35)
        pixels[top:bottom, left:right, label] = 255
        boxes.append((left, top, right, bottom))
        labels.append(label)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    boxes, labels = np.array(boxes, np.float32), np.array(labels)
    return {"image": buffer.getvalue(), "boxes": boxes, "labels": labels, "crowd": np.zeros(len(labels))}


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_moved_boxes_are_around_what_was_moved(mosaic):
    examples = [drawn(number) for number in range(12)]
    train = detection.TrainBoxTransform(
        (80, 100), 16, (0, 0, 0), True, scale=(0.5, 1.8), flip=True, vertical_flip=True, mosaic=mosaic, min_visible=0.3,
        others=examples,
    )  # fmt: skip
    rng, total = np.random.default_rng(1), 0
    for example in examples * 4:
        arrays = train(example, rng)
        assert arrays["image"].shape == (80, 100, 3)
        count = int(arrays["box_weight"].sum())
        total += count
        for box, label in zip(arrays["boxes"][:count], arrays["labels"][:count], strict=True):
            left, top, right, bottom = box
            assert 0 <= left < right <= 100 and 0 <= top < bottom <= 80
            bright = arrays["image"][..., label] > 127
            inside = bright[round(top) : round(bottom), round(left) : round(right)]
            # Full of its colour, but for borders that resizing has blurred; and a rim around it without that colour.
            if min(inside.shape) > 6:
                assert inside[2:-2, 2:-2].all()
            around = bright[
                max(0, round(top) - 4) : round(bottom) + 4, max(0, round(left) - 4) : round(right) + 4
            ].sum()
            if not mosaic:  # where a box of the same class may be next to it
                assert around <= (right - left + 3) * (bottom - top + 3)
    assert total > (150 if mosaic else 40)


def test_a_box_with_too_little_area_left_is_dropped():
    example = drawn(0) | {"boxes": np.array([[0, 0, 90, 60]], np.float32), "labels": [1], "crowd": [0]}
    shares = []
    for least in (0.0, 0.5):
        train = detection.TrainBoxTransform((60, 90), 4, (0, 0, 0), True, scale=(1.2, 1.9), min_visible=least)
        areas = [train(example, np.random.default_rng(seed))["boxes"][0] for seed in range(60)]
        shares.append([(box[2] - box[0]) * (box[3] - box[1]) / 5400 for box in areas])
    assert all(share > 0.99 for share in shares[0]), "the canvas is full of it"
    assert {share > 0.99 for share in shares[1]} == {True, False}, "most of a box that is much larger is outside"


def test_batches_depend_on_seed_and_step_alone(tmp_path):
    prepare.prepare("boxed_shapes", data_dir=str(tmp_path))
    augmentation = {"scale": (0.5, 2.0), "flip": True, "mosaic": 0.5}
    data = load_data(name="boxed_shapes", dir=str(tmp_path), max_boxes=16, **augmentation)
    batches = data.train_batches(3, 8)
    taken = [next(batches) for _ in range(3)]
    again = next(data.train_batches(3, 8, start=2, rows=slice(4, 8)))
    for key in ("image", "boxes", "labels", "box_weight", "index"):
        np.testing.assert_array_equal(again[key], taken[2][key][4:])
    assert not np.array_equal(next(data.train_batches(4, 8))["image"], taken[0]["image"])


def test_shapes_lie_in_their_boxes():
    for seed in range(20):
        scene = shapes.draw(np.random.default_rng(seed))
        assert len(scene.boxes) == len(scene.labels)
        covered = np.zeros(scene.mask.shape, bool)
        for left, top, right, bottom in scene.boxes.astype(int):
            covered[top:bottom, left:right] = True
        assert not ((scene.mask > 0) & (scene.mask < 255) & ~covered).any()
        left, top, right, bottom = scene.boxes[-1].astype(int)  # which nothing hides
        rows, columns = np.nonzero(scene.mask[top:bottom, left:right] == scene.labels[-1] + 1)
        assert rows.max() - rows.min() + 1 >= bottom - top - 1 and columns.max() - columns.min() + 1 >= right - left - 1


def test_predictions_come_back_to_the_image(tmp_path):
    prepare.prepare("boxed_shapes", data_dir=str(tmp_path))
    data = load_data(name="boxed_shapes", dir=str(tmp_path))
    image = transforms.decode(encoded_image(0, (300, 100)), 3)
    batch = data.examples([image])
    assert batch["image"].shape == (1, 24, 32, 3) and not batch["box_weight"].any()
    found = np.array([[0, 0, 32, 11], [16, 5.5, 99, 99]])  # 300 x 100 px are 32 x 11 px on the canvas
    np.testing.assert_allclose(data.in_image(found, (100, 300)), [[0, 0, 300, 100], [150, 50, 300, 100]])
