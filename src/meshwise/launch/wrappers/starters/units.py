"""Units of systemd, containers of Quadlet and programs of supervisor, as the shell text that they start."""

from __future__ import annotations

import re
import shlex

from meshwise.errors import InputError, shorten

_SECTION = re.compile(r"\s*\[([\w.:-]+)\]\s*$")
_KEY = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s?(.*)$")
_KNOWN = ("Unit", "Service", "Container", "Install", "Socket", "Timer")
_PAIR = re.compile(r"\s*([A-Za-z_]\w*)=(\"[^\"]*\"|'[^']*'|[^,]*)\s*(?:,|$)")


def is_unit(text: str) -> bool:
    """Whether a text begins with a section of a unit."""
    first = next((x for x in text.splitlines() if x.strip() and x.strip()[0] not in "#;"), "")
    match = _SECTION.match(first)
    return match is not None and (match[1] in _KNOWN or match[1].partition(":")[0] == "program")


def unit_text(text: str) -> str:
    """The shell text of a unit, its lines where they stand."""
    lines = text.splitlines()
    rows = [""] * max(len(lines), 1)
    section = ""
    images: dict[str, str] = {}
    at = 0
    while at < len(lines):
        first, line = at, lines[at]
        while line.endswith("\\") and at + 1 < len(lines):
            at += 1
            line = f"{line}\n{lines[at]}"
        at += 1
        named = _SECTION.match(line)
        if named is not None:
            section = named[1]
            continue
        match = _KEY.match(line.partition("\n")[0])
        if match is None or line.lstrip()[:1] in "#;":
            continue
        key, value = match[1], line[match.start(2) :]
        row = _row(section, key, value, images)
        for i, part in enumerate(row.split("\n")):
            rows[first + i] = part
    rows[0] = f"set -a; {rows[0]}"
    return "\n".join(rows)


def _row(section: str, key: str, value: str, images: dict[str, str]) -> str:
    """A line of a unit in a shell."""
    if section == "Service" and key.startswith("ExecStart"):
        return _command(value.lstrip("-@:+!"))
    if section in ("Service", "Container") and key == "Environment":
        return _assignments(value, key)
    if section in ("Service", "Container") and key == "EnvironmentFile":
        return f"source {shlex.quote(value.lstrip('-').strip())}"
    if section == "Container":
        if key == "Image":
            images["image"] = value.strip()
        elif key == "Exec":
            return f"docker run {images.get('image', 'image')} {_command(value)}"
    if section.startswith("program:"):
        if key == "command":
            return re.sub(r"%\(ENV_(\w+)\)s", r"${\1}", value)
        if key == "environment":
            return "; ".join(f"{n}={v.strip()}" for n, v in _PAIR.findall(value.replace("\n", "")))
    return ""


def _command(value: str) -> str:
    """What systemd replaces before it starts a command: its own marks are not known here."""
    plain = value.replace("$$", "$").replace("%%", "\0")
    return re.sub(r"%([A-Za-z])", r"${unit_\1}", plain).replace("\0", "%")


def _assignments(value: str, key: str) -> str:
    try:
        words = shlex.split(value.replace("\\\n", " "))
    except ValueError as error:
        raise InputError(
            f"command: {str(error).lower()} in {key}={shorten(value)}",
            field=key,
            value=value,
            legal="NAME=VALUE with its quotes closed",
        ) from None
    pairs = [w.partition("=") for w in words]
    return "; ".join(f"{n}={shlex.quote(v)}" for n, _, v in pairs if n.isidentifier())
