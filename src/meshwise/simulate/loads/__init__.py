"""What is sent to a server, and what becomes of each request."""
