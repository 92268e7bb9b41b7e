"""In which shape: degrees of parallelism, the rules that make them legal, and where their groups sit."""
