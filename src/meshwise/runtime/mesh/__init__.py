"""Tensor parallelism beside data parallelism and pipelines, on one DeviceMesh."""
