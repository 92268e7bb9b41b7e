"""Measurements of a user's own that anchor predictions of the same system."""
