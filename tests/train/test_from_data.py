"""Initial values that depend on the training data: computed once, averaged, frozen, and the same after a restart."""

import dataclasses
import shutil

import numpy as np
import pytest

from research.checkpoint.reading import CheckpointTensors
from research.models import whitened_cnn
from research.tasks import classification
from research.train import trainer
from tests.checkpoint.test_frozen import damage, folders
from tests.killing import outcome
from tests.train import toy

KERNEL = "whitening/kernel"


def make_task():
    """Of the toy, with a whitened CNN of one stage; without mixup, whose permutations XLA runs beside other sums.

    With fewer threads than both need on 8 virtual devices, they would wait for each other for ever.
    """
    model = whitened_cnn.WhitenedCNN.of(4, widths=(4,))
    return dataclasses.replace(toy.make_task(mixup=0.0), model=model)


def train(workdir):
    config = toy.make_config(**{"optimizer.freeze": (KERNEL,), "train.microbatches": 1})
    return trainer.run("train", config, make_task(), toy.Data(), workdir)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whitened") / "run"
    train(workdir)
    return workdir


def expected(images):
    """The kernel for images of the toy, from the covariances of NumPy."""
    z = (images[..., 0].astype(np.float64) - 128) / 74
    z = np.lib.stride_tricks.sliding_window_view(z, (2, 2), (1, 2)).reshape(-1, 4)
    return whitened_cnn.whitening(z.T @ z / len(z), 1, whitened_cnn.WhitenedCNNSpec().whitening_epsilon)


def test_the_whitening_kernel_is_that_of_the_training_images_to_the_end(finished):
    images = next(toy.Data().eval_batches("train", 64))["image"]
    found = CheckpointTensors(finished / "checkpoints" / "12")
    np.testing.assert_allclose(found.read(KERNEL), expected(images), rtol=1e-5, atol=1e-6)
    assert np.any(found.read("whitening/bias"))


def test_a_restart_and_damaged_frozen_parameters_end_in_the_same_bits(finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    damage(workdir)
    shutil.rmtree(workdir / "checkpoints/12")
    train(workdir)
    assert outcome(workdir, 12) == outcome(finished, 12)
    assert folders(workdir / "checkpoints") == folders(finished / "checkpoints")


def test_of_many_images_every_nth_is_used(monkeypatch):
    monkeypatch.setattr(classification, "FITTED", 16)
    images = next(toy.Data().eval_batches("train", 64))["image"]
    found = make_task().from_data(toy.Data())[KERNEL]
    np.testing.assert_allclose(found, expected(images[::4]), rtol=1e-5, atol=1e-6)


def test_other_models_have_no_such_values():
    assert toy.make_task().from_data(toy.Data()) == {}
