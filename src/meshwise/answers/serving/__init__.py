"""Loads of serving and their limits, in JSON and in words: what several answers share."""
