"""Configuration files that launch commands name or come in: pods, YAML beside an engine, Python."""

from __future__ import annotations

import re
from typing import Any

from meshwise.errors import InputError
from meshwise.launch.serving import Settings
from meshwise.launch.shell import Script, mapping
from meshwise.launch.table import Target


def pod_command(text: str) -> str:
    """The shell command of a pod's YAML: its first lines that a backslash joins."""
    if "serveConfigV2" in text:
        raise InputError(
            "COMMAND: a RayService is not read",
            field="COMMAND",
            value=text[:40],
            legal="the engine's own command",
        )
    found: list[str] = []
    for line in text.splitlines():
        if found or re.search(r"vllm serve|sglang\.launch_server|api_server|trtllm-serve", line):
            found.append(line.strip())
            if not line.rstrip().endswith("\\"):
                break
    return "\n".join(found)


def beside(path: str | None, script: Script) -> dict[str, Any]:
    """The YAML beside a TensorRT-LLM command: in the text, or a file."""
    for name, text in script.files.items():
        if path is None or name == path or name.endswith((".yaml", ".yml")):
            return mapping(text)
    if path is None:
        return {}
    from meshwise.spec.cluster import read_text_file

    return mapping(read_text_file(path, "--config", "a YAML file", 1 << 20))


def titan_config(text: str, chosen: Target) -> Settings:
    """Keyword arguments of a torchtitan configuration written in Python."""
    found: Settings = {}
    for name, flag in chosen.flags.items():
        key = flag.spellings[0].rpartition(".")[2]
        match = re.search(rf"\b{key}\s*=\s*(-?\d+|\"[^\"]*\"|'[^']*'|True|False)", text)
        if match and "ParallelismConfig" in text:
            value = match.group(1).strip("'\"")
            found[name] = int(value) if flag.kind == "int" else value
    mode = re.search(r"ActivationCheckpointConfig\([^)]*mode\s*=\s*[\"'](\w+)", text)
    if mode:
        found["checkpointing"] = mode.group(1)
    return found
