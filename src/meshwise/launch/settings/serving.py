"""What engines' flags have in common: a server's server_limits, and how many tokens are drafted."""

from __future__ import annotations

from typing import Any

from meshwise.launch.job import Job
from meshwise.launch.settings.settings import Settings


def sequences_per_replica(job: Job) -> int | None:
    """Sequences of one replica; more where the replicas do not divide the concurrency."""
    return None if job.concurrency is None else -(-job.concurrency // job.dp)


def is_routed(model: str) -> bool:
    """Whether a model of the catalog has routed experts; of one that is not known nothing is said."""
    from meshwise.errors import MeshwiseError
    from meshwise.models.load import load_model
    from meshwise.models.names import named_model

    try:
        known = named_model(model) if model else None
    except MeshwiseError:  # a format that is not priced
        return False
    return known is not None and any(b.moe is not None for b in load_model(known.preset).blocks)


_DRAFTERS = ("eagle", "eagle3", "nextn", "mtp", "medusa", "mlp_speculator", "standalone", "draft")


def drafts(method: str, tokens: int) -> tuple[dict[str, Any], str]:
    """Fields of speculation: a method without a model of its own costs nothing, the others a layer."""
    name = method.lower()
    cost = "layer" if any(d in name for d in _DRAFTERS) else "none"
    return {
        "draft_tokens": tokens,
        "draft_cost": cost,
    }, f"drafted tokens of a step: {tokens} ({method})"


def server_limits(job: Job) -> Settings:
    """Longest sequence, sequences of a replica and tokens of an iteration, as far as they are said."""
    said = {"max_len": job.max_len, "max_seqs": sequences_per_replica(job), "chunk": job.chunk}
    return {name: value for name, value in said.items() if value is not None}
