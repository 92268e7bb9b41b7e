"""Values of llm-d's chart for model servers: what it starts for a model, its degrees and arguments."""

from __future__ import annotations

from typing import Any

from meshwise.errors import InputError
from meshwise.launch.wrappers import kserve

_ROLES = ("decode", "prefill")


def of_chart(document: dict[str, Any]) -> dict[str, Any]:
    """A chart's values as an object whose containers say what the chart starts; any other document as
    it is."""
    artifacts = document.get("modelArtifacts")
    roles = [name for name in _ROLES if _runs(document.get(name))]
    if not isinstance(artifacts, dict) or not roles:
        return document
    if len(roles) > 1:
        said = "; ".join(f"{name}: {_said(document[name])}" for name in roles)
        raise InputError(
            f"command: prompts and answers are on GPUs of their own, with a layout each ({said})",
            field="prefill",
            value=", ".join(roles),
            legal="one of the roles alone",
        )
    role = document[roles[0]]
    model = kserve.served_model(artifacts.get("uri"), artifacts.get("name"))
    containers = [_container(c, role, model) for c in role.get("containers", [])]
    pods = kserve.pods_of(role.get("parallelism"))
    pod = {"containers": containers}
    whole = {"size": pods, "leaderTemplate": pod} if pods != "1" else pod
    return {"apiVersion": "llm-d.ai", "spec": {"replicas": role.get("replicas", 1), "pods": whole}}


def _runs(role: Any) -> bool:
    """Whether a role has servers: it is made, and has copies."""
    if not isinstance(role, dict) or str(role.get("create", "true")).lower() == "false":
        return False
    return str(role.get("replicas", "1")) != "0" and isinstance(role.get("containers"), list)


def _said(role: dict[str, Any]) -> str:
    degrees = " ".join(kserve.degrees_of(role.get("parallelism"))) or "no degree"
    return f"{role.get('replicas', 1)} with {degrees}"


def _container(container: Any, role: dict[str, Any], model: str) -> Any:
    """A container that the chart gives its command; one with a command of its own stays."""
    if not isinstance(container, dict) or container.get("modelCommand") != "vllmServe":
        return container
    words = container.get("args")
    own = list(words) if isinstance(words, list) else []
    degrees = kserve.degrees_of(role.get("parallelism"))
    return {**container, "command": ["vllm", "serve", model], "args": [*degrees, *own]}
