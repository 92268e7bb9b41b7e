"""Ray Serve's configurations: ``LLMConfig`` entries, whose ``engine_kwargs`` are vLLM's settings."""

from __future__ import annotations

from typing import Any, NamedTuple

from meshwise.errors import InputError, shorten
from meshwise.launch.files import yaml_text
from meshwise.launch.python.calls import ray_table


class Deployed(NamedTuple):
    """vLLM's settings, and the replicas of it; ``scaled``: their number follows the load; ``names``: by
    which it may be chosen."""

    table: dict[str, Any]
    replicas: int
    scaled: bool
    names: tuple[str, ...] = ()
    line: int = 0


def deployed(text: str) -> list[Deployed] | None:
    """The engines of a Ray Serve configuration or a RayService; None where the YAML is neither."""
    documents = [d for d in yaml_text.yaml_documents(text) if isinstance(d, dict)]
    inner = [s for d in documents for s in _configurations(d)]
    ours = any("applications" in d for d in documents)
    if not inner and not ours:
        return None
    nodes = [node for s in inner for node in yaml_text.yaml_documents(s)] or list(documents)
    found = [_engine(entry) for node in nodes for entry in _entries(yaml_text.typed(node))]
    if not found:
        raise InputError(
            "command: no engine_kwargs in the Ray application: what it starts is not in the text",
            field="command",
            value=shorten(text.strip()[:40]),
            legal="llm_configs with model_loading_config and engine_kwargs, or the engine's own command",
        )
    return found


def _configurations(node: Any) -> list[str]:
    if isinstance(node, list):
        return [s for value in node for s in _configurations(value)]
    if not isinstance(node, dict):
        return []
    own = node.get("serveConfigV2")
    return (
        [own]
        if isinstance(own, str)
        else [s for value in node.values() for s in _configurations(value)]
    )


def _entries(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [e for value in node for e in _entries(value)]
    if not isinstance(node, dict):
        return []
    if "engine_kwargs" in node or "model_loading_config" in node:
        return [node]
    return [e for value in node.values() for e in _entries(value)]


def _engine(entry: dict[str, Any]) -> Deployed:
    loading = entry.get("model_loading_config")
    named = loading.get("model_id") if isinstance(loading, dict) else None
    return _deployed(entry)._replace(names=(str(named),) if named else ())


def _deployed(entry: dict[str, Any]) -> Deployed:
    deployment = entry.get("deployment_config")
    deployment = deployment if isinstance(deployment, dict) else {}
    said = deployment.get("num_replicas")
    scale = deployment.get("autoscaling_config")
    ends = (
        {scale.get("min_replicas"), scale.get("max_replicas")} if isinstance(scale, dict) else {1}
    )
    if isinstance(said, int) and said > 0:
        return Deployed(ray_table(entry), said, False)
    fixed = next(iter(ends)) if len(ends) == 1 else None
    fixed = fixed if isinstance(fixed, int) and fixed > 0 else None
    return Deployed(ray_table(entry), fixed or 1, fixed is None)
