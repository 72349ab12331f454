"""Folders of people as people have them: pairs and labels that are read rightly, or refused in one line."""

import pytest
from PIL import Image

from research.data.images import faces
from research.data.images.spec import FaceDataSpec
from tests.running import run

PAIRS = "a/1.png,a/2.png,1\na/1.png,b/1.png,0\na/2.png,a/3.png,1\na/2.png,b/2.png,0\n"


def write_people(root, pairs=None, labels=None, people="abcd", name="pairs.csv"):
    for person in people:
        (root / person).mkdir(parents=True)
        for number in range(1, 4):
            Image.new("RGB", (9, 9), (60 * number, ord(person), 9)).save(root / person / f"{number}.png")
    for file, text in ((name, pairs), ("labels.csv", labels)):
        if text is not None:
            (root / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


@pytest.fixture
def prepare(tmp_path):
    """Runs `prepare` on a folder."""
    return lambda root: run(["research.data", "prepare", f"folder:{root}", "--data_dir", tmp_path / "data"])


@pytest.mark.parametrize("pairs", [
    PAIRS,
    "path1,path2,same\r\n" + PAIRS.replace("\n", "\r\n"),
    "Path1, path2, same\n" + PAIRS.replace(",", ", ").replace("\n", " \n \n"),
    b"\xef\xbb\xbf" + PAIRS.replace("/", "\\").encode(),
    PAIRS.replace("a/", "./a/"),
    "".join(f'"{line.replace(",", chr(34) + "," + chr(34))}"\n' for line in PAIRS.split()),
], ids=["plain", "Windows lines", "spaces", "Windows names and BOM", "dots", "quotes"])  # fmt: skip
def test_pairs_as_people_write_them(tmp_path, prepare, pairs):
    root = write_people(tmp_path / "own", pairs)
    assert prepare(root).code == 0
    config = {"name": f"folder:{root}", "dir": str(tmp_path / "data"), "image_size": 8, "validation_fraction": 0.3}
    data = faces.load(FaceDataSpec(**config), False)
    found = [(pair.first, pair.second, pair.same) for pair in data.pairs("test")]
    assert found[:2] == [("a/1.png", "a/2.png", 1), ("a/1.png", "b/1.png", 0)] and len(found) == 4
    assert data.num_classes == 2, "c and d are trained on"


BAD_PAIRS = {
    "empty": ("", "holds no pairs"),
    "a header alone": ("path1,path2,same\n", "holds no pairs"),
    "semicolons": (PAIRS.replace(",", ";"), "line 1: 'a/1.png;a/2.png;1' is not path1,path2,same[,fold]"),
    "words": (PAIRS.replace(",1\n", ",yes\n"), "line 1: 'a/1.png,a/2.png,yes' is not path1,path2,same"),
    "a superscript": (PAIRS.replace(",1\n", ",1,²\n"), "is not path1,path2,same[,fold]"),
    "a huge fold": (PAIRS.replace(",1\n", f",1,{'9' * 5000}\n"), "is not path1,path2,same[,fold]"),
    "a negative fold": (PAIRS.replace(",1\n", ",1,-1\n"), "is not path1,path2,same[,fold]"),
    "a quote that does not end": (PAIRS + '"a/1.png,b/1.png,0\n', "line 5: unexpected end of data"),
    "a huge field": ("x" * 200_000 + ",b,0\n", "line 1: field larger than field limit"),
    "not UTF-8": (b"a/\xe4.png,a/2.png,1\n", "invalid UTF-8"),
    "absent": (PAIRS.replace("a/3", "a/9"), "pair 3: there is no image 'a/9.png'; fix the entry or add the file"),
    "absolute": ("/etc/passwd,a/1.png,0\n", "pair 1: there is no image '/etc/passwd'"),
    "outside": ("../x/a/1.png,a/1.png,0\n", "pair 1: there is no image '../x/a/1.png'"),
    "one kind": (PAIRS.splitlines()[0] + "\n", "must have pairs of the same person and of different people"),
    "an image and itself": (
        PAIRS + "a/1.png,a/1.png,1\n",
        "pair 5 is of 'a/1.png' and itself; give two different images",
    ),
    "a contradiction": (
        PAIRS + "a/1.png,b/3.png,1\n",
        "pair 5: 'a/1.png' and 'b/3.png' are labelled as the same person",
    ),
    "another": (PAIRS + "b/1.png,b/3.png,0\n", "pair 5: 'b/1.png' and 'b/3.png' are labelled as different people"),
    "everybody": (PAIRS + "c/1.png,d/1.png,0\n", "has no people to train on"),
    "all but one": (PAIRS + "b/1.png,c/1.png,0\n", "has one person to train on, 'd'; at least two are needed"),
}


@pytest.mark.parametrize(("pairs", "message"), BAD_PAIRS.values(), ids=BAD_PAIRS)
def test_bad_pairs_are_named(tmp_path, prepare, pairs, message):
    error = prepare(write_people(tmp_path / "own", pairs)).error
    assert message in error and len(error) < 500, error


BAD_VIEW2 = {
    "no head": ("a 1 2\na 1 b 1\n", "must begin with the number of folds, and of pairs"),
    "a superscript": ("2 ²\na 1 2\n", "must begin with the number of folds, and of pairs"),
    "a huge number": (f"1 1\na 1 {'9' * 5000}\na 1 b 1\n", "line 2: 'a 1 999"),
    "fewer than it says": ("10 300\na 1 2\na 1 b 1\n", "holds 2 pairs; by its first line, 10 folds of 300 pairs"),
    "more than it says": ("1 1\na 1 2\na 1 b 1\na 2 3\n", "holds 3 pairs; by its first line, 1 folds of 1 pairs"),
    "a name with a space": ("1 1\nJean Luc 1 2 3\nc 1 2\n", "line 2: 'Jean Luc 1 2 3' is not `name n1 n2`"),
}


@pytest.mark.parametrize(("pairs", "message"), BAD_VIEW2.values(), ids=BAD_VIEW2)
def test_bad_pairs_of_lfw_are_named(tmp_path, prepare, pairs, message):
    error = prepare(write_people(tmp_path / "own", pairs, name="pairs.txt")).error
    assert message in error and len(error) < 500, error


BAD_LABELS = {
    "empty": ("", "line 1 must be `image,COLUMN,...` or `person,COLUMN,...`, not ''"),
    "one column": ("person\na\n", "line 1 must be"),
    "a column without a name": ("person,\na,1\n", "line 1 must be"),
    "a column twice": ("person,age,age\na,1,2\n", "line 1 must be"),
    "a column of ours": ("person,label\na,1\n", "line 1 must be"),
    "somebody unknown": ("person,age\nzoe,1\n", "line 2: there is no person 'zoe'; correct the entry or add the file"),
    "somebody twice": ("person,age\na,1\n\na,2\n", "line 4: 'a' has labels already; keep one line for it"),
    "too few values": ("person,age\na\n", "line 2 has 1 columns, the header 2"),
    "a quote that does not end": ('person,age\n"a,1\n', "line 2: unexpected end of data"),
    "not UTF-8": (b"person,name\na,Ren\xe9\n", "invalid UTF-8"),
}


@pytest.mark.parametrize(("labels", "message"), BAD_LABELS.values(), ids=BAD_LABELS)
def test_bad_labels_are_named(tmp_path, prepare, labels, message):
    error = prepare(write_people(tmp_path / "own", labels=labels)).error
    assert message in error and "labels.csv" in error, error


def test_columns_of_labels_may_have_any_name(tmp_path, prepare):
    labels = "Person, age / years,Land & Ort,\u0441\u0432\u0435\u0442\na,7,x,y\n".replace("Person", "person")
    root = write_people(tmp_path / "own", labels=labels)
    done = prepare(root)
    assert done.code == 0, done.err
    config = {"name": f"folder:{root}", "dir": str(tmp_path / "data"), "image_size": 8}
    columns = faces.load(FaceDataSpec(**config), False).columns
    assert columns == (
        "Land & Ort",
        "age / years",
        "\u0441\u0432\u0435\u0442",
    )


def test_a_folder_of_one_person_is_refused(tmp_path, prepare):
    assert (
        "one person to train on, 'a'"
        in prepare(write_people(tmp_path / "own", labels="person,age\n", people="a")).error
    )


def test_people_who_appear_or_vanish_are_named(tmp_path, prepare):
    root = write_people(tmp_path / "own", PAIRS)
    (root / ".ipynb_checkpoints").mkdir()
    for name in (".ipynb_checkpoints/1.png", "a/._1.png"):
        (root / name).write_bytes((root / "a/1.png").read_bytes())
    done = prepare(root)
    assert "2 people to train on, 2 others, 4 pairs" in done.out and "left out: 2 hidden" in done.out
    above = tmp_path / "above"
    write_people(above / "people")
    (above / "labels.csv").write_text("person,age\na,7\n")
    error = prepare(above).error
    assert "people is a class folder with folders in it that hold images" in error
