"""Trust reports of trained runs: calibration, groups, robustness to corruptions, what a model looks at."""
