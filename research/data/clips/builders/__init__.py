"""TFDS builders, one module a data set, and those of a user's own folders."""
