"""Layouts of a search under their load, simulated as ``serve`` does it."""
