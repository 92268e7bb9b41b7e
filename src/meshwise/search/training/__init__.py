"""The best layout of a training step."""
