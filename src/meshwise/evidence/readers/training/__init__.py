"""Training logs: the steps of runs, with the layout that the log itself states."""
