"""Seconds and bytes of collectives over a hierarchical fabric."""
