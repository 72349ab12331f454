"""Pure Linen models, each with a table from parameter path to logical axes."""
