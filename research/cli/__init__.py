"""The command line: `python -m experiments.NAME.main` (experiment.py), and `tessera` over everything (tessera.py).

It imports nothing, so that `tessera` can see to Ctrl-C and SIGTERM before the slow imports.
"""
