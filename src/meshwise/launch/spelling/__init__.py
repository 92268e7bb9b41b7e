"""Flags as targets spell them: names, values, and what a misspelt one was meant to be."""
