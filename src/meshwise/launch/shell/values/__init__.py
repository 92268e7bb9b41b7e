"""Values of a shell: what is known, what is calculated, what a command prints."""
