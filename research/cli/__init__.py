"""The command line: `python -m experiments.NAME.main` (experiment.py), and `tessera` for all commands (tessera.py).

It imports nothing, so that `tessera` can handle Ctrl-C and SIGTERM before the slow imports.
"""
