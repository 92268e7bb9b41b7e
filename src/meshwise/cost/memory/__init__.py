"""Bytes on one device, by part."""
