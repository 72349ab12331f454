"""Checkpoints that are damaged, made up or meant to harm: `import` takes them, or refuses them in one line."""

import json
import pickle
import random
import resource
import shutil
import zipfile

import numpy as np
import pytest

from tests.interop.test_big_vision import random_weights
from tests.running import run

pytestmark = pytest.mark.usefixtures("quick_compilation")
DIGITS = "9" * 6000  # more than Python converts


@pytest.fixture(scope="module")
def quick_compilation():
    """XLA need not optimise what is small and runs once."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def weights():
    return random_weights(image_size=8, classes=4, cls=True)


@pytest.fixture(scope="module")
def vit(weights, quick_compilation, tmp_path_factory):
    """A ViT as transformers would write it: our own export, which needs neither torch nor transformers."""
    root = tmp_path_factory.mktemp("vit")
    np.savez(root / "vit.npz", **weights)
    for words in (["import", root / "vit.npz", f"--workdir={root / 'run'}"],
                  ["export", root / "run", root / "theirs", "--family=vit"]):  # fmt: skip
        done = run(["research.interop", *words])
        assert done.code == 0, done.err
    size = {"size": 8, "image_processor_type": "ViTImageProcessor"}
    (root / "theirs/preprocessor_config.json").write_text(json.dumps(size))
    return root / "theirs"


@pytest.fixture
def theirs(vit, tmp_path):
    """A copy to break."""
    return shutil.copytree(vit, tmp_path / "theirs")


def refusal(path, here):
    """The one line; nothing is written, and no memory is taken for what the file claims to hold."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = run(["research.interop", "import", path, f"--workdir={here / 'runs/one'}"]).error
    assert not (here / "runs").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # KiB
    assert len(error) < 2000
    return error


def parts(file):
    """The header and the data of a safetensors file."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write(file, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


NAME = "vit.embeddings.cls_token"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.pop(NAME), "unused bytes"),
        (lambda h: h[NAME].update(dtype="F99"), "has the dtype 'F99', which is not supported; choose from F64"),
        (lambda h: h[NAME].update(dtype=["F32"]), "choose from F64"),
        (lambda h: h[NAME].update(dtype="F16"), "float16[1, 1, 24], but has 96 bytes"),
        (lambda h: h[NAME].update(dtype="I32"), f"{NAME} is int32 in "),
        (lambda h: h[NAME].update(shape="24"), "has the invalid shape '24'"),
        (lambda h: h[NAME].update(shape=[1, 1, -24]), "the invalid shape"),
        (lambda h: h[NAME].update(shape=[1, 1, 24.0]), "the invalid shape"),
        (lambda h: h[NAME].update(shape=[1, 1, True, 24]), "the invalid shape"),
        (lambda h: h[NAME].update(shape=[10**12, 0]), "the invalid shape"),
        (lambda h: h[NAME].update(shape=[24, 1, 1]), f"{NAME} is [24, 1, 1] in "),
        (lambda h: h[NAME].update(shape=[1] * 70 + [24]), "the invalid shape"),
        (lambda h: h[NAME].update(data_offsets=[-96, 0]), "outside the file of"),
        (lambda h: h[NAME].update(data_offsets=[10**18, 10**18 + 96]), "outside the file of"),
        (lambda h: h[NAME].update(data_offsets=[0]), "outside the file of"),
        (lambda h: h[NAME].update(data_offsets=["0", "96"]), "outside the file of"),
        (lambda h: h[NAME].update(data_offsets=h["classifier.weight"]["data_offsets"]), "but has"),
        (lambda h: h.update(other=h[NAME]), "share bytes"),
        (lambda h: h.update({NAME: [1, 2]}), "lacks a dtype"),
        (lambda h: h.update({NAME: {}}), "lacks a dtype"),
        (lambda h: h.update({"a\nb": h.pop(NAME)}), "cannot be printed"),
        (lambda h: h.update({"\ud800": h.pop(NAME)}), "cannot be printed"),
    ],
)  # fmt: skip
def test_an_invalid_header(theirs, tmp_path, change, message):
    header, data = parts(theirs / "model.safetensors")
    change(header)
    write(theirs / "model.safetensors", header, data)
    assert message in refusal(theirs, tmp_path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b'{"a": ' + DIGITS.encode() + b"}", "is not JSON (Exceeds the limit"),
        (b'{"a": NaN}', "NaN is not a number in JSON"),
        (b'{"a": 1, "a": 1}', " twice"),
        (b'{"\xff": 1}', "is not UTF-8"),
        (b"[]", "is not a JSON object"),
        (b"", "is not JSON"),
        (b"{}", "unused bytes at its end"),
    ],
)
@pytest.mark.parametrize("place", ["weights", "config", "processor", "index"])
def test_invalid_json(theirs, tmp_path, header, message, place):
    _, data = parts(theirs / "model.safetensors")
    if place == "weights":
        write(theirs / "model.safetensors", header, data)
    else:
        name = {"config": "config.json", "processor": "preprocessor_config.json"}
        (theirs / name.get(place, "model.safetensors.index.json")).write_bytes(header)
        message = {
            ("config", b"{}"): "model_type=None", ("processor", b"{}"): "makes images of 224 px, but the model needs",
            ("index", b"{}"): 'has no "weight_map"',
        }.get((place, header), message)  # fmt: skip
    assert message in refusal(theirs, tmp_path)


@pytest.mark.parametrize("length", [0, 7, 8, 100])
def test_a_file_that_ends_too_early(theirs, tmp_path, length):
    file = theirs / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    assert "is truncated" in (error := refusal(file, tmp_path)) or "does not begin with the length of a header" in error


@pytest.mark.parametrize("length", [2**63, 2**40, 99_000_000])
def test_a_header_of_absurd_length(theirs, tmp_path, length):
    (theirs / "model.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}")
    assert "safetensors" in refusal(theirs, tmp_path)


@pytest.mark.parametrize(
    ("shard", "message"),
    [(5, "lists 5 for"), (None, "lists None for"), (["a"], "lists ['a'] for"), ("../model.safetensors", "lists '../"),
     ("/etc/hosts", "lists '/etc/hosts'"), ("other.safetensors", "there is no such file"), ("a\0.safetensors", "for")],
)  # fmt: skip
def test_an_index_that_names_no_shard(theirs, tmp_path, shard, message):
    header, _ = parts(theirs / "model.safetensors")
    names = dict.fromkeys(header.keys() - {"__metadata__"}, "model.safetensors") | {NAME: shard}
    (theirs / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert message in refusal(theirs, tmp_path)


BAD = ("abc", -1, 0, 1e99, 1.5, True, [], [1], {}, 10**9, 2**200)


SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size", "image_size", "intermediate_size")


@pytest.mark.parametrize("field", SIZES)
def test_invalid_sizes(theirs, tmp_path, field):
    file = theirs / "config.json"
    config = json.loads(file.read_text())
    for value in BAD:
        file.write_text(json.dumps(config | {field: value}))
        refusal(theirs, tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layer_norm_eps": "0"}, "layer_norm_eps='0', which is not supported; it must be a number from 0 to 1"),
        ({"layer_norm_eps": -1}, "layer_norm_eps=-1"),
        ({"qkv_bias": "no"}, "qkv_bias='no', which is not supported; it must be true or false"),
        ({"hidden_act": ["gelu"]}, "hidden_act=['gelu'], which is not supported"),
        ({"hidden_act": "mish"}, "hidden_act='mish', which is not supported"),
        ({"head_dim": 4}, "head_dim=4, which is not supported"),
        ({"problem_type": "multi_label_classification"}, "problem_type='multi_label_classification', which is not"),
        ({"model_type": ["vit"]}, "model_type=['vit'], which is not supported; choose from"),
        ({"model_type": "x" * 100_000}, "choose from"),
    ],
)
def test_fields_that_would_change_the_numbers(theirs, tmp_path, fields, message):
    file = theirs / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    assert message in refusal(theirs, tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": "8"}, "size='8', which is not supported"),
        ({"size": {"height": 8, "width": 16}}, "size={'height': 8, 'width': 16}, which is not supported"),
        (
            {"size": {"shortest_edge": 8, "longest_edge": 99}},
            "which is not supported; it must be a shortest_edge, or a square",
        ),
        ({"size": {"shortest_edge": 8}}, "not supported without do_center_crop"),
        ({"size": 10**9}, "size=1000000000, which is not supported"),
        ({"size": 16}, "makes images of 16 px, but the model needs image_size=8"),
        ({"do_resize": False}, "do_resize=False, which is not supported"),
        ({"do_resize": "no"}, "do_resize='no', which must be true or false"),
        ({"do_center_crop": True, "crop_size": 9}, "crop_size=9, which is not supported: it must be at most size=8"),
        ({"do_pad": True}, "do_pad=True, which is not supported"),
        ({"resample": 9}, "resample=9, which is not supported"),
        ({"resample": [2]}, "resample=[2], which is not supported"),
        ({"rescale_factor": 0}, "rescale_factor=0, which must be a number"),
        ({"rescale_factor": "1/255"}, "rescale_factor='1/255', which must be a number"),
        ({"image_mean": [0.5, 0.5]}, "image_mean=[0.5, 0.5], which must be a number for each of 3 channels"),
        ({"image_mean": [1e99] * 3}, "which must be a number for each of 3 channels"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std=[0.5, 0, 0.5], which must be above 0"),
        ({"image_processor_type": "FuyuImageProcessor"}, "image_processor_type='FuyuImageProcessor', which is not"),
        ({"image_processor_type": 5}, "image_processor_type=5, which is not supported"),
    ],
)
def test_unsupported_preprocessing(theirs, tmp_path, fields, message):
    file = theirs / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    for path in (theirs, theirs / "model.safetensors"):  # by its folder, and by its file
        assert message in refusal(path, tmp_path)


@pytest.mark.parametrize("name", ["n" * 5000, "a\0b", "~nobody-of-this-name/x", ""])
def test_an_invalid_path(tmp_path, name):
    refusal(name, tmp_path)


def test_a_workdir_that_cannot_be_made(theirs, tmp_path):
    (tmp_path / "file").write_text("")
    assert (
        "cannot be created" in run(["research.interop", "import", theirs, f"--workdir={tmp_path / 'file/run'}"]).error
    )


# ---- Archives of NumPy.


class Harm:
    """What would write a file if it were unpickled."""

    def __init__(self, file):
        self._file = str(file)

    def __reduce__(self):
        return open, (self._file, "w")


def archive(path, weights, change):
    """An .npz of the weights, each of whose members `change(name, bytes)` may replace."""
    np.savez(path.with_name("whole.npz"), **weights)
    with zipfile.ZipFile(path.with_name("whole.npz")) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name in whole.namelist():
            if (content := change(name.removesuffix(".npy"), whole.read(name))) is not None:
                out.writestr(name, content)
    return path


def array_file(shape, dtype="<f4", content=b""):
    header = str({"descr": dtype, "fortran_order": False, "shape": shape}).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "head/bias is [4] in "),
        (b"", "is not a NumPy array"),
        (array_file((24, 4))[:30], "is not a NumPy array"),
        (array_file("x"), "is not a NumPy array"),
        (array_file((24, 4)), "but has 0 bytes"),
        (array_file((-24, 4)), "the invalid shape"),
        (array_file((10**15, 4)), "the invalid shape"),
        (array_file((2**31 - 1, 2**31 - 1)), "but has 0 bytes"),
        (array_file((24, 4), "|O"), "pickled Python objects"),
        (array_file((24, 4), ">f4", bytes(384)), "head/kernel is >f4"),
        (array_file((24, 4), "<i4", bytes(384)), "head/kernel is int32"),
        (array_file((4, 24), content=bytes(384)), "head/"),
        (array_file((0, 4)), "is empty"),
        (array_file((24,) * 2 + (4,) * 70, content=bytes(4)), "the invalid shape"),
        (array_file((6_000_000, 4), content=bytes(96_000_000)), "more than 100 times as many"),  # a bomb
    ],
)  # fmt: skip
def test_an_invalid_archive(weights, tmp_path, content, message):
    def change(name, whole):
        return content if name == "head/kernel" else whole

    path = archive(tmp_path / "vit.npz", weights, change)
    assert message in refusal(path, tmp_path)


def test_a_pickle_is_not_run(weights, tmp_path):
    harm = pickle.dumps(Harm(tmp_path / "harmed"))
    path = archive(tmp_path / "vit.npz", weights, lambda name, whole: harm if name == "head/bias" else whole)
    assert "is not a NumPy array" in refusal(path, tmp_path)
    for name in ("pytorch_model.bin", "model.safetensors"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_bytes(harm)
        (folder / "config.json").write_text('{"model_type": "vit"}')
        refusal(folder, tmp_path)
        refusal(folder / name, tmp_path)
    assert not (tmp_path / "harmed").exists()


def test_an_absurd_number_of_layers(weights, tmp_path):
    name = "Transformer/encoderblock_9999/LayerNorm_0/scale"
    np.savez(tmp_path / "vit.npz", **weights, **{name: np.ones(24, np.float32)})
    assert "10000 layers, but there are" in refusal(tmp_path / "vit.npz", tmp_path)


# ---- Anything else.


def mutated(content, rng):
    """Some of these bytes changed, cut out or said twice."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 3))):
        begin = rng.randrange(len(content))
        if rng.random() < 0.5:  # the beginning says what the rest is
            begin = rng.randrange(min(600, len(content)))
        kind = rng.randrange(4)
        if kind == 0:
            content[begin] = rng.randrange(256)
        elif kind == 1:
            content[begin] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del content[begin : begin + rng.choice((1, 8, 200))]
        else:
            content[begin:begin] = content[begin : begin + rng.choice((1, 8))]
    return bytes(content)


@pytest.mark.long
def test_a_changed_file_is_taken_or_refused_in_one_line(vit, weights, tmp_path):
    np.savez(tmp_path / "vit.npz", **weights)
    rng, refused = random.Random(0), 0
    files = ["model.safetensors"] * 5 + ["config.json"] * 4 + ["preprocessor_config.json"] * 2 + ["vit.npz"] * 5
    for number in range(112):
        folder = shutil.copytree(vit, tmp_path / str(number))
        shutil.copy(tmp_path / "vit.npz", folder)
        file = folder / files[number % len(files)]
        file.write_bytes(mutated(file.read_bytes(), rng))
        path = file if file.suffix == ".npz" else folder
        done = run(["research.interop", "import", path, f"--workdir={folder / 'run'}"])
        assert done.code in (0, 2), (number, file.name, done.err)
        if done.code == 2:
            refused += 1
            assert done.error and not (folder / "run").exists()
        shutil.rmtree(folder)
    assert 50 < refused < 112


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["NaN", "infinite"])
def test_weights_that_are_not_finite(weights, tmp_path, value):
    broken = {name: np.array(array) for name, array in weights.items()}
    name = next(name for name in broken if name.endswith("kernel"))
    broken[name].flat[3] = value
    np.savez(tmp_path / "vit.npz", **broken)
    assert f"{name} holds NaN or infinite values as float32" in refusal(tmp_path / "vit.npz", tmp_path)
