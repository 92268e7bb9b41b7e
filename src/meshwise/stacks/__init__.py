"""By which software: what is executed, and what hides under what."""
