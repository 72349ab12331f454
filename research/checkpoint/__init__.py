"""The checkpoint format: save, restore, verify, stream. Only this package knows its files and leaf names."""
