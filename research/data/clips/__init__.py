"""Video clips: decoding and labelled clips."""
