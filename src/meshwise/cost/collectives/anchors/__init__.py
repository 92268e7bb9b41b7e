"""Collectives anchored by measurements of one's own."""
