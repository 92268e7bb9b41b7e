"""How far tensor parallelism scales, and why it stops there."""
