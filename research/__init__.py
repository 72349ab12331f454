"""Tessera: one sharded program for vision, language and speech. See README.md for the map of the house."""
