"""Video: decoding, and data sets of labelled clips."""
