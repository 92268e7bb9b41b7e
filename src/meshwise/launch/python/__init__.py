"""Launches in the text of a Python program, which is read and never run."""
