"""Readers of what people have: logs, results and topologies of other tools, as rows of measurements.

One reader per kind of file (:mod:`.kinds` lists them all); a kind is told by the structure of a file, never
by its name.
"""
