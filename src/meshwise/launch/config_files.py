"""Configuration files that launch commands name or come in: YAML, TOML, JSON, Python, manifests."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from meshwise.errors import InputError, shorten
from meshwise.launch import yaml_text
from meshwise.launch.find import IMAGE
from meshwise.launch.shell import Script, unread

MAX_BYTES = 1 << 20


def opened(path: str, field: str, files: dict[str, str]) -> str:
    """A file that a command names: written by the same text, or on the disk."""
    for name in (path, *(n for n in files if Path(n).name == Path(path).name)):
        if name in files:
            return files[name]
    what = "the file, or its text in a here-document of the same script"
    if unread(path):
        raise InputError(
            f"{field}: {shorten(path)} is not set in the text, and the file may hold the layout",
            field=field,
            value=path,
            legal=what,
        )
    if not Path(path).is_file():
        raise InputError(
            f"{field}: {shorten(path)} is not here, and it may hold the layout",
            field=field,
            value=path,
            legal=what,
        )
    from meshwise.spec.cluster import read_text_file

    return read_text_file(path, field, "a configuration file", MAX_BYTES)


def as_words(table: dict[str, Any]) -> list[str]:
    """A mapping as flags: ``key: value`` is ``--key value``, sections joined by a dot."""
    words: list[str] = []
    for key, value in table.items():
        if isinstance(value, bool):
            words += [f"--{key}={str(value).lower()}"]
        elif isinstance(value, list | dict):
            words += [f"--{key}={json.dumps(value)}"]
        elif value is not None:
            words += [f"--{key}={value}"]
    return words


def leaves(table: dict[str, Any]) -> dict[str, Any]:
    """Values by their own key, whatever section they stand in."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= leaves(value) if isinstance(value, dict) else {key: value}
    return found


def sections(text: str, field: str) -> dict[str, Any]:
    """A TOML file with its sections joined by dots, as torchtitan's flags are."""
    import tomllib

    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(
            f"{field}: no TOML: {shorten(str(error))}", field=field, legal="a TOML file"
        ) from None
    return _dotted(table)


def _dotted(table: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            found |= _dotted(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found


# -- manifests -----------------------------------------------------------------------------------------


def manifest(text: str) -> str | None:
    """The shell text of a compose file's or a Kubernetes object's containers; None where the YAML is
    no manifest."""
    documents = [d for d in yaml_text.load(text) if isinstance(d, dict)]
    if not any("apiVersion" in d or "services" in d for d in documents):
        return None
    if "serveConfigV2" in text:
        raise InputError(
            "COMMAND: a RayService is not read",
            field="COMMAND",
            value=text[:40],
            legal="the engine's own command",
        )
    found: list[str] = []
    for document in documents:
        for container in _containers(document):
            found += _container(container)
    if not found:
        raise InputError(
            "COMMAND: no container of the manifest has a command or args",
            field="COMMAND",
            value=shorten(text.strip()[:60]),
            legal="a container with its command",
        )
    return "\n".join(found)


def _containers(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [c for value in node for c in _containers(value)]
    if not isinstance(node, dict):
        return []
    if any(key in node for key in ("command", "args", "entrypoint")):
        return [node]
    return [c for value in node.values() for c in _containers(value)]


def _container(container: dict[str, Any]) -> list[str]:
    """Its environment as assignments, and its command after its image."""
    rows = []
    environment = container.get("env", container.get("environment")) or []
    if isinstance(environment, dict):
        environment = [{"name": k, "value": v} for k, v in environment.items()]
    for entry in environment if isinstance(environment, list) else []:
        name, value = "", ""
        if isinstance(entry, dict):
            name, value = str(entry.get("name", "")), str(entry.get("value", ""))
        elif "=" in str(entry):
            name, _, value = str(entry).partition("=")
        if name.isidentifier() and value:
            rows.append(f"{name}={shlex.quote(value)}")
    words: list[str] = []
    for key in ("entrypoint", "command", "args"):
        words += _as_list(container.get(key))
    if not words:
        return rows
    image = str(container.get("image", ""))
    ours = "vllm-openai" in image and (words[0].startswith("-") or "/" in words[0][1:])
    if ours and not words[0].endswith(("vllm", "python", "python3", "bash", "sh")):
        words = [IMAGE, image, *words]
    quoted = [_quoted(w) for w in words]
    return [*rows, " ".join(quoted)]


def _as_list(value: Any) -> list[str]:
    if isinstance(value, list):
        return [str(v) for v in value]
    if not value:
        return []
    lines = str(value).replace("\\\n", " ")
    try:
        return shlex.split(lines)
    except ValueError as error:
        raise InputError(
            f"COMMAND: {str(error).lower()} in a container's command",
            field="COMMAND",
            value=shorten(lines[:60]),
            legal="a shell command with its quotes closed",
        ) from None


def _quoted(word: str) -> str:
    """A word of a list, whose variables the container's start replaces: ``$(NAME)`` and ``$NAME``."""
    word = re.sub(r"\$\(([A-Za-z_]\w*)\)", r"${\1}", word)
    if "$" in word and "\n" not in word and "'" not in word and " " not in word:
        return '"' + word.replace('"', '\\"') + '"'
    return shlex.quote(word)


def beside(path: str | None, script: Script) -> dict[str, Any]:
    """The YAML beside a TensorRT-LLM command: in the text, or a file."""
    if path is None:
        return {}
    return yaml_text.mapping(opened(path, "--config", script.files), "--config")
