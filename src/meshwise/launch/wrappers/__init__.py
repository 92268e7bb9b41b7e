"""What launch commands run in: schedulers, containers, copies of a server."""
