"""The preprocessing published with a checkpoint, as settings of `config.data`; unsupported fields are errors."""

import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.interop import strict_json

FILE, NESTED = "preprocessor_config.json", "processor_config.json"
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's numbers
_MOST_PIXELS = 8192  # per side
_NEVER_CROPPED = 384  # px, from which on a ConvNextImageProcessor resizes without a crop
_HALF, _CLIP = [0.5] * 3, ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
# Defaults of the image processors of transformers for fields that a file lacks.
_COMMON = {
    "do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": _HALF,
    "image_std": _HALF, "do_center_crop": False, "crop_size": 224, "do_pad": False,
}  # fmt: skip
_PROCESSORS = {
    "ViT": _COMMON | {"resample": 2, "size": 224},
    "DeiT": _COMMON | {"resample": 3, "size": 256, "do_center_crop": True},
    "ConvNext": _COMMON | {"resample": 3, "size": {"shortest_edge": 384}, "crop_pct": 224 / 256},
    "Siglip": _COMMON | {"resample": 3, "size": 224},
    **dict.fromkeys(("Bit", "CLIP"), _COMMON | {
        "resample": 3, "size": {"shortest_edge": 224}, "do_center_crop": True, "image_mean": _CLIP[0],
        "image_std": _CLIP[1],
    }),
}  # fmt: skip
_OF_FAMILY = {  # if the file has no type
    "vit": "ViT", "convnext": "ConvNext", "resnet": "ConvNext", "clip": "CLIP", "clip_vision_model": "CLIP",
    "siglip": "Siglip", "siglip_vision_model": "Siglip", "dinov2": "Bit", "dinov2_with_registers": "Bit",
}  # fmt: skip
_INTERPOLATED = ("dinov2", "dinov2_with_registers")  # with positions of another size than the images of the file
_EDGES = ("shortest_edge",), ("height", "width")


class _Fields:
    """The fields of a file, checked when they are read. Raises ValueError, which names file and field."""

    def __init__(self, name: str, found: Mapping[str, Any], defaults: Mapping[str, Any]):
        given = {field: value for field, value in found.items() if value is not None}
        self._name, self._values = name, {**defaults, **given}

    def error(self, field: str, why: str) -> ValueError:
        """The ValueError for a field."""
        return ValueError(f"{self._name} has {field}={reprlib.repr(self._values.get(field))}, {why}")

    def get(self, field: str) -> Any:
        """The unchecked value; None if there is neither a value nor a default."""
        return self._values.get(field)

    def flag(self, field: str) -> bool:
        """A boolean."""
        if not isinstance(value := self._values[field], bool):
            raise self.error(field, "which must be true or false")
        return value

    def whole(self, field: str, most: int) -> int:
        """An integer from 1 to `most`."""
        if type(value := self._values[field]) is not int or not 1 <= value <= most:
            raise self.error(field, f"which must be an integer from 1 to {most}")
        return value

    def positive(self, field: str) -> float:
        """A number from 1e-6 to 1e6."""
        value = self._values[field]
        if type(value) not in (int, float) or not math.isfinite(value) or not 1e-6 <= value <= 1e6:
            raise self.error(field, "which must be a number from 1e-6 to 1e6")
        return float(value)

    def per_channel(self, field: str, channels: int) -> list[float]:
        """A number per channel; a single one is repeated."""
        value = self._values[field]
        values = value if isinstance(value, list) else [value]
        if len(values) not in (1, channels) or not all(
            type(each) in (int, float) and math.isfinite(each) and abs(each) <= 1e6 for each in values
        ):
            raise self.error(field, f"which must be a number for each of {channels} channels")
        return [float(each) for each in values]

    def edges(self, field: str, square: bool) -> tuple[str, int]:
        """The kind of size in `field`, "shortest_edge" or "square", and the size in px."""
        value = self._values[field]
        if type(value) is int:
            value = {"height": value, "width": value} if square else {"shortest_edge": value}
        if isinstance(value, list) and len(value) == 2:
            value = {"height": value[0], "width": value[1]}
        value = {key: size for key, size in value.items() if size is not None} if isinstance(value, dict) else {}
        sizes = list(value.values())
        are_whole = all(type(size) is int and 1 <= size <= _MOST_PIXELS for size in sizes)
        if tuple(sorted(value)) not in _EDGES or not are_whole or len(set(sizes)) != 1:
            raise self.error(
                field, f"which is not supported; it must be a shortest_edge, or a square, of 1 to {_MOST_PIXELS} px"
            )
        return ("shortest_edge" if "shortest_edge" in value else "square"), sizes[0]


def read(folder: Path, kind: str) -> tuple[str, dict[str, Any]]:
    """The name and the content of the preprocessing file in `folder`; "" and {} if there is none.

    `kind` is "image_processor" or "feature_extractor", the part of a multimodal processor to read.
    """
    if (folder / NESTED).is_file() and kind in (found := strict_json.read(folder / NESTED)):
        if not isinstance(found[kind], dict):
            raise ValueError(f"{folder / NESTED} has {kind}={reprlib.repr(found[kind])}, which must be an object")
        return str(folder / NESTED), found[kind]
    return (str(folder / FILE), strict_json.read(folder / FILE)) if (folder / FILE).is_file() else ("", {})


def of_images(
    folder: Path, family: str, channels: int, image_size: int | None, usual: int
) -> tuple[dict[str, Any], list[str]]:
    """Settings of `config.data` for images, and lines for the user about assumed settings.

    `image_size` is the size that the model needs; None: any, then `usual` is assumed. Without a file, a range of -1..1
    and resizing of both sides is assumed for a ViT; for CNNs, mean and standard deviation of ImageNet, and a crop of
    7/8 below 384 px.
    """
    name, found = read(folder, "image_processor")
    if name and family in _INTERPOLATED and image_size:
        data = _of_processor(name, found, family, channels, None)
        made, data["resize"] = data["image_size"], round(data["resize"] * image_size / data["image_size"])
        data["image_size"] = image_size
        line = (
            f"{name} makes images of {made} px, for which transformers interpolates the positions; here images are of "
            f"{image_size} px. To train at {made} px, set config.train.init_from to this folder instead of importing it"
        )
        return data, [line] if made != image_size else []
    if name:
        return _of_processor(name, found, family, channels, image_size), []
    is_cnn = family in ("resnet", "convnext")
    scale = _IMAGENET if is_cnn and channels == 3 else {"image_mean": [0.5], "image_std": [0.5]}
    # big_vision has no such file.
    data = _of_processor(FILE, {"size": usual, **scale}, family if is_cnn else "vit", channels, image_size)
    how = "without a crop" if data["stretch"] else f"cropped from {data['resize']} px"
    line = (
        f"assumed, since there is no {FILE} beside the weights: images of {data['image_size']} px, {how}, "
        f"mean {data['mean']}, std {data['std']}"
    )
    return data, [line]


# timm's defaults for fields that a config lacks; the second for weights that were trained with TensorFlow.
_TIMM = {
    "input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center",
    "mean": _IMAGENET["image_mean"], "std": _IMAGENET["image_std"],
}  # fmt: skip
_TIMM_TENSORFLOW = _TIMM | {"mean": [127 / 255] * 3, "std": [128 / 255] * 3}
_TIMM_RESAMPLING = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")


def of_timm(config: Mapping[str, Any], channels: int, tensorflow: bool) -> tuple[dict[str, Any], list[str]]:
    """Settings of `config.data` for images from a config.json of timm, or {}, and lines about assumed settings.

    The defaults are 224 px cropped from 256, bicubic, with mean and standard deviation of ImageNet or, for weights that
    were trained with TensorFlow (`tensorflow`), 127 and 128.
    """
    found = config.get("pretrained_cfg", {})
    if not isinstance(found, dict):
        raise ValueError(f"config.json has pretrained_cfg={reprlib.repr(found)}, which must be an object")
    defaults = _TIMM_TENSORFLOW if tensorflow else _TIMM
    fields = _Fields("pretrained_cfg of config.json", found, defaults)
    if fields.get("interpolation") not in _TIMM_RESAMPLING:
        raise fields.error("interpolation", f"which is not supported; choose from {', '.join(_TIMM_RESAMPLING)}")
    if fields.get("crop_mode") != "center":
        raise fields.error("crop_mode", "which is not supported; it must be center")
    sizes, share = fields.get("input_size"), fields.positive("crop_pct")
    is_whole = isinstance(sizes, list) and len(sizes) == 3 and all(type(side) is int for side in sizes)
    if not is_whole or sizes[1] != sizes[2] or not 1 <= sizes[1] <= _MOST_PIXELS:
        raise fields.error(
            "input_size", f"which is not supported; it must be channels and a square of 1 to {_MOST_PIXELS} px"
        )
    if not sizes[1] <= int(sizes[1] / share) <= _MOST_PIXELS:
        raise fields.error("crop_pct", "which is not supported: it must be at most 1, and not tiny")
    scaled = lambda field: tuple(float(f"{255 * value:.9g}") for value in fields.per_channel(field, channels))
    data = {
        "image_size": sizes[1], "resize": int(sizes[1] / share), "stretch": False,
        "interpolation": fields.get("interpolation"), "long_side": "floor", "mean": scaled("mean"),
        "std": scaled("std"),
    }  # fmt: skip
    if min(data["std"]) < 1e-6:
        raise fields.error("std", "which must be above 0")
    absent = ", ".join(name for name in defaults if name not in found)
    assumed = (
        f"images of {data['image_size']} px, cropped from {data['resize']} px, mean {data['mean']}, std {data['std']}"
    )
    return data, [f"assumed, since config.json lacks {absent}: {assumed}"] if absent else []


def _of_processor(
    name: str, found: Mapping[str, Any], family: str, channels: int, image_size: int | None
) -> dict[str, Any]:
    kind = found.get("image_processor_type") or found.get("feature_extractor_type") or _OF_FAMILY[family]
    stem = str(kind)
    for ending in ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor"):
        stem = stem.removesuffix(ending)
    if stem not in _PROCESSORS:
        raise ValueError(
            f"{name} has image_processor_type={reprlib.repr(kind)}, which is not supported; choose from "
            + ", ".join(f"{known}ImageProcessor" for known in _PROCESSORS)
        )
    fields = _Fields(name, found, _PROCESSORS[stem])
    if not fields.flag("do_resize"):
        raise fields.error("do_resize", "which is not supported: images are always resized here")
    if fields.flag("do_pad"):
        raise fields.error("do_pad", "which is not supported: images are never padded here")
    resample = fields.get("resample")
    if type(resample) is not int or resample not in _RESAMPLING:
        raise fields.error("resample", f"which is not supported; it must be one of {_RESAMPLING}")
    data = _geometry(fields, is_convnext=stem == "ConvNext", square=stem in ("ViT", "DeiT", "Siglip"))
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
            raise fields.error("size", "which is not supported; a ConvNextImageProcessor needs the shortest_edge")
        stretch = size >= _NEVER_CROPPED
        resize = size if stretch else int(size / share)
        if not size <= resize <= _MOST_PIXELS:
            raise fields.error("crop_pct", "which is not supported: it must be at most 1, and not tiny")
    if fields.flag("do_center_crop"):
        _, cropped = fields.edges("crop_size", square=True)
        if cropped > size:
            raise fields.error("crop_size", f"which is not supported: it must be at most size={size}")
        if is_convnext and cropped != size:
            raise fields.error("crop_size", f"which is not supported: it must be size={size}")
        size = cropped
    elif edge == "shortest_edge" and not is_convnext:
        raise fields.error("size", "which is not supported without do_center_crop: images would not be squares")
    return {"image_size": size, "resize": resize, "stretch": stretch}


def _normalisation(fields: _Fields, channels: int) -> dict[str, Any]:
    """Mean and standard deviation in units of 0..255, which combine rescaling and normalisation."""
    factor = fields.positive("rescale_factor") if fields.flag("do_rescale") else 1.0
    mean, std = [0.0], [1.0]
    if fields.flag("do_normalize"):
        mean, std = fields.per_channel("image_mean", channels), fields.per_channel("image_std", channels)
        if min(std) < 1e-6:
            raise fields.error("image_std", "which must be above 0")
    scaled = lambda values: tuple(float(f"{value / factor:.9g}") for value in values)
    return {"mean": scaled(mean), "std": scaled(std)}


_SOUNDS = {
    "feature_size": 80, "sampling_rate": 16_000, "hop_length": 160, "n_fft": 400, "chunk_length": 30,
    "padding_value": 0.0, "dither": 0.0, "do_normalize": False, "padding_side": "right",
}  # fmt: skip


def of_sounds(folder: Path, mels: int, frames: int) -> dict[str, Any]:
    """Settings of `config.data` for the spectrograms of a Whisper with `mels` bands and `frames` frames.

    Without a file, those of all published models.
    """
    name, found = read(folder, "feature_extractor")
    fields = _Fields(name, found, _SOUNDS if name else _SOUNDS | {"feature_size": mels})
    kind = fields.get("feature_extractor_type")
    if kind not in (None, "WhisperFeatureExtractor"):
        raise fields.error("feature_extractor_type", "which is not supported; it must be WhisperFeatureExtractor")
    for field in ("padding_value", "dither", "do_normalize", "padding_side"):
        if fields.get(field) != _SOUNDS[field]:
            raise fields.error(field, f"which is not supported; it must be {_SOUNDS[field]!r}")
    if fields.whole("feature_size", 10_000) != mels:
        raise fields.error("feature_size", f"but the weights need {mels} mel bands")
    rate, hop = fields.whole("sampling_rate", 192_000), fields.whole("hop_length", 100_000)
    if rate < 16_000:
        raise fields.error("sampling_rate", "which is not supported: the bands reach up to 8,000 Hz")
    window = fields.whole("n_fft", 100_000)
    found = fields.whole("chunk_length", 3600) * rate // hop
    if name and found != frames:
        raise fields.error(
            "chunk_length", f"which at hop_length={hop} gives {found} frames, but the weights need {frames}"
        )
    return {
        "sample_rate": rate, "window_ms": 1000 * window / rate, "hop_ms": 1000 * hop / rate, "mels": mels,
        "highest_hz": 8000.0 if rate != 16_000 else 0.0, "max_seconds": frames * hop / rate,
    }  # fmt: skip
