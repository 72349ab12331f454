"""The table of chips, against relations that its sources state in another way."""

import pytest

from research.measure.chips import CHIPS, DEVICE_KINDS, chip_of


def test_the_table_holds_the_promised_chips():
    assert {"v4", "v5e", "v5p", "v6e", "v7x", "A100", "H100", "H200", "B200"} <= CHIPS.keys()
    assert set(DEVICE_KINDS.values()) == CHIPS.keys()


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA H100 PCIe", "TPU v3", "Tesla V100-SXM2-16GB", ""])
def test_hardware_without_an_entry_is_unknown(kind):
    assert chip_of(kind) is None


@pytest.mark.parametrize(
    ("name", "exaflops", "chips"), [("v4", 1.1, 4096), ("v5e", 0.05063, 256), ("v6e", 0.2349, 256)]
)
def test_a_pod_has_the_peak_that_its_page_states(name, exaflops, chips):
    assert CHIPS[name].peak_flops("bfloat16") * chips == pytest.approx(exaflops * 1e18, rel=0.03)


@pytest.mark.parametrize(
    ("name", "gbytes"), [("v5e", 400), ("v5p", 1200), ("v6e", 800), ("v7x", 1200), ("A100", 600), ("H100", 900)]
)
def test_links_add_up_to_the_stated_bandwidth_both_ways(name, gbytes):
    """Measured links of TPUs lie a tenth below what the documentation states; NVLink is taken as stated."""
    chip = CHIPS[name]
    assert 0.89 <= 2 * chip.links * chip.link_bandwidth / (gbytes * 1e9) <= 1.0


def test_a_torus_has_two_links_in_each_dimension():
    assert all(chip.links == 2 * chip.torus_dims for chip in CHIPS.values() if chip.torus_dims)


def test_an_unknown_dtype_has_no_peak():
    assert CHIPS["v5e"].peak_flops("float64") is None
