"""Data: prepared once into record files, then read as batches that are a function of (seed, step)."""
