"""What several targets' settings have in common: sizes, stages, switches, formats, a server's limits."""
