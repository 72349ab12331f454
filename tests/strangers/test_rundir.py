"""A run directory in a stranger's hands: shared by two runs, damaged, not writable; and what is printed meanwhile."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.flags import one_device
from tests.killing import ROOT, after_step, start, wait_for
from tests.running import run

TOY = "tests.train.toy_main"
MAIN = "experiments.image_classification.main"
CONFIG = "configs/image_classification/digits_vit.py:smoke"
STEPS = 12
OTHER_MACHINE = {"run": "1", "host": "elsewhere", "machine": "another", "pid": 7, "since": "yesterday", "beat": 1}


def toy(workdir, *more):
    return run([TOY, workdir, *more])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of the toy, and what it said."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    outcome = toy(workdir)
    assert outcome.code == 0, outcome.err
    return workdir, outcome


@pytest.fixture
def copy(finished, tmp_path):
    """A finished run that a test may damage."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def scores(workdir):
    return json.loads((workdir / "result.json").read_text())["metrics"]


def metric_lines(workdir):
    return (workdir / "metrics.jsonl").read_bytes().splitlines()


# ---- One run at a time.


@pytest.mark.long
def test_a_second_run_is_refused_and_a_killed_one_continues_at_once(tmp_path):
    workdir = tmp_path / "run"
    first = start(TOY, workdir, 0.3)
    try:
        wait_for(first, after_step(workdir, 4))
        refused = toy(workdir)
        assert f"{workdir} is in use by the run on " in refused.error
        assert f"process {first.pid}, since " in refused.error
        evaluated = toy(workdir, 0, "evaluate")  # which only reads
        assert evaluated.code == 0, evaluated.err
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    again = toy(workdir)
    assert again.code == 0, again.err
    assert "continuing at step" in again.err and "waiting" not in again.err
    logged = [json.loads(line) for line in metric_lines(workdir)]
    assert [entry["step"] for entry in logged if entry["name"] == "train/loss"] == list(range(1, STEPS + 1))
    assert not (workdir / "run.lock").exists()


def test_a_run_of_another_machine_is_waited_for_and_its_lease_is_taken_over(copy, monkeypatch):
    monkeypatch.setenv("TESSERA_LEASE_S", "1")
    (copy / "run.lock").write_text(json.dumps(OTHER_MACHINE))
    outcome = toy(copy)
    assert outcome.code == 0, outcome.err
    assert "the run on elsewhere, process 7, since yesterday may be running in" in outcome.err
    assert not (copy / "run.lock").exists()


def test_a_run_of_another_machine_that_lives_is_refused(copy, monkeypatch):
    monkeypatch.setenv("TESSERA_LEASE_S", "20")
    program = (
        "import json, sys, time\n"
        "for beat in range(2, 200):\n"
        "    open(sys.argv[1], 'w').write(json.dumps({**json.loads(sys.argv[2]), 'beat': beat}))\n"
        "    time.sleep(0.3)\n"
    )
    (copy / "run.lock").write_text(json.dumps(OTHER_MACHINE))
    alive = subprocess.Popen([sys.executable, "-c", program, copy / "run.lock", json.dumps(OTHER_MACHINE)])
    try:
        outcome = toy(copy)
    finally:
        alive.kill()
        alive.wait()
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1].startswith(f"error: {copy} is in use by the run on elsewhere, process 7")


@pytest.mark.long
def test_a_run_that_was_taken_over_ends_at_its_next_checkpoint(tmp_path):
    workdir = tmp_path / "run"
    first = start(TOY, workdir, 0.3)
    wait_for(first, after_step(workdir, 3))
    (workdir / "run.lock").write_text(json.dumps(OTHER_MACHINE))
    errors = first.communicate(timeout=120)[1]
    assert first.returncode == 2, errors
    assert "was taken over by the run on elsewhere, process 7" in errors.splitlines()[-1]
    assert json.loads((workdir / "run.lock").read_text()) == OTHER_MACHINE


# ---- Damaged side files.


def unfinished(workdir):
    """Makes a finished run one that was killed before its last checkpoint."""
    (workdir / "result.json").unlink()
    for step in (STEPS,):
        shutil.rmtree(workdir / "checkpoints" / str(step))


def test_a_damaged_line_of_metrics_costs_that_line_alone(copy, finished):
    unfinished(copy)
    lines = metric_lines(copy)
    lines[2], lines[5], lines[7] = lines[2][:-3], b'{"step": 3, "name"\xff: 2}', b'{"step": "three"}'
    (copy / "metrics.jsonl").write_bytes(b"\n".join(lines) + b'\n{"step": 99, "na')
    outcome = toy(copy)
    assert outcome.code == 0, outcome.err
    assert "metrics.jsonl: 3 lines, the first 3, are damaged and skipped; all others are kept" in outcome.err
    assert len(metric_lines(copy)) == len(metric_lines(finished[0])) - 3
    assert scores(copy) == scores(finished[0])


def test_a_digit_that_changes_in_the_metrics_changes_no_result(copy, finished):
    (copy / "result.json").unlink()
    text = (copy / "metrics.jsonl").read_text()
    validated = [line for line in text.splitlines() if f'"step": {STEPS}, "name": "validation/' in line]
    for line in validated:
        text = text.replace(line, line.rpartition(" ")[0] + " 0.123}")
    (copy / "metrics.jsonl").write_text(text)
    assert len(validated) == 2
    assert toy(copy).code == 0
    assert scores(copy) == scores(finished[0])


@pytest.mark.parametrize("content", [b"", b'{"seed": 0, "tra', b"\xff\xfe", b"[]", None])
def test_a_damaged_config_is_that_of_the_checkpoint(content, copy):
    config = copy / "config.json"
    before = json.loads(config.read_text())
    config.unlink() if content is None else config.write_bytes(content)
    outcome = toy(copy)
    assert outcome.code == 0, outcome.err
    assert f"the config that was saved with checkpoint {STEPS} is used instead" in outcome.err
    assert json.loads(config.read_text()) == before


@pytest.mark.parametrize("content", [b"", b"{}", None])
def test_another_config_is_refused_though_config_json_is_damaged_or_gone(content, copy):
    config = copy / "config.json"
    config.unlink() if content is None else config.write_bytes(content)
    outcome = run([TOY, copy, 0, "train", "seed=1"])
    assert f"belongs to another config, by checkpoint {STEPS} (seed: 0 -> 1)" in outcome.error


def test_a_config_json_that_was_edited_deceives_nobody_and_is_not_written(copy):
    unfinished(copy)
    config = copy / "config.json"
    edited = config.read_text().replace('"seed": 0', '"seed": 1')
    config.write_text(edited)
    outcome = run([TOY, copy, 0, "train", "seed=1"])
    assert "belongs to another config, by checkpoint" in outcome.error and "(seed: 0 -> 1)" in outcome.error
    assert config.read_text() == edited


@pytest.mark.parametrize("damage", ["empty", "cut", "bytes", "digit"])
def test_a_damaged_result_is_made_again(damage, copy, finished):
    path = copy / "result.json"
    text = path.read_bytes()
    position = text.index(b'"test/accuracy": 0.') + len(b'"test/accuracy": 0.')
    digit = text[:position] + str((int(text[position : position + 1]) + 5) % 10).encode() + text[position + 1 :]
    path.write_bytes({"empty": b"", "cut": text[:-20], "bytes": b"\xff" + text, "digit": digit}[damage])
    outcome = toy(copy)
    assert outcome.code == 0, outcome.err
    assert f"{path} is damaged; it is written again" in outcome.err
    assert scores(copy) == scores(finished[0])


def test_a_damaged_ledger_is_continued(copy):
    unfinished(copy)
    path = copy / "timeline.jsonl"
    path.write_bytes(b"\xff\xff\n[]\n" + b'{"kind": "nap"}\n' + path.read_bytes()[:-20])
    outcome = toy(copy)
    assert outcome.code == 0, outcome.err
    assert json.loads((copy / "result.json").read_text())["wall_s"] > 0


# ---- Damaged prepared data, and settings that only the first evaluation would refuse.

TEXT = ["experiments.translation.main", "--config=configs/translation/multi30k_de_en.py:smoke"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder of prepared numbers, spelled out, with their tokens, and of prepared digits."""
    folder = tmp_path_factory.mktemp("prepared")
    for words in (["spelled_numbers", TEXT[1]], ["digits"]):
        outcome = run(["research.data", "prepare", *words, f"--data_dir={folder}"])
        assert outcome.code == 0, outcome.err
        assert "\r" not in outcome.err
    return folder


@pytest.fixture
def data_dir(prepared, tmp_path):
    """Prepared data that a test may damage."""
    return Path(shutil.copytree(prepared, tmp_path / "data"))


def refuse(data_dir, *words, command=TEXT):
    """The line with which training on the data in `data_dir` is refused, before anything is written."""
    workdir = data_dir.parent / "run"
    outcome = run([*command, f"--config.data.dir={data_dir}", f"--workdir={workdir}", *words])
    assert not workdir.exists()
    return outcome.error


def damage(path, how):
    content = path.read_bytes()
    place = len(content) // 5  # further on, a file of records may end in padding
    flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    changed = {"zeros": bytes(len(content)), "cut": content[:-2], "empty": b"", "flip": flipped}.get(how)
    path.unlink() if changed is None else path.write_bytes(changed)


@pytest.mark.parametrize("how", ["zeros", "cut", "empty", "flip", "gone"])
@pytest.mark.parametrize("name", ["train.source.ids", "test.target.ends.npy", "vocabulary.model", "checksums.json"])
def test_damaged_tokens_are_refused(name, how, data_dir):
    (path,) = data_dir.glob(f"spelled_numbers/*/tokens/*/{name}")
    damage(path, how)
    line = refuse(data_dir)
    assert f"{path} is damaged (" in line
    again = f"python -m research.data prepare spelled_numbers --data_dir={data_dir}"
    assert line.endswith(f"prepare it again: rm -r {path.parent} && {again}")


@pytest.mark.parametrize("how", ["zeros", "cut", "empty", "flip", "gone"])
@pytest.mark.parametrize("name", ["digits-test.array_record*", "features.json", "label.labels.txt", "checksums.json"])
def test_damaged_images_are_refused(name, how, data_dir):
    if (name, how) == ("checksums.json", "gone"):
        pytest.skip("TFDS itself prepares without")
    (path,) = data_dir.glob(f"digits/*/{name}")
    damage(path, how)
    command = [MAIN, f"--config={CONFIG}"]
    line = refuse(data_dir, command=command)
    assert f"{path} is damaged (" in line
    assert f"rm -r {path.parent} && python -m research.data prepare digits" in line


@pytest.mark.parametrize("how", ["cut", "empty", "flip", "zeros"])
def test_a_damaged_description_is_refused(how, data_dir):
    (path,) = data_dir.glob("digits/*/dataset_info.json")
    damage(path, how)
    assert f"{path} is damaged (" in refuse(data_dir, command=[MAIN, f"--config={CONFIG}"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["task.select_by=bogus"],
            "select_by='bogus' is not computed while training; choose from loss",
        ),
        (["task.select_by=bleu"], "or set config.train.score=all to score predictions while training"),
        (
            ["task.select_by=bogus", "train.score=all"],
            "select_by='bogus' is not a score of config.task.metrics; choose from bleu",
        ),
    ],
)
def test_what_chooses_checkpoints_is_checked_before_training(words, message, prepared, tmp_path):
    overrides = [f"--config.{word}" for word in words]
    outcome = run([*TEXT, f"--config.data.dir={prepared}", f"--workdir={tmp_path / 'run'}", *overrides])
    assert message in outcome.error
    assert not (tmp_path / "run").exists()


# ---- A run directory that cannot be used.


@pytest.mark.parametrize(
    ("workdir", "message"),
    [
        ("", "--workdir is empty; give a folder"),
        ("{tmp}/file", "is a file; give a folder"),
        ("{tmp}/file/run", "is inside {tmp}/file, which is a file"),
        ("{tmp}/" + "x" * 300, "cannot be used: File name too long"),
        ("{tmp}/" + "x/" * 3000, "cannot be used: File name too long"),
        ("{tmp}/v\udcff", "is not UTF-8; choose another name"),
        ("/proc/none/run", "cannot be written: "),
    ],
)
@pytest.mark.parametrize("mode", ["train", "evaluate"])
def test_a_workdir_that_cannot_be_used(mode, workdir, message, tmp_path):
    (tmp_path / "file").touch()
    workdir = workdir.format(tmp=tmp_path)
    outcome = run([MAIN, f"--config={CONFIG}", f"--workdir={workdir}", f"--mode={mode}"])
    if mode == "train" or "written" not in message:
        assert message.format(tmp=tmp_path) in outcome.error
    else:
        assert outcome.code == 2 and len(outcome.err.splitlines()) == 1


# ---- What is printed.


@pytest.mark.long
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("streams", ["| head -n 1", "2>&1 | head -n 1", ">&-", "2>&-", ">&- 2>&-"])
def test_nobody_has_to_read_what_a_finished_run_prints(streams, unbuffered):
    """The exit code is that of the run, though the reader has gone or there never was one."""
    command = f"set -o pipefail; {sys.executable} -m tests.strangers.talker {streams}"
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_terminal_progress_is_lines(finished, copy, monkeypatch):
    _, outcome = finished
    assert "\r" not in outcome.err and "%|" not in outcome.err
    lines = [line for line in outcome.err.splitlines() if not line.startswith(("training: ", "evaluating "))]
    assert [line.split(":")[0] for line in lines] == [f"step {step}" for step in (4, 8, 12)]  # no noise at the end
    unfinished(copy)
    monkeypatch.setenv("TESSERA_PROGRESS_S", "0")
    shown = toy(copy).err
    assert f"training: {STEPS} of {STEPS} (100%) steps after " in shown and "evaluating test: " in shown
    assert "\r" not in shown


@pytest.mark.long
def test_an_interrupted_run_says_one_line_on_a_line_of_its_own(tmp_path):
    terminal, process = _on_a_terminal([sys.executable, "-m", TOY, tmp_path / "run", "0.2"])
    shown = b""
    deadline = time.time() + 120
    while b"step 4: " not in shown and time.time() < deadline:
        shown += os.read(terminal, 65536)
    process.send_signal(signal.SIGTERM)
    while chunk := _read(terminal):
        shown += chunk
    assert process.wait(timeout=60) == 75
    line = [line for line in shown.decode().split("\n") if "SIGTERM: saved step" in line]
    assert len(line) == 1 and line[0].split("\r")[-2 if line[0].endswith("\r") else -1].startswith("SIGTERM")


def _on_a_terminal(command):
    import pty

    main, side = pty.openpty()
    process = subprocess.Popen(command, cwd=ROOT, env=one_device(), stdout=subprocess.DEVNULL, stderr=side)
    os.close(side)
    return main, process


def _read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end was closed
        return b""
