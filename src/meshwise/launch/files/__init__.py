"""Launches in configuration files."""
