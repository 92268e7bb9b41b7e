"""Programs that run the command that they are given: in a container, for each of several values, in a terminal."""
