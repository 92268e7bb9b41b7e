"""Many layouts: the curve over TP degrees, the best of all, and what a change would bring."""
