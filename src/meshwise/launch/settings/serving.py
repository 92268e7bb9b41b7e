"""What engines' flags have in common: a server's server_limits, and how many tokens are drafted."""

from __future__ import annotations

from typing import Any

from meshwise.launch.job import Job
from meshwise.launch.settings.settings import Settings, contradiction


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


def exchange_settings(job: Job, backends: dict[str, str]) -> Settings:
    """The backend of experts' exchange that is the job's dispatcher; ``backends``: a server's word → which
    it is, the first of each being the one that is written."""
    known = [own for own, dispatcher in backends.items() if dispatcher == job.dispatcher]
    return {"exchange": known[0]} if known else {}


def exchange_fields(s: Settings, backends: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    """(the dispatcher that a server's backend is, notes)."""
    said = s.get("exchange")
    if said is None:
        return {}, []
    if said not in backends:
        return {}, [f"experts' exchange by {said} is not priced: the stack's own is"]
    found = backends[said]
    return {"dispatcher": found}, [f"experts' exchange by {said} is priced as {found}"]


def rule_settings(job: Job, names: dict[tuple[str, bool], str]) -> Settings:
    """Switches of a server that say the job's rules; ``names``: of the field at a value."""
    return {own: True for (field, value), own in names.items() if getattr(job, field) is value}


def rule_fields(s: Settings, flags: dict[str, tuple[str, str]]) -> dict[str, bool]:
    """A job's rules from a server's switches; ``flags``: of a field the settings that turn it on and off."""
    found: dict[str, bool] = {}
    for field, (on, off) in flags.items():
        said = [(s[on], on)] if s.get(on) is not None else []
        said += [(not s[off], off)] if s.get(off) is not None else []
        if len({value for value, _ in said}) > 1:
            raise contradiction(
                said[1][1], s[said[1][1]], f"contradicts {said[0][1]}", "one of them"
            )
        if said:
            found[field] = said[0][0]
    return found
