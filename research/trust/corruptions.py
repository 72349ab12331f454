"""Corrupted images at five severities, as in ImageNet-C and CIFAR-10-C.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", 2019: the
strengths are those of their code (github.com/hendrycks/robustness), SMALL for images whose shorter side is below 64 px,
else LARGE. Twelve of their kinds; snow, frost, glass and elastic distortion are left out, which need other libraries or
photos. Fog is noise with a spectrum of 1 / frequency, where they have a plasma fractal, and brightness adds to all
channels.
"""

import io
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

SEVERITIES = (1, 2, 3, 4, 5)
_EDGE = 64
Images = UInt8[np.ndarray, "images height width channels"]
_Kind = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]  # [height, width, channels] in 0..1


def generator(index: int, kind: str, severity: int) -> np.random.Generator:
    """The random numbers with which a sound or text is corrupted: the same in every batch."""
    return np.random.default_rng([index, zlib.crc32(kind.encode()), severity])


def strength(kinds: Mapping[str, Sequence[float]], kind: str, severity: int) -> float:
    """The strength of a kind at a severity. Raises ValueError for an unknown one."""
    if kind not in kinds or severity not in SEVERITIES:
        raise ValueError(f"unknown corruption {kind!r} of severity {severity}; choose from {', '.join(kinds)}, 1 to 5")
    return kinds[kind][severity - 1]


def corrupt(images: Images, kind: str, severity: int, seeds: np.ndarray) -> Images:
    """The images, corrupted; each by the random numbers of its own of `seeds` [images].

    Raises ValueError for an unknown kind or severity.
    """
    if kind not in KINDS or severity not in SEVERITIES:
        raise ValueError(f"unknown corruption {kind!r} of severity {severity}; choose from {', '.join(KINDS)}, 1 to 5")
    function, large, small = KINDS[kind]
    strength = (small if min(images.shape[1:3]) < _EDGE else large)[severity - 1]
    code = sorted(KINDS).index(kind)
    made = np.empty_like(images)
    for row, seed in enumerate(seeds):
        rng = np.random.default_rng([int(seed), code, severity])
        changed = function(images[row].astype(np.float64) / 255, strength, rng)
        made[row] = np.clip(np.rint(changed * 255), 0, 255).astype(np.uint8)
    return made


def _gaussian_noise(image, strength, rng):
    return image + rng.normal(0, strength, image.shape)


def _shot_noise(image, strength, rng):
    return rng.poisson(image * strength) / strength


def _impulse_noise(image, strength, rng):
    drawn = rng.random(image.shape)
    return np.where(drawn < strength / 2, 0.0, np.where(drawn < strength, 1.0, image))


def _speckle_noise(image, strength, rng):
    return image * (1 + rng.normal(0, strength, image.shape))


def _gaussian_blur(image, strength, rng):
    from scipy import ndimage

    return ndimage.gaussian_filter(image, (strength, strength, 0))


def _defocus_blur(image, strength, rng):
    """A disk of radius `strength` px, whose edge is averaged over 8 x 8 points a pixel."""
    radius = int(np.ceil(strength))
    points = (np.arange(-8 * radius - 4, 8 * radius + 4) + 0.5) / 8
    inside = np.hypot(*np.meshgrid(points, points)) <= strength
    size = 2 * radius + 1
    return _filtered(image, inside.reshape(size, 8, size, 8).mean((1, 3)))


def _motion_blur(image, strength, rng):
    """A Gaussian of `strength` px along one side of a line in a random direction within 45 degrees of horizontal."""
    angle, reach = rng.uniform(-np.pi / 4, np.pi / 4), int(np.ceil(2 * strength))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    for step in np.linspace(0, reach, 4 * reach + 1):
        row, column = round(reach + step * np.sin(angle)), round(reach + step * np.cos(angle))
        kernel[row, column] += np.exp(-((step / strength) ** 2) / 2)
    return _filtered(image, kernel)


def _filtered(image, kernel):
    from scipy import ndimage

    kernel = kernel / kernel.sum()
    return np.stack([ndimage.convolve(channel, kernel) for channel in np.moveaxis(image, -1, 0)], axis=-1)


def _zoom_blur(image, strength, rng):
    """The mean of the image and of its enlargements by up to `strength`, about the centre."""
    from scipy import ndimage

    height, width, _ = image.shape
    centre = (np.array([height, width, 1]) - 1) / 2
    factors = np.linspace(1, strength, 8)
    zoomed = [
        ndimage.affine_transform(
            image,
            scale,
            centre - scale * centre,  # pyright: ignore[reportArgumentType]  inferred from the default, 0.0
            order=1,
            mode="nearest",
        )
        for scale in ([1 / factor, 1 / factor, 1] for factor in factors)
    ]
    return np.mean([image, *zoomed], axis=0)


def _fog(image, strength, rng):
    height, width, _ = image.shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.fftfreq(width) * width)
    frequency[0, 0] = 1
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(height, width))) / frequency).real
    noise = (noise - noise.min()) / max(float(np.ptp(noise)), 1e-9)
    highest = image.max()
    return (image + strength * noise[..., None]) * highest / max(float(highest + strength), 1e-9)


def _brightness(image, strength, rng):
    return image + strength


def _contrast(image, strength, rng):
    mean = image.mean((0, 1), keepdims=True)
    return (image - mean) * strength + mean


def _pixelate(image, strength, rng):
    height, width = image.shape[:2]
    return _by_pillow(
        image, lambda pil, box: pil.resize(_size(height, width, strength), box).resize((width, height), box)
    )


def _size(height, width, share):
    return max(int(width * share), 1), max(int(height * share), 1)


def _jpeg(image, strength, rng):
    from PIL import Image

    def through(pil, box):
        content = io.BytesIO()
        pil.save(content, "JPEG", quality=int(strength))
        return Image.open(content).convert(pil.mode)

    return _by_pillow(image, through)


def _by_pillow(image, change):
    from PIL import Image

    shown = np.rint(image * 255).astype(np.uint8)
    pil = Image.fromarray(shown[..., 0] if shown.shape[-1] == 1 else shown)
    return np.asarray(change(pil, Image.Resampling.BOX)).reshape(image.shape) / 255


KINDS: dict[str, tuple[_Kind, tuple[float, ...], tuple[float, ...]]] = {  # function, LARGE, SMALL
    "gaussian_noise": (_gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38), (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (_shot_noise, (60, 25, 12, 5, 3), (500, 250, 100, 75, 50)),
    "impulse_noise": (_impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27), (0.01, 0.02, 0.03, 0.05, 0.07)),
    "speckle_noise": (_speckle_noise, (0.15, 0.2, 0.35, 0.45, 0.6), (0.06, 0.1, 0.12, 0.16, 0.2)),
    "gaussian_blur": (_gaussian_blur, (1, 2, 3, 4, 6), (0.4, 0.6, 0.7, 0.8, 1)),
    "defocus_blur": (_defocus_blur, (3, 4, 6, 8, 10), (0.6, 0.7, 0.8, 1, 1.5)),
    "motion_blur": (_motion_blur, (3, 5, 8, 12, 15), (1, 1.5, 2, 2, 2.5)),
    "zoom_blur": (_zoom_blur, (1.11, 1.16, 1.21, 1.26, 1.31), (1.06, 1.11, 1.16, 1.21, 1.26)),
    "fog": (_fog, (1.5, 2, 2.5, 2.5, 3), (0.2, 0.5, 0.75, 1, 1.5)),
    "brightness": (_brightness, (0.1, 0.2, 0.3, 0.4, 0.5), (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (_contrast, (0.4, 0.3, 0.2, 0.1, 0.05), (0.75, 0.5, 0.4, 0.3, 0.15)),
    "pixelate": (_pixelate, (0.6, 0.5, 0.4, 0.3, 0.25), (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": (_jpeg, (25, 18, 15, 10, 7), (80, 65, 58, 50, 40)),
}
