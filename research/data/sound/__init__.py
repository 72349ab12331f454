"""Sound: decoding, log-mel spectrograms, augmentation, and transcribed utterances."""
