"""Images: decoding, augmentation, and data sets of classes, boxes, masks and faces."""
