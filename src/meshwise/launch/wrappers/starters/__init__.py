"""Files of other programs that start a command: units of systemd and supervisor, Dockerfiles, makefiles."""
