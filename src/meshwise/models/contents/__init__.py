"""What a ``config.json`` has to say for a count to be that of its model: sizes, words, no other structure."""
