"""Distillation as whole commands: the teacher is a run, stays as it is, and must be the same when a run goes on."""

import hashlib
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from research.checkpoint import seal
from research.checkpoint.reading import CheckpointTensors
from research.interop.teachers import RunTeacher
from research.tasks.text_classification import TextClassificationTask
from tests.interop.test_finetune import data, experiment  # noqa: F401  a fixture

pytestmark = pytest.mark.usefixtures("quick_compilation")
SHORT = [
    "image_classification", "--config=configs/image_classification/digits_vit.py:smoke", "--config.train.batch_size=16",
    "--config.train.eval_batch_size=256", "--config.optimizer.warmup_steps=0", "--config.train.log_every=1",
    "--config.model.depth=1", "--config.model.unroll=1",
]  # fmt: skip


def content(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def weights(run, step):
    tensors = CheckpointTensors(run / "checkpoints" / str(step))
    return {name: tensors.read(name) for name in tensors.specs}


@pytest.mark.long
def test_a_student_of_a_run(data, tmp_path, capsys):  # noqa: F811
    data("digits")
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    experiment(*SHORT, "--config.train.steps=2", "--config.train.checkpoint_every=1", f"--workdir={teacher}")
    before = content(teacher)

    def learn(*words, workdir=student, taught_by=teacher):
        experiment(
            *SHORT, "--config.model.width=16", "--config.model.mlp_dim=24", "--config.train.checkpoint_every=1",
            f"--config.distill.teacher={taught_by}", *words, f"--workdir={workdir}",
        )  # fmt: skip

    def refusal(*words, **options):
        with pytest.raises(SystemExit) as left:
            learn(*words, **options)
        assert left.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    learn("--config.train.steps=2")
    assert content(teacher) == before
    result = json.loads((student / "result.json").read_text())
    assert (result["teacher"]["path"], result["teacher"]["step"]) == (str(teacher), 2)
    assert f"distilled from {teacher} at step 2 (digest {result['teacher']['digest']})" in capsys.readouterr().err
    meta = seal.read(student / "checkpoints/2")
    assert meta["teacher"] == result["teacher"]
    assert not [name for name, (shape, *_) in meta["leaves"].items() if 32 in shape]  # the width of the teacher

    # Killed after step 1, it ends in the same bits.
    first = weights(student, 2)
    shutil.rmtree(student / "checkpoints/2")
    (student / "result.json").unlink()
    learn("--config.train.steps=2")
    for name, leaf in weights(student, 2).items():
        np.testing.assert_array_equal(leaf, first[name])

    assert "config.distill.teacher: " in refusal(workdir=tmp_path / "a", taught_by=tmp_path / "none")
    message = refusal(
        "--config.data.image_size=16", "--config.data.resize=16", "--config.model.image_size=16",
        workdir=tmp_path / "a",
    )  # fmt: skip
    assert "teacher has images of (8, 8, 1), but the config (16, 16, 1); set it to that" in message
    assert not (tmp_path / "a").exists()

    # A teacher at another step is another one. Without it, a student is evaluated all the same.
    shutil.rmtree(teacher / "checkpoints/2")
    message = refusal("--config.train.steps=3")
    assert f"checkpoint 2 was distilled from {teacher} at step 2 (digest {result['teacher']['digest']}), but" in message
    assert f"config.distill.teacher is now {teacher} at step 1" in message and "a copy of the former teacher" in message
    shutil.rmtree(teacher)
    experiment(SHORT[0], "--mode=evaluate", f"--workdir={student}")
    assert capsys.readouterr().out.startswith("step 2: validation/accuracy")


def test_a_teacher_with_other_classes_or_tokens_is_refused(tmp_path):
    texts = RunTeacher(
        str(tmp_path),
        SimpleNamespace(
            task=object.__new__(TextClassificationTask), tensors=SimpleNamespace(trained_on="texts, vocabulary abc")
        ),
    )
    texts.check_with_data(SimpleNamespace(vocabulary=SimpleNamespace(digest="abc")))
    with pytest.raises(ValueError, match="was trained with the vocabulary abc, these data have xyz; name the former"):
        texts.check_with_data(SimpleNamespace(vocabulary=SimpleNamespace(digest="xyz")))
