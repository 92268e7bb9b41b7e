"""Serving in steady state, and its best layout."""
