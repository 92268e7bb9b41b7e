"""Measurements: tables of published and own runs, and the predictions beside them."""
