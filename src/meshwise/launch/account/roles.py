"""Engines that serve a part of each request: prefill or decode of a disaggregated pair, by their flags."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from meshwise.errors import InputError
from meshwise.launch.account.origins import PlacedWords
from meshwise.launch.find import Launch
from meshwise.launch.shell.commands import option
from meshwise.launch.table import function_of

PREFILL, DECODE, PART = "prefill", "decode", "one part"
# target → the flag that says it, and its words
_FLAGS = {
    "vllm": "kv-transfer-config",
    "sglang": "disaggregation-mode",
    "trtllm": "server-role",
}
_WORDS = {
    "kv_producer": PREFILL,
    "kv_consumer": DECODE,
    "kv_both": PART,
    "prefill": PREFILL,
    "decode": DECODE,
    "context": PREFILL,
    "generation": DECODE,
}


class EngineRole(NamedTuple):
    """What part an engine has, and the launch without the flags that say so."""

    name: str
    flag: str
    rest: Launch


def engine_role(launch: Launch) -> EngineRole | None:
    """The part of an engine that a launch starts; None of one that serves whole requests."""
    flag = _FLAGS.get(launch.target.name)
    said = option(launch.after, flag) if flag is not None else None
    if flag is None or said is None:
        return None
    local = function_of(launch.target, "is_local")
    if local is not None and local(f"--{flag}", [said]):
        return None
    word = said.strip().lower()
    if word.startswith("{"):
        try:
            word = str(json.loads(said).get("kv_role", "")).lower()
        except (ValueError, AttributeError):
            word = ""
    name = _WORDS.get(word)
    return (
        None
        if name is None
        else EngineRole(name, f"--{flag}", _without(launch, flag.split("-")[0]))
    )


def _without(launch: Launch, begins: str) -> Launch:
    """The launch without the flags of a family, and their values."""
    words: list[str] = []
    lines: list[int] = []
    place = PlacedWords("", launch.lines[len(launch.before) :])
    values = False  # of a flag that is left out
    for i, word in enumerate(launch.after):
        if word.startswith("-"):
            values = re.match(rf"--{begins}[-_]", word) is not None
        if not values:
            words.append(word)
            lines.append(place.line(i))
    before = launch.lines[: len(launch.before)]
    return launch._replace(after=words, lines=(*before, *lines))


def refused_part(role: EngineRole, title: str) -> InputError:
    """That the engine does not serve by itself."""
    return InputError(
        f"{role.flag}: {title} has {role.name} of a disaggregated pair here: by itself it serves no request, and "
        "its figures would be another server's",
        field=role.flag,
        value=role.name,
        legal="`meshwise serve` with the layouts of both pools, or `meshwise plan --disaggregated`",
    )
