"""Seconds of one kernel from its shape, by constants that were measured."""
