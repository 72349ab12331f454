"""A trained run alone: its data are gone, bad files are among its inputs, its answers become files."""

import csv
import io
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from research.data import recorded
from tests.running import run

COUNT = range(10, 20)  # images, more than a batch
COLOURS = {"blue": (20, 20, 200), "red": (200, 20, 20)}
SHORT = ("train.steps=6", "train.eval_every=6", "train.checkpoint_every=6", "train.eval_batch_size=8")


def image(path, colour, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-20, 20, (16, 16, 3))
    Image.fromarray(np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)).save(path)
    return path


def train(root, experiment, config, *overrides):
    """A finished run on a folder that is gone afterwards, as is all that was prepared of it."""
    words = [f"--config=configs/{experiment}/{config}.py:smoke", f"--workdir={root / 'run'}"]
    settings = (f"data.name=folder:{root / 'own'}", f"data.dir={root / 'data'}", *SHORT, *overrides)
    outcome = run([f"experiments.{experiment}.main", *words, *(f"--config.{each}" for each in settings)])
    assert outcome.code == 0, outcome.err
    shutil.rmtree(root / "own")
    shutil.rmtree(root / "data")
    return root / "run", outcome


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for colour in COLOURS:
        for number in range(16):
            image(root / "own" / colour / f"{number}.png", colour, number)
    return train(root, "image_classification", "digits_vit", "data.image_size=16", "train.batch_size=8")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    root = tmp_path_factory.mktemp("texts")
    (root / "own").mkdir()
    lines = (f"a {word} film {number}\t{word}\n" for number in range(30) for word in ("good", "bad"))
    (root / "own/train.tsv").write_text("".join(lines))
    settings = (
        "data.source={source}",
        "data.target={target}",
        "data.vocab_size=60",
        "data.byte_fallback=False",
        "data.source_length=16",
        "data.target_length=8",
    )
    return train(root, "sentiment", "sst2_sentences", *settings, "optimizer.warmup_steps=2")


def predict(experiment, workdir, *words):
    return run([f"experiments.{experiment}.main", f"--workdir={workdir}", "--mode=predict", *words])


def classify(images, *words):
    return predict("image_classification", images[0], *words)


@pytest.fixture
def folder(tmp_path):
    """Good files, more than a batch, and a bad one among them."""
    for number in COUNT:
        image(tmp_path / f"in/{number}.png", "red", 100 + number)
    (tmp_path / "in/13.png").write_bytes(b"none")
    return tmp_path / "in"


@pytest.mark.long
def test_classes_come_from_the_run_when_the_training_folder_is_gone(images, tmp_path):
    done = classify(images, image(tmp_path / "one.png", "red"))
    assert done.code == 0, done.err
    assert done.out.startswith(f"{tmp_path}/one.png: ") and "red " in done.out and "blue " in done.out


@pytest.mark.long
def test_evaluation_says_which_data_are_missing(images):
    error = run(["experiments.image_classification.main", f"--workdir={images[0]}", "--mode=evaluate"]).error
    assert f"data set 'folder:{images[0].parent / 'own'}'" in error


@pytest.mark.long
@pytest.mark.parametrize("damage", ["data.json", "checksum"])
def test_a_damaged_record_of_the_data_is_not_used(images, tmp_path, damage):
    workdir = shutil.copytree(images[0], tmp_path / "run")
    path = workdir / recorded.FILE
    path.write_text("{" if damage == "data.json" else path.read_text().replace("blue", "grey"))
    done = predict("image_classification", workdir, image(tmp_path / "one.png", "red"))
    assert done.code == 2
    warning, error = done.err.splitlines()
    assert warning == f"{path} is damaged; the data set itself is used instead" and "is not a folder" in error


@pytest.mark.long
def test_a_bad_file_is_named_and_the_others_are_answered(images, folder, tmp_path):
    done = classify(images, folder, f"--out={tmp_path / 'out.csv'}")
    assert done.code == 1
    assert [line.split(": ")[0] for line in done.out.splitlines()] == [f"{folder}/{n}.png" for n in COUNT if n != 13]
    warning, error = done.err.splitlines()
    assert warning.startswith(f"{folder}/13.png: cannot be read: it cannot be decoded")
    assert error == "error: 1 of 10 inputs are invalid, see above; the others have predictions"
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["input"] for row in rows] == [f"{folder}/{n}.png" for n in COUNT]
    assert rows[3]["error"].startswith("cannot be read: ") and rows[3]["class"] == ""
    for row, line in zip([*rows[:3], *rows[4:]], done.out.splitlines(), strict=True):
        shares = {name: float(row[f"probabilities.{name}"]) for name in COLOURS}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert line.split(": ")[1].split()[0] == row["class"] == max(shares, key=shares.get)


@pytest.mark.long
def test_patterns_and_standard_input_give_what_their_files_give(images, folder, monkeypatch):
    (folder / "13.png").unlink()
    alone = classify(images, *sorted(folder.iterdir()))
    assert alone.code == 0 and len(alone.out.splitlines()) == 9
    assert classify(images, f"{folder}/*.png").out == alone.out
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{path}\n" for path in sorted(folder.iterdir()))))
    assert classify(images, "-").out == alone.out


@pytest.mark.long
def test_where_nothing_can_be_answered_the_code_is_2_and_no_file_is_written(images, tmp_path):
    out = tmp_path / "out.csv"
    error = classify(images, f"{tmp_path}/*.gif", f"--out={out}").error
    assert error == f"error: '{tmp_path}/*.gif' matches no images"
    done = classify(images, tmp_path / "a.png", tmp_path / "b.png", f"--out={out}")
    assert done.code == 2 and done.err.splitlines()[-1] == "error: all 2 inputs are invalid, see above; fix them"
    assert done.err.splitlines()[0] == f"{tmp_path}/a.png: cannot be read: No such file or directory"
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--mode=predict", "a.png", "--out=x.txt"), "--out=x.txt must end in .csv or .jsonl"),
        (("--mode=evaluate", "--out=x.csv"), "--mode=evaluate writes no predictions"),
    ],
)
def test_a_wrong_out_is_refused_before_anything_is_read(words, message):
    assert message in run(["experiments.image_classification.main", "--workdir=/nowhere", *words]).error


@pytest.mark.long
def test_what_is_said_is_kept_with_the_time(images):
    workdir, outcome = images
    lines = [line.split(" ", 2) for line in (workdir / "run.log").read_text().splitlines()]
    assert all(date.startswith("20") and len(clock) == 8 for date, clock, _ in lines)
    said = [line for _, _, line in lines]
    assert [line for line in outcome.err.splitlines() if line.startswith(("training: ", "step 6: "))] == [
        line for line in said if line.startswith(("training: ", "step 6: "))
    ]
    assert any("with 26 train, 3 validation, 3 test examples" in line for line in said)
    assert "training: 6 steps of 8" in said


@pytest.mark.long
def test_the_vocabulary_and_the_classes_of_texts_come_from_the_run(texts, tmp_path):
    (tmp_path / "films.txt").write_text("a good film 3\n" + "film " * 40 + "\n\na bad film 4\n")
    out = tmp_path / "out.jsonl"
    done = predict("sentiment", texts[0], tmp_path / "films.txt", f"--out={out}", "--config.data.truncate=False")
    assert done.code == 1
    first, second, third, fourth = (line.split("\t")[1] for line in done.out.splitlines())  # one for each text
    assert "good " in first and "bad " in first and second == third == "" and fourth
    assert done.err.splitlines()[1] == f"{tmp_path}/films.txt, line 3: is empty; fill or remove it"
    assert "1 of 1 given examples are longer than source_length=16 tokens" in done.err.splitlines()[0]
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [record["input"].split()[1] for record in records] == ["good", "film", "line", "bad"]
    assert sum(records[0]["probabilities"].values()) == pytest.approx(1, abs=1e-3) and "error" in records[1]


@pytest.mark.long
def test_texts_need_the_vocabulary_of_the_run(texts, tmp_path):
    workdir = shutil.copytree(texts[0], tmp_path / "run")
    (workdir / recorded.VOCABULARY).write_bytes(b"another")
    done = predict("sentiment", workdir, "a good film")
    assert done.code == 2 and f"{workdir / recorded.VOCABULARY} is missing or damaged" in done.err
