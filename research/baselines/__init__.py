"""Baselines: what simple methods reach on the input, the splits and the score of a config."""
