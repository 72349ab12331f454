"""The command line: `python -m experiments.NAME.main` (experiment.py), and `tessera` over everything (tessera.py)."""

from research.cli.experiment import MODES, parse, run

__all__ = ["MODES", "parse", "run"]
