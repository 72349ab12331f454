"""What a checkpoint was published with for its inputs, as settings of `config.data`: each field honoured or refused."""

import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.interop import strict_json

FILE, NESTED = "preprocessor_config.json", "processor_config.json"
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's numbers
_MOST_PIXELS = 8192  # of a side
_NEVER_CROPPED = 384  # px, from which on a ConvNextImageProcessor squeezes
_HALF, _CLIP = [0.5] * 3, ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
# What the classes of transformers take for a field that a file does not name.
_COMMON = {
    "do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": _HALF,
    "image_std": _HALF, "do_center_crop": False, "crop_size": 224, "do_pad": False,
}  # fmt: skip
_PROCESSORS = {
    "ViT": _COMMON | {"resample": 2, "size": 224},
    "DeiT": _COMMON | {"resample": 3, "size": 256, "do_center_crop": True},
    "ConvNext": _COMMON | {"resample": 3, "size": {"shortest_edge": 384}, "crop_pct": 224 / 256},
    "Bit": _COMMON | {
        "resample": 3, "size": {"shortest_edge": 224}, "do_center_crop": True, "image_mean": _CLIP[0],
        "image_std": _CLIP[1],
    },
}  # fmt: skip
_OF_FAMILY = {"vit": "ViT", "convnext": "ConvNext", "resnet": "ConvNext"}  # where a file names none
_EDGES = ("shortest_edge",), ("height", "width")


class _Fields:
    """The fields of a file, each read with a check. Raises ValueError, which names file and field."""

    def __init__(self, name: str, found: Mapping[str, Any], defaults: Mapping[str, Any]):
        given = {field: value for field, value in found.items() if value is not None}
        self._name, self._values = name, {**defaults, **given}

    def refuse(self, field: str, why: str) -> ValueError:
        """The error for a field."""
        return ValueError(f"{self._name} has {field}={reprlib.repr(self._values.get(field))}, {why}")

    def get(self, field: str) -> Any:
        """As it is; None where nothing says."""
        return self._values.get(field)

    def flag(self, field: str) -> bool:
        """True or false."""
        if not isinstance(value := self._values[field], bool):
            raise self.refuse(field, "which must be true or false")
        return value

    def whole(self, field: str, most: int) -> int:
        """A whole number from 1 to `most`."""
        if type(value := self._values[field]) is not int or not 1 <= value <= most:
            raise self.refuse(field, f"which must be a whole number from 1 to {most}")
        return value

    def positive(self, field: str) -> float:
        """A number above 0."""
        value = self._values[field]
        if type(value) not in (int, float) or not math.isfinite(value) or not 1e-6 <= value <= 1e6:
            raise self.refuse(field, "which must be a number from 1e-6 to 1e6")
        return float(value)

    def per_channel(self, field: str, channels: int) -> list[float]:
        """A number for each channel; one stands for all."""
        value = self._values[field]
        values = value if isinstance(value, list) else [value]
        if len(values) not in (1, channels) or not all(
            type(each) in (int, float) and math.isfinite(each) and abs(each) <= 1e6 for each in values
        ):
            raise self.refuse(field, f"which must be a number for each of {channels} channels")
        return [float(each) for each in values]

    def edges(self, field: str, square: bool) -> tuple[str, int]:
        """The one size that `field` says, and whether it is of the "shortest_edge" or of a "square"."""
        value = self._values[field]
        if type(value) is int:
            value = {"height": value, "width": value} if square else {"shortest_edge": value}
        if isinstance(value, list) and len(value) == 2:
            value = {"height": value[0], "width": value[1]}
        value = {key: size for key, size in value.items() if size is not None} if isinstance(value, dict) else {}
        sizes = list(value.values())
        are_whole = all(type(size) is int and 1 <= size <= _MOST_PIXELS for size in sizes)
        if tuple(sorted(value)) not in _EDGES or not are_whole or len(set(sizes)) != 1:
            raise self.refuse(
                field, f"which is not supported; the shortest_edge is, or a square, of 1 to {_MOST_PIXELS} px"
            )
        return ("shortest_edge" if "shortest_edge" in value else "square"), sizes[0]


def read(folder: Path, kind: str) -> tuple[str, dict[str, Any]]:
    """The name of the file in `folder` that says how inputs are made, and what it says; "" and nothing without one.

    `kind` is "image_processor" or "feature_extractor", as processors of several kinds of inputs call their parts.
    """
    if (folder / NESTED).is_file() and kind in (found := strict_json.read(folder / NESTED)):
        if not isinstance(found[kind], dict):
            raise ValueError(f"{folder / NESTED} has {kind}={reprlib.repr(found[kind])}, which must be an object")
        return str(folder / NESTED), found[kind]
    return (str(folder / FILE), strict_json.read(folder / FILE)) if (folder / FILE).is_file() else ("", {})


def of_images(
    folder: Path, family: str, channels: int, image_size: int | None, usual: int
) -> tuple[dict[str, Any], list[str]]:
    """Settings of `config.data` for images, and lines that say what is assumed where nothing says it.

    `image_size` is what a model needs, None: any, of which `usual` is assumed. What else is assumed: -1..1 and both
    sides squeezed for a ViT, for CNNs the mean and deviation of ImageNet and a crop of 7/8 below 384 px.
    """
    name, found = read(folder, "image_processor")
    if name:
        return _of_processor(name, found, family, channels, image_size), []
    is_cnn = family in ("resnet", "convnext")
    scale = _IMAGENET if is_cnn and channels == 3 else {"image_mean": [0.5], "image_std": [0.5]}
    # A file of big_vision never says more than its weights.
    data = _of_processor(FILE, {"size": usual, **scale}, family if is_cnn else "vit", channels, image_size)
    how = "squeezed" if data["stretch"] else f"cut out of {data['resize']} px"
    line = (
        f"assumed, since there is no {FILE} beside the weights: images of {data['image_size']} px, {how}, "
        f"mean {data['mean']}, std {data['std']}"
    )
    return data, [line]


# What timm takes for a field that a config does not name; the second of weights that TensorFlow has trained.
_TIMM = {
    "input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center",
    "mean": _IMAGENET["image_mean"], "std": _IMAGENET["image_std"],
}  # fmt: skip
_TIMM_TENSORFLOW = _TIMM | {"mean": [127 / 255] * 3, "std": [128 / 255] * 3}
_TIMM_RESAMPLING = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")


def of_timm(config: Mapping[str, Any], channels: int, tensorflow: bool) -> tuple[dict[str, Any], list[str]]:
    """Settings of `config.data` for images, and lines that say what is assumed, by a config.json of timm, or {}.

    What is assumed: 224 px cut out of 256, bicubic, with the mean and deviation of ImageNet or, of weights that
    TensorFlow has trained (`tensorflow`), 127 and 128.
    """
    found = config.get("pretrained_cfg", {})
    if not isinstance(found, dict):
        raise ValueError(f"config.json has pretrained_cfg={reprlib.repr(found)}, which must be an object")
    defaults = _TIMM_TENSORFLOW if tensorflow else _TIMM
    fields = _Fields("pretrained_cfg of config.json", found, defaults)
    if fields.get("interpolation") not in _TIMM_RESAMPLING:
        raise fields.refuse("interpolation", f"which is not supported; one of {', '.join(_TIMM_RESAMPLING)} is")
    if fields.get("crop_mode") != "center":
        raise fields.refuse("crop_mode", "which is not supported; only center is")
    sizes, share = fields.get("input_size"), fields.positive("crop_pct")
    is_whole = isinstance(sizes, list) and len(sizes) == 3 and all(type(side) is int for side in sizes)
    if not is_whole or sizes[1] != sizes[2] or not 1 <= sizes[1] <= _MOST_PIXELS:
        raise fields.refuse(
            "input_size", f"which is not supported; channels and a square of 1 to {_MOST_PIXELS} px are"
        )
    if not sizes[1] <= int(sizes[1] / share) <= _MOST_PIXELS:
        raise fields.refuse("crop_pct", "which is not supported: it must be at most 1, and not tiny")
    scaled = lambda field: tuple(float(f"{255 * value:.9g}") for value in fields.per_channel(field, channels))
    data = {
        "image_size": sizes[1], "resize": int(sizes[1] / share), "stretch": False,
        "interpolation": fields.get("interpolation"), "long_side": "floor", "mean": scaled("mean"),
        "std": scaled("std"),
    }  # fmt: skip
    if min(data["std"]) < 1e-6:
        raise fields.refuse("std", "which must be above 0")
    absent = ", ".join(name for name in defaults if name not in found)
    said = f"images of {data['image_size']} px, cut out of {data['resize']} px, mean {data['mean']}, std {data['std']}"
    return data, [f"assumed, since no config.json says {absent}: {said}"] if absent else []


def _of_processor(
    name: str, found: Mapping[str, Any], family: str, channels: int, image_size: int | None
) -> dict[str, Any]:
    kind = found.get("image_processor_type") or found.get("feature_extractor_type") or _OF_FAMILY[family]
    stem = str(kind)
    for ending in ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor"):
        stem = stem.removesuffix(ending)
    if stem not in _PROCESSORS:
        raise ValueError(
            f"{name} has image_processor_type={reprlib.repr(kind)}, which is not supported; known: "
            + ", ".join(f"{known}ImageProcessor" for known in _PROCESSORS)
        )
    fields = _Fields(name, found, _PROCESSORS[stem])
    if not fields.flag("do_resize"):
        raise fields.refuse("do_resize", "which is not supported: images are always resized here")
    if fields.flag("do_pad"):
        raise fields.refuse("do_pad", "which is not supported: images are never padded here")
    resample = fields.get("resample")
    if type(resample) is not int or resample not in _RESAMPLING:
        raise fields.refuse("resample", f"which is not supported; one of {_RESAMPLING} is")
    data = _geometry(fields, is_convnext=stem == "ConvNext", square=stem in ("ViT", "DeiT"))
    if image_size and data["image_size"] != image_size:
        raise ValueError(
            f"{name} makes images of {data['image_size']} px, but the model needs image_size={image_size}; "
            "they must agree"
        )
    return data | {
        "interpolation": _RESAMPLING[resample],
        "long_side": "floor",
        **_normalisation(fields, channels),
    }


def _geometry(fields: _Fields, is_convnext: bool, square: bool) -> dict[str, Any]:
    edge, size = fields.edges("size", square)
    stretch, resize = edge == "square", size
    if is_convnext:
        share = fields.positive("crop_pct")
        if edge != "shortest_edge":
            raise fields.refuse("size", "which is not supported; a ConvNextImageProcessor needs the shortest_edge")
        stretch = size >= _NEVER_CROPPED
        resize = size if stretch else int(size / share)
        if not size <= resize <= _MOST_PIXELS:
            raise fields.refuse("crop_pct", "which is not supported: it must be at most 1, and not tiny")
    if fields.flag("do_center_crop"):
        _, cropped = fields.edges("crop_size", square=True)
        if cropped > size:
            raise fields.refuse("crop_size", f"which is not supported: it must be at most size={size}")
        if is_convnext and cropped != size:
            raise fields.refuse("crop_size", f"which is not supported: it must be size={size}")
        size = cropped
    elif edge == "shortest_edge" and not is_convnext:
        raise fields.refuse("size", "which is not supported without do_center_crop: images would not be squares")
    return {"image_size": size, "resize": resize, "stretch": stretch}


def _normalisation(fields: _Fields, channels: int) -> dict[str, Any]:
    """Mean and deviation in units of 0..255, so that (x - mean) / std is what rescaling and normalising give."""
    factor = fields.positive("rescale_factor") if fields.flag("do_rescale") else 1.0
    mean, std = [0.0], [1.0]
    if fields.flag("do_normalize"):
        mean, std = fields.per_channel("image_mean", channels), fields.per_channel("image_std", channels)
        if min(std) < 1e-6:
            raise fields.refuse("image_std", "which must be above 0")
    scaled = lambda values: tuple(float(f"{value / factor:.9g}") for value in values)
    return {"mean": scaled(mean), "std": scaled(std)}


_SOUNDS = {
    "feature_size": 80, "sampling_rate": 16_000, "hop_length": 160, "n_fft": 400, "chunk_length": 30,
    "padding_value": 0.0, "dither": 0.0, "do_normalize": False, "padding_side": "right",
}  # fmt: skip


def of_sounds(folder: Path, mels: int, frames: int) -> dict[str, Any]:
    """Settings of `config.data` for the spectrograms of a Whisper with so many `mels` that hears so many `frames`.

    Without a file they are those that all published models have.
    """
    name, found = read(folder, "feature_extractor")
    fields = _Fields(name, found, _SOUNDS if name else _SOUNDS | {"feature_size": mels})
    kind = fields.get("feature_extractor_type")
    if kind not in (None, "WhisperFeatureExtractor"):
        raise fields.refuse("feature_extractor_type", "which is not supported; only WhisperFeatureExtractor is")
    for field in ("padding_value", "dither", "do_normalize", "padding_side"):
        if fields.get(field) != _SOUNDS[field]:
            raise fields.refuse(field, f"which is not supported; only {_SOUNDS[field]!r} is")
    if fields.whole("feature_size", 10_000) != mels:
        raise fields.refuse("feature_size", f"but the weights need {mels} mel bands")
    rate, hop = fields.whole("sampling_rate", 192_000), fields.whole("hop_length", 100_000)
    if rate < 16_000:
        raise fields.refuse("sampling_rate", "which is not supported: the bands reach up to 8,000 Hz")
    window = fields.whole("n_fft", 100_000)
    found = fields.whole("chunk_length", 3600) * rate // hop
    if name and found != frames:
        raise fields.refuse(
            "chunk_length", f"which at hop_length={hop} gives {found} frames, but the weights need {frames}"
        )
    return {
        "sample_rate": rate, "window_ms": 1000 * window / rate, "hop_ms": 1000 * hop / rate, "mels": mels,
        "highest_hz": 8000.0 if rate != 16_000 else 0.0, "max_seconds": frames * hop / rate,
    }  # fmt: skip
