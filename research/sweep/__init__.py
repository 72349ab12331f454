"""Hyperparameter sweeps: many runs of one config with different settings, compared on validation."""
