"""No change moves a parameter of a full-size config unseen."""

import json
from pathlib import Path

import pytest

from tests.parallel import golden


@pytest.mark.parametrize("file", golden.CONFIGS, ids=lambda file: Path(file).stem)
def test_shardings_are_those_of_the_golden_file(file):
    kept = json.loads(golden.place(file).read_text()) if golden.place(file).exists() else None
    assert golden.resolved(file) == kept, "if that is meant: python -m tests.parallel.golden, and commit its files"


def test_every_golden_file_has_its_config():
    assert sorted(golden.FOLDER.rglob("*.json")) == sorted(golden.place(file) for file in golden.CONFIGS)


@pytest.mark.parametrize("file", golden.CONFIGS, ids=lambda file: Path(file).stem)
def test_no_config_is_too_odd_for_fsdp_over_256_devices(file):
    golden.abstract(file, {"data": 1, "fsdp": 256, "tensor": 1, "sequence": 1})
