"""Tessera: one sharded program for vision, language and speech. See docs/architecture.md for the packages."""
