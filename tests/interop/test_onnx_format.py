"""ONNX programs of classifiers, run by ONNX Runtime."""

import json

import jax
import numpy as np
import pytest

from research import config as config_lib
from research.cli.experiments import config_class
from research.interop import imports, onnx_format, runs, stablehlo
from tests.interop.test_big_vision import random_weights

for package in ("jax2onnx", "onnx", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package} is not installed; it comes with the extra [onnx]")

import onnxruntime  # noqa: E402


def outputs(folder, images):
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


def check(tmp_path, shape):
    """The program of the run in `run` gives the logits of JAX for batches of any size."""
    (line,) = onnx_format.run(str(tmp_path / "run"), str(tmp_path / "out"), config_class)
    assert "its logits differ from JAX by up to" in line
    about = json.loads((tmp_path / "out/model.json").read_text())
    assert about["inputs"] == {"images": [["batch", *map(str, shape)], "uint8"]}
    run = runs.open_run(tmp_path / "run", config_class)
    names = sorted(run.tensors.specs)
    variables = stablehlo.tree(names, [run.tensors.read(name) for name in names])
    for count in (2, 5):
        images = np.random.default_rng(count).integers(0, 256, (count, *shape), np.uint8)
        expected = np.asarray(jax.jit(run.task.serve)(variables, images))
        found = outputs(tmp_path / "out", images)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
        assert np.ptp(expected) > 0.1


@pytest.mark.long
def test_a_vit(tmp_path):
    np.savez(tmp_path / "vit.npz", **random_weights(image_size=8, classes=4, cls=True))
    imports.run(str(tmp_path / "vit.npz"), str(tmp_path / "run"), config_class, ["data.mean=(100.0,)"])
    check(tmp_path, (8, 8, 3))


@pytest.mark.long
def test_a_cnn(tmp_path):
    config = config_lib.load("configs/image_classification/cifar10_resnet.py", "smoke")
    task, rng = config.make_task(10, (32, 32, 3)), np.random.default_rng(0)
    abstract = jax.eval_shape(lambda: task.init(jax.random.key(0)))
    # Scales and variances around 1, so that batch norm counts.
    values = lambda leaf: (rng.normal(0, 0.1, leaf.shape) + (leaf.ndim == 1)).astype(np.float32)
    variables = jax.tree.map(values, abstract)
    serve = lambda images: task.serve(variables, images)
    (batch,) = jax.export.symbolic_shape("batch")
    spec = task.serve_inputs(batch)["images"]
    assert onnx_format.write(serve, spec, "images", tmp_path / "model.onnx") < 1e-4
    images = rng.integers(0, 256, (5, 32, 32, 3), np.uint8)
    expected = np.asarray(jax.jit(serve)(images))
    np.testing.assert_allclose(outputs(tmp_path, images), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert np.ptp(expected) > 0.1


def test_what_cannot_be_converted_is_refused_in_one_line(tmp_path, monkeypatch):
    import jax2onnx

    np.savez(tmp_path / "vit.npz", **random_weights(image_size=8, classes=4, cls=False))
    imports.run(str(tmp_path / "vit.npz"), str(tmp_path / "run"), config_class)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").touch()
    with pytest.raises(ValueError, match="exists; name a new folder"):
        onnx_format.run(str(tmp_path / "run"), str(tmp_path / "full"), config_class)

    def unknown(*_, **__):
        raise NotImplementedError("no plugin for\nthe primitive 'x'")

    monkeypatch.setattr(jax2onnx, "to_onnx", unknown)
    with pytest.raises(
        ValueError, match=r"NotImplementedError: no plugin for the primitive 'x'\); use --format=stableh"
    ):
        onnx_format.run(str(tmp_path / "run"), str(tmp_path / "out"), config_class)
    assert not (tmp_path / "out").exists()


def test_a_program_that_computes_something_else_is_found(tmp_path):
    import onnx

    kinds = onnx.TensorProto
    nodes = [
        onnx.helper.make_node("Cast", ["images"], ["x"], to=kinds.FLOAT),
        onnx.helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0),
    ]
    axes = onnx.numpy_helper.from_array(np.array([1, 2, 3]), "axes")
    images = onnx.helper.make_tensor_value_info("images", kinds.UINT8, ["batch", 4, 4, 1])
    means = onnx.helper.make_tensor_value_info("y", kinds.FLOAT, ["batch"])
    graph = onnx.helper.make_graph(nodes, "g", [images], [means], [axes])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save_model(model, str(tmp_path / "m.onnx"))
    spec = jax.ShapeDtypeStruct((1, 4, 4, 1), np.uint8)
    same = onnx_format._difference(lambda x: x.astype(np.float32).mean((1, 2, 3)), spec, tmp_path / "m.onnx")
    assert same < 1e-3
    with pytest.raises(onnx_format._DifferentError, match="differs from JAX by"):
        onnx_format._difference(lambda x: x.astype(np.float32).sum((1, 2, 3)), spec, tmp_path / "m.onnx")
