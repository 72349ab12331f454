"""Audio: decoding, log-mel spectrograms, augmentation, and data sets of transcribed utterances."""
