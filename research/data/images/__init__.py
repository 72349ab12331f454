"""Images: decoding, augmentation, and data sets for classification, detection, segmentation and faces."""
