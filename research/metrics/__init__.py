"""Accumulators and scorers of predictions; each metric declares its direction."""
