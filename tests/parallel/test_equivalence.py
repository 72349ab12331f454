"""One training step on many devices is the step of one device, but for rounding.

With dropout, stochastic depth, mixup, microbatches, EMA and a padded example. In float32 to 1e-5 of each leaf,
in float64 to 1e-12, so that nothing but rounding can differ.
"""

import pytest

from tests.parallel import equivalence

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}  # of a leaf, and a hundredth of it of the global gradient
# How many of data, fsdp, tensor, sequence mean something to a model.
AXES = {"resnet": 2, "convnext": 3, "efficientnet": 3, "alexnet": 3, "faces": 3}

FAST = [
    ("vit", (1, 2, 2, 2), "float32"),
    ("vit", (1, 2, 2, 2), "float64"),
    ("resnet", (2, 4, 1, 1), "float64"),
    ("convnext", (2, 2, 2, 1), "float64"),
    ("efficientnet", (2, 2, 2, 1), "float64"),
    ("whitened_cnn", (2, 4, 1, 1), "float64"),
    ("t5", (1, 2, 2, 2), "float64"),
    ("faces", (2, 2, 2, 1), "float64"),
    ("spans", (2, 2, 1, 1), "float64"),
    ("retrieval", (2, 2, 2, 1), "float64"),
]
# Each axis alone, the products of two and of three: what a mesh can do to a step.
MESHES = [
    (8, 1, 1, 1), (1, 8, 1, 1), (1, 1, 8, 1), (1, 1, 1, 8), (2, 4, 1, 1), (2, 1, 4, 1), (1, 1, 4, 2), (2, 2, 2, 1),
    (1, 2, 2, 2), (2, 1, 2, 2),
]  # fmt: skip
# These share the code that others take to every mesh; AlexNet and EfficientNet take long.
FEW = [(1, 1, 4, 2), (2, 1, 1, 4), (1, 2, 2, 2)]
SHARING = ("vit_22b", "vit_conv", "vaswani", "copying", "whisper", "speech", *equivalence.CLIPS)


def meshes(name):
    """The ways to lay 8 devices along the axes that mean something to a model."""
    if name in ("alexnet", "faces", "efficientnet"):
        return [(8, 1, 1, 1), (1, 2, 4, 1), (2, 2, 2, 1)]
    if name in ("spans", "retrieval", "vit_siglip"):
        return FEW[-1:]
    if name == "whitened_cnn":  # convolutions and batch norm as in a ResNet
        return [(2, 4, 1, 1)]
    return FEW if name in SHARING else [sizes for sizes in MESHES if set(sizes[AXES.get(name, 4) :]) <= {1}]


ALL = [
    (name, sizes, dtype)
    for name in (*equivalence.MODELS, *equivalence.TEXTS, *equivalence.CLIPS, "speech", "faces", "spans", "retrieval")
    for sizes in meshes(name)
    # In an EfficientNet the bias of a batch norm before a 1x1 convolution and another batch norm has no gradient but
    # rounding, which in float32 is as large as the tolerance.
    for dtype in (("float64",) if name in ("efficientnet", "vit_siglip") else ("float32", "float64"))
]


def check(name, sizes, dtype):
    one, many = (equivalence.step(name, size, dtype) for size in ((1, 1, 1, 1), sizes))
    equivalence.check(one, many, TOLERANCE[dtype])


@pytest.mark.parametrize(("name", "sizes", "dtype"), FAST)
def test_a_step_on_a_mesh_is_the_step_of_one_device(name, sizes, dtype):
    check(name, sizes, dtype)


@pytest.mark.long
@pytest.mark.parametrize(("name", "sizes", "dtype"), [case for case in ALL if case not in FAST])
def test_a_step_on_every_mesh_is_the_step_of_one_device(name, sizes, dtype):
    check(name, sizes, dtype)
