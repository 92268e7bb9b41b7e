"""Products beside the collectives that feed or drain them."""
