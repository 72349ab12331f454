"""No change moves a parameter of a full-size config unseen."""

import json

import pytest

from research import config as config_lib
from tests import weights
from tests.parallel import golden


def skip_without_weights(config):
    source = config_lib.Source.parse(str(golden.ROOT / config))
    weights.skip_without(config_lib.load(source.file, source.variant))


@pytest.mark.parametrize("config", golden.CONFIGS, ids=lambda config: golden.place(config).stem)
def test_shardings_are_those_of_the_golden_file(config):
    skip_without_weights(config)
    kept = json.loads(golden.place(config).read_text()) if golden.place(config).exists() else None
    assert golden.resolved(config) == kept, "if that is meant: python -m tests.parallel.golden, and commit its files"


def test_every_golden_file_has_its_config():
    assert sorted(golden.FOLDER.rglob("*.json")) == sorted(golden.place(config) for config in golden.CONFIGS)


@pytest.mark.parametrize("config", golden.CONFIGS, ids=lambda config: golden.place(config).stem)
def test_no_config_is_too_odd_for_fsdp_over_256_devices(config):
    skip_without_weights(config)
    golden.abstract(config, {"data": 1, "fsdp": 256, "tensor": 1, "sequence": 1})
