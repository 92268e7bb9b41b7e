"""Shell text taken apart and followed, without running anything."""
