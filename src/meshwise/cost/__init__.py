"""What operations take: seconds, bytes on the wire, bytes of memory; and how far that may be off."""
