"""Experiment trackers, all optional: TensorBoard, Weights & Biases and MLflow behind one Protocol (`base.Tracker`)."""
