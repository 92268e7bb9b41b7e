"""Weights read and placed by slice."""
