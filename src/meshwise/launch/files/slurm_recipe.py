"""Recipes of servers under SLURM (srt-slurm): an engine's settings by role, with the nodes and workers of
each role."""

from __future__ import annotations

from typing import Any, NamedTuple

from meshwise.errors import InputError

_SECTIONS = {"vllm_config": "vllm", "sglang_config": "sglang", "trtllm_config": "trtllm"}
_ROLES = {"aggregated": "agg", "prefill": "prefill", "decode": "decode"}
# that prompts or answers are elsewhere is said by the role
_BY_ROLE = (
    "disaggregation-mode",
    "disaggregation-transfer-backend",
    "disaggregation-bootstrap-port",
    "kv-transfer-config",
    "cache-transceiver-config",
)
_PLACE = ("model", "model-path")  # in the container; the hub's name of the model stands elsewhere


# TensorRT-LLM's own file of such servers: a section each, with the keys of its servers' files
_APART = ("context_servers", "generation_servers")
_OF_SERVERS = ("num_instances", "urls", "router")


class ServerRole(NamedTuple):
    """What servers of a role do: an engine's settings, how many there are, GPUs and nodes of them all."""

    name: str
    table: dict[str, Any]
    workers: int
    gpus: int | None
    nodes: int | None


class SlurmRecipe(NamedTuple):
    engine: str
    model: str
    roles: tuple[ServerRole, ...]


def servers_by_role(table: dict[str, Any]) -> SlurmRecipe | None:
    """The roles of a recipe; None where the file is none."""
    if all(isinstance(table.get(key), dict) for key in _APART):
        return SlurmRecipe(
            "trtllm", str(table.get("model", "")), tuple(_part(table, k) for k in _APART)
        )
    table = _whole(table)
    backend, resources = table.get("backend"), table.get("resources")
    if not isinstance(backend, dict) or not isinstance(resources, dict):
        return None
    section = next((key for key in _SECTIONS if isinstance(backend.get(key), dict)), None)
    if section is None:
        return None
    own = backend[section]
    roles = tuple(
        _role(name, own[name], resources) for name in _ROLES if isinstance(own.get(name), dict)
    )
    if not roles:
        return None
    return SlurmRecipe(_SECTIONS[section], _model(table, roles), roles)


def _part(table: dict[str, Any], name: str) -> ServerRole:
    """Servers of a section, which also has what holds for all of them."""
    shared = (
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "enable_attention_dp",
        "kv_cache_config",
    )
    own = {k: table[k] for k in shared if k in table} | table[name]
    many = own.get("num_instances")
    kept = {k: v for k, v in own.items() if str(k).replace("_", "-") not in _BY_ROLE}
    kept = {k: v for k, v in kept.items() if k not in _OF_SERVERS}
    return ServerRole(name, kept, many if isinstance(many, int) and many > 0 else 1, None, None)


def _whole(table: dict[str, Any]) -> dict[str, Any]:
    """A recipe; raise for one of several that stand in a file."""
    base = table.get("base")
    if not isinstance(base, dict) or "backend" not in base:
        return table
    variants = [key for key in table if key != "base"]
    if variants:
        raise InputError(
            f"command: a recipe with variants of it ({', '.join(variants[:4])}): which is run is not known",
            field="command",
            value=variants[0],
            legal="the recipe with one variant's values in it",
        )
    return base


def _role(name: str, settings: dict[str, Any], resources: dict[str, Any]) -> ServerRole:
    short = _ROLES[name]
    workers = _count(resources, f"{short}_workers")
    each, nodes = resources.get(f"gpus_per_{short}"), resources.get(f"{short}_nodes")
    gpus = each * (workers or 1) if isinstance(each, int) else None
    if gpus is None and isinstance(nodes, int) and isinstance(resources.get("gpus_per_node"), int):
        gpus = nodes * resources["gpus_per_node"]
    left = (*_BY_ROLE, *_PLACE)
    kept = {k: v for k, v in settings.items() if str(k).replace("_", "-") not in left}
    return ServerRole(
        name, kept, workers or 1, gpus or None, nodes if isinstance(nodes, int) else None
    )


def _count(resources: dict[str, Any], key: str) -> int | None:
    value = resources.get(key)
    if isinstance(value, list):
        raise InputError(
            f"{key}: several numbers: which is run is not known",
            field=key,
            value=str(value)[:60],
            legal="one number",
        )
    return value if isinstance(value, int) and value > 0 else None


def _model(table: dict[str, Any], roles: tuple[ServerRole, ...]) -> str:
    """The hub's name that the server is called by, else the recipe's own name of it."""
    for role in roles:
        served = role.table.get("served-model-name", role.table.get("served_model_name"))
        if isinstance(served, str) and "/" in served.strip("/"):
            return served
    own = table.get("model")
    return str(own.get("path", "")) if isinstance(own, dict) else ""
