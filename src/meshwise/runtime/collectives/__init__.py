"""The group of ranks and its collectives, every one counted."""
