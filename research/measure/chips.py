"""Peak FLOP/s, memory and link bandwidths of accelerators, with the source of every entry.

All figures are per chip. A float32 entry is the peak at JAX's default precision, which multiplies float32 in one
bfloat16 pass on a TPU and in TF32 on these GPUs. Peaks are dense, without NVIDIA's 2:4 sparsity.
"""

import dataclasses
from collections.abc import Mapping

GIB, GB = 2**30, 10**9


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip and its links; bandwidths in bytes/s.

    `link_bandwidth` is that of one link in one direction. A TPU has links to two neighbours along each of `torus_dims`
    dimensions, which is a ring (wraparound) if its length is a multiple of `ring_multiple`. With `torus_dims` 0, all
    `links` go to a switch that up to `switch_size` chips share.
    """

    name: str
    flops: Mapping[str, float]  # FLOP/s by dtype
    hbm_bytes: int
    hbm_bandwidth: float
    link_bandwidth: float
    links: int
    torus_dims: int = 0
    ring_multiple: int = 0
    switch_size: int = 0
    cores: int = 1  # JAX devices of one chip, which share its figures equally

    def peak_flops(self, dtype: str) -> float | None:
        """FLOP/s of matrix products in `dtype`; None if not published."""
        return self.flops.get(dtype)


def _tpu(bf16: float, eight_bit: Mapping[str, float]) -> dict[str, float]:
    return {"bfloat16": bf16, "float32": bf16, **eight_bit}


def _gpu(bf16: float, tf32: float, eight_bit: Mapping[str, float]) -> dict[str, float]:
    return {"bfloat16": bf16, "float16": bf16, "float32": tf32, **eight_bit}


# TPU peaks, HBM: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, read 2026-11. Links, one way, as measured, and
# which dimensions are rings: "How to Scale Your Model", jax-ml.github.io/scaling-book/tpus, "TPU Specs" (the
# documentation's totals, 400, 1200, 800 and 1200 GB/s both ways for v5e, v5p, v6e and TPU7x, are a tenth higher).
CHIPS = {
    chip.name: chip
    for chip in (
        # 275 TFLOPS in bf16 or int8, 32 GiB, 1200 GB/s.
        Chip("v4", _tpu(275e12, {"int8": 275e12}), 32 * GIB, 1200e9, 45e9, 6, torus_dims=3, ring_multiple=4),
        # 197 TFLOPS, 393 TOPS in int8, 16 GB, 819 GB/s (800 GiB/s on newer pages), 2D torus over 16 x 16 only.
        Chip("v5e", _tpu(197e12, {"int8": 393e12}), 16 * GIB, 819e9, 45e9, 4, torus_dims=2, ring_multiple=16),
        # 459 TFLOPS in bf16 and fp8, 95 GiB, 2765 GB/s.
        Chip("v5p", _tpu(459e12, {"float8": 459e12}), 95 * GIB, 2765e9, 90e9, 6, torus_dims=3, ring_multiple=4),
        # 918 TFLOPS, 1836 TOPS in int8, 32 GB, 1638 GB/s.
        Chip("v6e", _tpu(918e12, {"int8": 1836e12}), 32 * GIB, 1638e9, 90e9, 4, torus_dims=2, ring_multiple=16),
        # 2307 TFLOPS, 4614 in fp8, 192 GiB, 7380 GB/s; JAX sees the two TensorCores of a chip as two devices.
        Chip("v7x", _tpu(2307e12, {"float8": 4614e12}), 192 * GIB, 7380e9, 90e9, 6, 3, ring_multiple=4, cores=2),
        # NVIDIA A100 datasheet (2021), SXM: 312 TFLOPS bf16, 156 TF32, 624 TOPS int8; NVLink 600 GB/s both ways.
        Chip("A100", _gpu(312e12, 156e12, {"int8": 624e12}), 80 * GB, 2039e9, 25e9, 12, switch_size=8),
        Chip("A100-40GB", _gpu(312e12, 156e12, {"int8": 624e12}), 40 * GB, 1555e9, 25e9, 12, switch_size=8),
        # NVIDIA H100 datasheet, SXM, halved for dense: 989 TFLOPS bf16, 495 TF32, 1979 fp8; NVLink 900 GB/s both ways.
        Chip("H100", _gpu(989e12, 495e12, {"float8": 1979e12}), 80 * GB, 3350e9, 25e9, 18, switch_size=8),
        # NVIDIA H200 datasheet, SXM: the H100's peaks, 141 GB, 4.8 TB/s.
        Chip("H200", _gpu(989e12, 495e12, {"float8": 1979e12}), 141 * GB, 4800e9, 25e9, 18, switch_size=8),
        # NVIDIA DGX B200 datasheet, an eighth of the system, dense: 2250 TFLOPS bf16 (TF32 half, fp8 double), 180 GB,
        # 8 TB/s, NVLink 1800 GB/s both ways.
        Chip("B200", _gpu(2250e12, 1125e12, {"float8": 4500e12}), 180 * GB, 8000e9, 50e9, 18, switch_size=8),
    )
}

# jax.Device.device_kind, exactly. The PCIe and NVL cards of NVIDIA are slower and have no entry.
DEVICE_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "TPU7x": "v7x",
    "TPU v7x": "v7x",
    "NVIDIA A100-SXM4-80GB": "A100",
    "NVIDIA A100-SXM4-40GB": "A100-40GB",
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H200": "H200",
    "NVIDIA B200": "B200",
}


def chip_of(device_kind: str) -> Chip | None:
    """The chip of a `jax.Device.device_kind`; None (to be shown as "unknown") for one without an entry."""
    name = DEVICE_KINDS.get(device_kind)
    return CHIPS[name] if name else None
