"""Pure Linen models; beside each stands its table from parameter path to logical axes."""
