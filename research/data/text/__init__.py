"""Text: vocabularies, templates, packing, and pairs of source and target."""
