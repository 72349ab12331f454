"""Opens the checkpoint at a path: of transformers, timm, EfficientNet-PyTorch or big_vision, or a run directory."""

import dataclasses
import re
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn

from research import config as config_lib
from research import files
from research.data.text import tokenizer
from research.data.text.vocabulary import Vocabulary
from research.interop import models, npz, peft, pytorch, runs, safetensors, strict_json
from research.interop.families import bert, big_vision, clip, convnext, dinov2, efficientnet, resnet, t5, vit, whisper
from research.interop.family import Family
from research.interop.layouts import Row, TensorSource
from research.interop.safetensors import TensorSpec
from research.models.bert import Bert
from research.spec import FieldError

FAMILIES: dict[str, Family[Any]] = {  # by name
    family.name: family
    for family in (
        vit.FAMILY, resnet.FAMILY, convnext.FAMILY, t5.FAMILY, t5.MT5, whisper.FAMILY, bert.BERT, bert.ROBERTA,
        bert.DISTILBERT, efficientnet.FAMILY, clip.CLIP, clip.CLIP_VISION, clip.SIGLIP, clip.SIGLIP_VISION,
        dinov2.FAMILY, dinov2.WITH_REGISTERS, big_vision.FAMILY,
    )
}  # fmt: skip
_INDEX = ".safetensors.index.json"
VOCABULARY, TOKENIZER = tokenizer.SENTENCEPIECE, tokenizer.TOKENIZER  # vocabulary files of T5, and of other families
_CODE = (".bin", ".pt", ".ckpt", ".pkl", ".pickle", ".joblib", ".h5", ".keras", ".msgpack", ".npy")
_FIX = (
    "only .safetensors, .npz, and .pth that contain only tensors, are read; with torch and transformers installed, "
    "from_pretrained(...).save_pretrained(FOLDER) writes safetensors"
)


class Renamed:
    """The tensors of a file under the names of its family's table."""

    def __init__(self, tensors: TensorSource, names: Mapping[str, str]):
        self._tensors, self._names = tensors, names
        self.specs = {name: tensors.specs[there] for name, there in names.items()}

    def read(self, name: str) -> np.ndarray:
        """The tensor."""
        return self._tensors.read(self._names[name])

    def there(self, name: str) -> str:
        """The name in the file."""
        return self._names.get(name, name)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: its tensors, and the model that they belong to."""

    path: str
    kind: str  # the name of a family, or "run"
    model: type[nn.Module]
    fields: Mapping[str, Any]  # fields of our model
    config: Mapping[str, Any]  # content of its config.json; {} for a run
    tensors: Renamed
    table: Callable[[nn.Module, list[str]], list[Row]]  # from a model and the paths of its parameters to rows
    unused: str  # a regex of the names of tensors that are ignored
    vocabulary: str = ""  # the digest of the vocabulary that it was trained with, if known
    backbone: type[nn.Module] | None = None  # if the model wraps one; `fields` then include those of the backbone

    @property
    def experiment(self) -> str:
        """The name of the experiment for a family's checkpoint."""
        family = FAMILIES[self.kind]
        return family.of_tokens if self.fields.get("of_tokens") else family.experiment

    def make_model(self, **settings: Any) -> nn.Module:
        """The model of a family's checkpoint; `settings` override its fields. The default dtype is float32."""
        try:
            return models.of_fields(self.model).of(**{**self.fields, **settings})
        except FieldError as error:
            raise ValueError(f"config.{error.below('model')}") from None


def open_checkpoint(path: str, experiments: config_lib.Experiments) -> Checkpoint:
    """Opens the checkpoint at `path`; little more than headers is read.

    Args:
        path: A folder, a file, `package:NAME`, or a run directory.
        experiments: From the name of an experiment to the class of its configs, for runs.

    Raises:
        ValueError: The checkpoint is absent, damaged, of an unknown family, or could run code when read.
    """
    where = _existing(path)
    if where.is_dir() and runs.is_run(where):
        return _of_run(path, runs.open_run(where, experiments))
    if where.suffix == ".npz" and where.is_file():
        return _of_family(path, big_vision.FAMILY, {}, npz.Npz(where))
    if peft.is_adapter(where):
        base = peft.base_of(where)
        try:
            family, config, tensors = _of_others(_existing(base))
        except ValueError as error:
            raise ValueError(f"the base model of {path}: {error}") from None
        renamed = Renamed(tensors, family.names(tensors.specs))
        return _of_family(base, family, config, peft.AdaptedTensors(renamed, where, family))
    return _of_family(path, *_of_others(where))


def _of_others(where: Path) -> tuple[Family[Any], dict[str, Any], TensorSource]:
    """The family, config and tensors of a folder or file of transformers, timm or EfficientNet-PyTorch."""
    file = _weights(where) if where.is_dir() else where
    if file.suffix == pytorch.SUFFIX and file.is_file():
        return _of_pth(file)
    if not file.name.endswith((".safetensors", _INDEX)):
        raise ValueError(f"{file} is not read: such a file could run code, or is not supported; {_FIX}")
    if not file.is_file():
        raise ValueError(f"{file} is not a file; give a folder with config.json, a .safetensors or a .npz file")
    config = _read_config(file.parent / "config.json")
    kind = _kind(file.parent / "config.json", config)
    tensors = safetensors.Sharded(file) if file.name.endswith(_INDEX) else safetensors.Safetensors(file)
    return FAMILIES[kind], config, tensors


def _kind(path: Path, config: Mapping[str, Any]) -> str:
    """The family of a config of transformers, which has a model_type, or of timm, which has an architecture."""
    field = "architecture" if "architecture" in config and "model_type" not in config else "model_type"
    if field == "architecture" and efficientnet.ARCHITECTURE.fullmatch(str(config[field])):
        return efficientnet.FAMILY.name
    known = [name for name in FAMILIES if name != big_vision.FAMILY.name]
    if (kind := config.get(field)) not in known or field == "architecture":
        raise ValueError(
            f"{path} has {field}={reprlib.repr(kind)}, which is not supported; choose from {', '.join(known)}"
        )
    return kind


def _of_pth(file: Path) -> tuple[Family[Any], dict[str, Any], TensorSource]:
    """As `_of_others`, for a .pth file: the family in the config.json beside it, or else EfficientNet-PyTorch."""
    config = file.parent / "config.json"
    found = strict_json.read(config) if config.is_file() else {}
    family = FAMILIES[_kind(config, found)] if found else efficientnet.FAMILY
    tensors = pytorch.Pth(file)
    if not found and efficientnet.OF_PYTORCH not in tensors.specs:
        raise ValueError(
            f"{file} has no config.json beside it, and lacks {efficientnet.OF_PYTORCH} of EfficientNet-PyTorch, the "
            "only family without one; put the config.json beside it"
        )
    return family, found, tensors


def folder_of(checkpoint: Checkpoint) -> Path:
    """The folder of a checkpoint, which may be given by its folder or its file."""
    return _folder(checkpoint.path)


def _folder(path: str) -> Path:
    where = files.located(path)
    return where if where.is_dir() else where.parent


def _existing(path: str) -> Path:
    if path.startswith((files.PACKAGE, files.HUB)):
        return files.located(path)
    try:
        where = Path(path).expanduser()
        if where.exists():
            return where
    except (OSError, RuntimeError, ValueError):  # a name that is too long, no home, a zero byte
        pass
    raise ValueError(
        f"there is no checkpoint {reprlib.repr(path)}; give a folder with config.json, a .safetensors or a .npz file"
    )


def _of_family(path: str, family: Family[Any], config: Mapping[str, Any], tensors: TensorSource) -> Checkpoint:
    renamed = Renamed(tensors, family.names(tensors.specs))
    try:
        fields = family.fields(config, renamed.specs)
        check_sizes(fields, renamed.specs)
        fields |= family.settle(fields, renamed)
        fields |= family.beside(_folder(path), fields)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    table = lambda model, paths: family.table(model)
    checkpoint = Checkpoint(path, family.name, family.model, fields, config, renamed, table, family.unused)
    named = TOKENIZER if issubclass(family.model, Bert) else VOCABULARY
    return dataclasses.replace(checkpoint, vocabulary=_digest(folder_of(checkpoint) / named))


# Fields of our models that are the size of an axis of some parameter, and those that count layers.
_AXES = ("width", "widths", "mlp_dim", "num_heads", "kv_dim", "patch_size", "relative_buckets")
_COUNTS = ("depth", "encoder_depth", "decoder_depth", "stage_sizes")


def check_sizes(fields: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> None:
    """Raises ValueError for a model much larger than its tensors, before anything of that size is allocated."""
    longest = max((side for spec in specs.values() for side in spec.shape), default=0)
    values = {name: np.atleast_1d(fields[name]) for name in (*_AXES, *_COUNTS) if name in fields}
    sizes = {name: int(values[name].max()) for name in _AXES if name in values}
    if "kv_dim" in sizes:
        sizes["num_heads * kv_dim"] = sizes["num_heads"] * sizes["kv_dim"]
    for name, size in sizes.items():
        if size > longest:
            raise ValueError(
                f"the model would have {name}={size}, but no tensor is longer than {longest} along an axis"
            )
    layers = sum(int(values[name].sum()) for name in _COUNTS if name in values)
    if layers > len(specs):
        raise ValueError(f"the model would have {layers} layers, but there are {len(specs)} tensors")


def _of_run(path: str, run: runs.SavedRun) -> Checkpoint:
    tensors = Renamed(run.tensors, {name: name for name in run.tensors.specs})
    table = lambda model, paths: [Row(p, p) for p in paths]
    # The fingerprint of texts ends with the vocabulary's, see text/tokens.py; an imported run has none.
    vocabulary = run.tensors.trained_on.partition("vocabulary ")[2]
    if not vocabulary and (named := getattr(run.config.data, "vocabulary", "")):
        vocabulary = _digest(_vocabulary_file(named))
    backbone = type(run.model.backbone) if hasattr(run.model, "backbone") else None
    fields = models.fields(run.model)
    return Checkpoint(path, "run", type(run.model), fields, {}, tensors, table, "(?!)", vocabulary, backbone)


def _digest(vocabulary: Path) -> str:
    """The digest of a vocabulary file, as `Vocabulary.digest`; "" if the file does not exist."""
    return Vocabulary(lambda: vocabulary, 0).digest if vocabulary.is_file() else ""


def _vocabulary_file(named: str) -> Path:
    """The file that `config.data.vocabulary` names, which may have been deleted."""
    try:
        return tokenizer.located(named)
    except ValueError:
        return Path(named)


def _weights(folder: Path) -> Path:
    """The file in `folder` with the weights, or with the index of their shards."""
    for pattern in (f"*{_INDEX}", "*.safetensors", f"*{pytorch.SUFFIX}"):
        found = sorted(file for file in folder.glob(pattern) if file.is_file())
        best = [file for file in found if file.name.startswith("model.safetensors")] or found
        if len(best) == 1:
            return best[0]
        if best:
            names = ", ".join(file.name for file in best)
            raise ValueError(f"{folder} holds several checkpoints: {names}; give one of these files")
    others = sorted(file.name for file in folder.iterdir() if file.suffix in _CODE)
    if others:
        raise ValueError(f"{folder} holds no .safetensors file; {', '.join(others)} could run code when read; {_FIX}")
    raise ValueError(f"{folder} holds no .safetensors file and is not a run directory; {_FIX}")


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is missing; put the config.json beside the .safetensors file it was published with")
    return strict_json.read(path)


def channels(checkpoint: Checkpoint) -> int:
    """The number of input channels of a model for images, or of mel bands for speech."""
    for name in ("patches/kernel", "conv1/kernel", "stem/kernel", "front_end/conv1/kernel"):
        rows = [row for row in checkpoint.table(checkpoint.make_model(), [name]) if row.ours == name]
        for row in rows:
            spec = checkpoint.tensors.specs.get(row.theirs)
            if spec is None or len(spec.shape) not in (3, 4):
                raise ValueError(
                    f"{checkpoint.path}: {row.theirs}, needed for {name}, is missing or not a convolution kernel"
                )
            return row.layout.to_ours(np.broadcast_to(np.float32(0), spec.shape), spec.shape).shape[-2]
    return 3


def is_unused(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a tensor is in the family's list of unused ones."""
    return bool(re.fullmatch(checkpoint.unused, name))
