"""Packages that hold the weights of models, of which a config may name one."""

import pytest

from research import files


def skip_without(config):
    """Skips a test where the package that `config.data.vocabulary` names is not installed."""
    named = getattr(config.data, "vocabulary", "")
    if named.startswith(files.PACKAGE):
        try:
            files.located(named)
        except ValueError as error:
            pytest.skip(str(error))
