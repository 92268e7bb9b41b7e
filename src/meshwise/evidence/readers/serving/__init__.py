"""Results of serving benchmarks, and what engines say when they start."""
