"""Ranks started, watched and ended well."""
