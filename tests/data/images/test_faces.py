"""Builders of faces and folders of people: who is trained on, what is paired with what, and what is refused."""

import dataclasses
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from research.data import prepare, sources
from research.data.images import faces, pairs
from research.data.images.builders import casia_webface, extended_yale_b, orl_faces
from research.data.images.spec import FaceDataSpec
from tests import samples
from tests.data.conftest import encoded_image

YALE = ("A+000E+00", "A+005E-10", "A-035E+15", "A+085E-20", "A+110E+65", "A+000E+90", "A-010E+00", "A+050E-40", "A+0E0")


def pgm(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (112, 92), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PPM")
    return buffer.getvalue()


PAIRS = "path1,path2,same\n{0}s31/1.pgm,{0}s31/2.pgm,1\n{0}s31/1.pgm,{0}s40/2.pgm,0\n"
PAIRS += "{0}s31/2.pgm,{0}s31/3.pgm,1\n{0}s31/2.pgm,{0}s40/1.pgm,0\n"


def write_orl(folder, people=40, pairs_text=PAIRS):
    folder.mkdir()
    (folder / "pairs_heldout_identities.csv").write_text(pairs_text.format("orl_faces/"))
    with zipfile.ZipFile(folder / "orl_faces.zip", "w") as archive:
        for person in range(1, people + 1):
            for number in range(1, 11):
                archive.writestr(f"orl_faces/s{person}/{number}.pgm", pgm([person, number]))
    return folder


def prepared(name, folder, tmp_path, **settings):
    prepare.prepare(name, str(folder), str(tmp_path / "data"))
    gallery = settings.pop("gallery", False)
    return faces.load(make_spec(tmp_path, name=name, **settings), gallery)


def paths(data, split):
    return {data.reference(split, index)["path"] for index in range(data.counts[split])}


def test_orl_identification_has_five_images_for_test(tmp_path):
    data = prepared("orl_faces/identification", write_orl(tmp_path / "orl"), tmp_path, gallery=True)
    assert data.counts == {"train": 160, "validation": 40, "test": 200} and data.num_classes == 40
    assert {path for path in paths(data, "test") if "/s7/" in path} == {f"orl_faces/s7/{n}.pgm" for n in range(6, 11)}
    assert {path for path in paths(data, "validation") if "/s7/" in path} == {"orl_faces/s7/5.pgm"}
    # The gallery of the test split is everything else.
    batches = list(data.eval_batches("test", 100))
    index, weight = (np.concatenate([batch[key] for batch in batches]) for key in ("index", "weight"))
    assert index.tolist() == list(range(400)) and weight.tolist() == [1] * 200 + [0] * 200
    labels = np.concatenate([batch["label"] for batch in batches])
    for place in (0, 199, 200, 399):
        known = data.reference("test", place)
        assert known["label"] == labels[place] and known["gallery"] == (place >= 200)
        assert data.class_names[known["label"]] == known["person"] == known["path"].split("/")[1]
    first, second = data.pairs("validation")[0][:2]
    assert first.endswith("/5.pgm") and second[:-5] == first[:-5] and second[-5] in "1234"


def test_people_in_the_pairs_of_orl_are_not_in_train(tmp_path):
    data = prepared("orl_faces/verification", write_orl(tmp_path / "orl"), tmp_path)
    assert data.counts == {"train": 240, "validation": 60, "test": 100} and data.num_classes == 24
    people = lambda split: {path.split("/")[1] for path in paths(data, split)}
    assert people("validation") == {f"s{n}" for n in range(1, 31, 5)}
    assert people("train") == {f"s{n}" for n in range(1, 31)} - people("validation")
    assert people("test") == {f"s{n}" for n in range(31, 41)}
    labels = lambda split: {int(label) for batch in data.eval_batches(split, 20) for label in batch["label"]}
    assert labels("train") == set(range(24)) and min(labels("validation")) == 24 and min(labels("test")) == 30
    assert data.pairs("test")[1] == pairs.ImagePair("orl_faces/s31/1.pgm", "orl_faces/s40/2.pgm", 0, 0)
    assert sum(pair.same for pair in data.pairs("validation")) == 6 * 10 * 9 // 2
    # Once all is chosen, those of validation are trained on, too.
    both = faces.load(make_spec(tmp_path, name="orl_faces/verification", fit_on="train+validation"), False)
    assert both.counts == {"train": 300, "validation": 60, "test": 100} and both.num_classes == 30
    assert paths(both, "train") == paths(data, "train") | paths(data, "validation")
    assert both.fingerprint != data.fingerprint


def test_every_person_is_in_validation_of_one_fold(tmp_path):
    folder, held_out = write_orl(tmp_path / "orl"), []
    for name in ("verification", *(f"verification_fold{fold}" for fold in range(1, 5))):
        data = prepared(f"orl_faces/{name}", folder, tmp_path)
        held_out += sorted({path.split("/")[1] for path in paths(data, "validation")})
        assert data.num_classes == 24 and data.counts["test"] == 100
    assert sorted(held_out) == sorted(f"s{n}" for n in range(1, 31))


@pytest.mark.parametrize(("text", "message"), [
    ("{0}s31/1.pgm,{0}s31/11.pgm,1\n", r"identities.csv, pair 1: there is no image 'orl_faces/s31/11.pgm'"),
    ("{0}s31/1.pgm,{0}s2/1.pgm,0\n", r"identities.csv, pair 1: there is no image 'orl_faces/s2/1.pgm'"),
    ("{0}s31/1.pgm\n", r"identities.csv, line 1: 'orl_faces/s31/1.pgm' is not path1,path2,same"),
])  # fmt: skip
def test_a_bad_pair_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        prepared("orl_faces/verification", write_orl(tmp_path / "orl", pairs_text=text), tmp_path)


def test_missing_people_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"orl_faces.zip lacks the images of s39, s40"):
        prepared("orl_faces/identification", write_orl(tmp_path / "orl", people=38), tmp_path)


def test_yale_b_has_labels_of_illumination(tmp_path):
    folder = tmp_path / "yale"
    folder.mkdir()
    name = "CroppedYale/{0}/{0}_P00{1}.jpg".format
    lines = [f"{name('yaleB30', YALE[0])},{name('yaleB30', YALE[2])},1", f"{name('yaleB31', YALE[0])},"
             f"{name('yaleB39', YALE[4])},0"]  # fmt: skip
    (folder / "pairs_heldout_identities.csv").write_text("\n".join(2 * lines))
    with zipfile.ZipFile(folder / "CroppedYale_84x96.zip", "w") as archive:
        for person in extended_yale_b.ExtendedYaleB.people:
            for number, light in enumerate(YALE):
                archive.writestr(name(person, light), encoded_image([number], (84, 96)))
    data = prepared("extended_yale_b/verification", folder, tmp_path)
    assert data.counts == {"train": 22 * 8, "validation": 6 * 8, "test": 80}
    assert data.columns == ("light",) and data.num_classes == 22
    lights = {each["path"][-13:-4]: each["light"] for each in map(lambda i: data.reference("test", i), range(80))}
    kinds = {"frontal": (0, 1, 6), "side": (2,), "extreme": (3, 4, 5, 7)}  # (50, -40) is 60.5 degrees off
    assert lights == {YALE[number]: kind for kind, numbers in kinds.items() for number in numbers}


def write_people(root, names="abcd", count=3, split=""):
    for name in names:
        (root / split / name).mkdir(parents=True)
        for number in range(1, count + 1):
            (root / split / name / f"{name}_{number:04}.jpg").write_bytes(encoded_image([ord(name), number]))
    return root


def make_spec(tmp_path, **settings):
    return FaceDataSpec(**({"dir": str(tmp_path / "data"), "image_size": 8} | settings))


def load_folder(root, tmp_path, **settings):
    return samples.prepared(faces.load(make_spec(tmp_path, name=f"folder:{root}", **settings), False))


def test_a_folder_with_pairs_and_labels(tmp_path):
    root = write_people(tmp_path / "people", "abcdef")
    (root / "pairs.csv").write_text(2 * "e/e_0001.jpg,e/e_0002.jpg,1\ne/e_0003.jpg,f/f_0001.jpg,0\n")
    (root / "labels.csv").write_text("person,height\na,tall\ne,tall\nf,small\n")
    data = load_folder(root, tmp_path, validation_fraction=0.3)
    assert data.class_names == tuple("abcdef") and data.num_classes == 4 and data.columns == ("height",)
    assert paths(data, "test") == {f"{name}/{name}_000{n}.jpg" for name in "ef" for n in (1, 2, 3)}
    assert {each["height"] for each in map(lambda i: data.reference("test", i), range(6))} == {"tall", "small"}
    seen = {each["person"]: each["height"] for split in ("train", "validation")
            for each in map(lambda i: data.reference(split, i), range(data.counts[split]))}  # fmt: skip
    assert seen == {"a": "tall", "b": "", "c": "", "d": ""}
    before = data.fingerprint
    (root / "pairs.csv").write_text(2 * "e/e_0001.jpg,e/e_0003.jpg,1\ne/e_0003.jpg,f/f_0001.jpg,0\n")
    assert load_folder(root, tmp_path, validation_fraction=0.3).fingerprint != before


def test_who_is_known_has_images_in_the_splits_before(tmp_path):
    root = write_people(tmp_path / "people", "abcdef", count=6)
    (root / "pairs.csv").write_text(2 * "e/e_0001.jpg,e/e_0002.jpg,1\ne/e_0003.jpg,f/f_0001.jpg,0\n")
    data = dataclasses.replace(load_folder(root, tmp_path, validation_fraction=0.3), gallery=True)
    assert data.known("validation") <= set("abcd") and data.known("validation")
    assert data.known("test") == set(), "e and f are in no other split"


def test_lfw_beside_a_folder_to_train_on(tmp_path):
    root = write_people(tmp_path / "people", "ab", split="train", count=6)
    write_people(root, "xyz", split="test")
    (root / "pairs.txt").write_text("2 1\nx 1 3\ny 1 z 2\nx 1 2\ny 1 z 1\n")
    data = load_folder(root, tmp_path)
    assert data.num_classes == 2 and data.counts["test"] == 9
    assert data.pairs("test")[1] == pairs.ImagePair("y/y_0001.jpg", "z/z_0002.jpg", 0, 0)
    (root / "pairs.txt").write_text("2 1\nx 1 3\ny 1 a 2\nx 1 2\ny 1 z 1\n")
    with pytest.raises(
        ValueError, match=r"'a' is in a pair and in train; pairs must be of people who are in test only"
    ):
        load_folder(root, tmp_path)


EVERYBODY = "a/a_0001.jpg,a/a_0002.jpg,1\na/a_0001.jpg,b/b_0001.jpg,0\n"
EVERYBODY += "c/c_0001.jpg,c/c_0002.jpg,1\nc/c_0001.jpg,d/d_0001.jpg,0\n"


@pytest.mark.parametrize(("file", "text", "message"), [
    ("pairs.csv", "a/a_0001.jpg,a/a_0009.jpg,1\n", r"pairs.csv, pair 1: there is no image 'a/a_0009.jpg'"),
    ("pairs.txt", "1 1\na 1 2\na 1 e 2\n", r"pairs.txt, pair 2: there is no image 'e/e_0002.jpg'"),
    ("pairs.csv", EVERYBODY, r"people has no people to train on"),
    ("pairs.csv", EVERYBODY[:56], r"pairs.csv: folds other than 0 must have pairs of the same person and of different"),
    ("pairs.csv", "\xff", r"pairs.csv, line 1: '\xff' is not path1,path2,same"),
    ("labels.csv", "person,age\na,7\nx,8\n", r"labels.csv, line 3: there is no person 'x'"),
    ("labels.csv", "image,age\na/1.jpg,8\n", r"labels.csv, line 2: there is no image 'a/1.jpg'"),
    ("labels.csv", "who,age\na,8\n", r"labels.csv, line 1 must be `image,COLUMN"),
    ("labels.csv", "person,age\na\n", r"labels.csv, line 2 has 1 columns, the header 2"),
])  # fmt: skip
def test_what_is_wrong_in_a_folder_is_named(tmp_path, file, text, message):
    root = write_people(tmp_path / "people")
    (root / file).write_text(text, "utf-8")
    with pytest.raises(ValueError, match=message):
        sources.open_builder(f"folder:{root}", str(tmp_path / "data"))


def test_casia_webface_is_tested_on_lfw(tmp_path, monkeypatch):
    monkeypatch.setattr(casia_webface, "PEOPLE", 3)
    root = write_people(tmp_path / "faces", "abc", count=5, split="CASIA-WebFace")
    write_people(root, "xy", split="lfw")
    (root / "pairs.txt").write_text("2 1\nx 1 3\nx 1 y 2\nx 1 2\nx 2 y 1\n")
    data = prepared("casia_webface", root, tmp_path)
    assert data.counts == {"train": 13, "validation": 2, "test": 6} and data.num_classes == 3
    assert paths(data, "validation") == {"a/a_0004.jpg", "a/a_0005.jpg"}
    assert data.pairs("test")[1] == pairs.ImagePair("x/x_0001.jpg", "y/y_0002.jpg", 0, 0)
    (root / "pairs.txt").write_text("1 1\nx 1 3\nx 1 a 2\n")
    with pytest.raises(ValueError, match=r"pairs.txt, pair 2: there is no image 'a/a_0002.jpg'"):
        prepare.prepare("casia_webface", str(root), str(tmp_path / "again"))
    monkeypatch.setattr(casia_webface, "PEOPLE", 4)
    with pytest.raises(ValueError, match=r"holds the folders of 3 people; 4 are expected"):
        prepare.prepare("casia_webface", str(root), str(tmp_path / "once more"))


def test_any_labelled_images_are_people(tmp_path):
    data = load_folder(write_people(tmp_path / "people", count=10), tmp_path, validation_fraction=0.3)
    assert data.num_classes == 4 and data.columns == ()
    drawn = data.pairs("test")
    assert drawn and {path for pair in drawn for path in pair[:2]} <= paths(data, "test")


def test_patterns_need_no_download(tmp_path):
    data = prepared("random_patterns/verification", "", tmp_path)
    assert data.counts == {"train": 504, "validation": 84, "test": 108} and data.num_classes == 36
    assert {each["light"] for each in map(lambda i: data.reference("test", i), range(108))} == {"dim", "bright"}
    assert orl_faces.OrlFaces.unseen[0] == "s31"


def test_a_file_of_another_encoding_is_named(tmp_path):
    root = write_people(tmp_path / "people")
    (root / "labels.csv").write_bytes(b"\xef\xbb\xbfperson,age\na,7\n")  # as some editors begin a file in UTF-8
    sources.open_builder(f"folder:{root}", str(tmp_path / "data"))
    (root / "labels.csv").write_bytes(b"person,name\na,Ren\xe9\n")
    with pytest.raises(ValueError, match=r"labels\.csv, line 2: invalid UTF-8"):
        sources.open_builder(f"folder:{root}", str(tmp_path / "data"))
