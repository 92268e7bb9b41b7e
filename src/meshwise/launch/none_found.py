"""Texts that start no known target, and lines of flags that no command has: why, in one line."""

from __future__ import annotations

from collections.abc import Sequence

from meshwise.errors import InputError, quoted, shorten
from meshwise.launch import other_software
from meshwise.launch.find import Launch, launches, script_of
from meshwise.launch.parsed import NoLaunch
from meshwise.launch.shell.commands import Script, unset_names
from meshwise.launch.spelling.source_flags import source_flags
from meshwise.launch.table import Target
from meshwise.launch.targets import target_names
from meshwise.launch.wrappers import manifests

_STARTERS = ("srun", "mpirun", "mpiexec")


def _rest_of_launch(words: list[str], chosen: Target) -> str | None:
    """The first flag of the target in a command that starts nothing: ``srun … --seq-length 2048``."""
    if words[0].rpartition("/")[2] not in _STARTERS:
        return None
    known, source = chosen.by_spelling(), source_flags(chosen.name)
    flags = [w for w in words if w in known or (source is not None and source.get(w) is not None)]
    started = any(w.endswith((".py", ".sh")) or w in ("-m", "-c") for w in words)
    return flags[0] if len(flags) > 1 and not started and len(flags[0]) > 3 else None


def cut_short(script: Script, found: Sequence[Launch]) -> dict[int, InputError]:
    """The launches, by their places in ``found``, behind which a line of flags stands that no command
    has: the line before it does not go on. Such a line before all of them is the first's."""
    broken: dict[int, InputError] = {}
    at = -1
    for command in script.commands:
        word, own = command.words[0], launches([command], None)
        if own:
            rest = enumerate(found[at + 1 :], at + 1)
            at = next((i for i, launch in rest if launch.words == own[0].words), at)
        else:
            word = _rest_of_launch(command.words, found[max(at, 0)].target) or word
        if (
            word.startswith("--")
            and len(word) > 3
            and manifests.pod_request(command.variables) is None
        ):
            line = next((n for n in command.lines if n), 0)
            error = InputError(
                f"command: a line begins with {shorten(word)}: the line before it does not end with a "
                "backslash",
                field="command",
                value=word,
                legal="the command in one line, or \\ at the end of each that goes on",
            )
            error.line = line or None
            broken.setdefault(max(at, 0), error)
    return broken


def never_reached(script: Script, found: Sequence[Launch] = ()) -> str:
    """That a launch stands after what ends the script; empty where none does. ``found``: those before."""
    own = [x.words for x in found]
    later = [x for x in launches(list(script.unreached), None) if x.words not in own]
    if script.ended is None or not later:
        return ""
    word, line, condition = script.ended
    at = next((n for n in later[0].lines if n), 0)
    where = f" in line {at}" if at else ""
    ends = f"`{word}` in line {line}" if line else f"`{word}`"
    if condition:
        ends += f" (if {shorten(condition, 60)})"
    return f"{ends} ends the script before its launch of {later[0].target.title}{where}"


def _ended(script: Script) -> NoLaunch | None:
    said = never_reached(script)
    if not said or script.ended is None:
        return None
    word, line, condition = script.ended
    empty = [n for n in dict.fromkeys(unset_names(condition)) if not script.variables.get(n)]
    asked = ", ".join(f"`values={name}=…`" for name in empty)
    error = NoLaunch(
        f"command: {said}",
        field="command",
        value=word,
        legal=f"{asked or 'a text in which it does not'}, or the launch's command alone",
    )
    error.line = line or None
    return error


def none_found(script: Script, text: str) -> NoLaunch:
    ended = _ended(script)
    if ended is not None:
        return ended
    wrapped = next((s for c in script.commands if (s := script_of(c.words)) is not None), None)
    wrapped = wrapped or next(iter(script.sourced), None)
    other = next((o for c in script.commands if (o := other_software.of_words(c.words))), None)
    if other is not None:
        return other_software.refusal(other)
    asks = next((e for c in script.commands if (e := other_software.client(c.words))), None)
    if asks is not None:
        return asks
    own = next((s for c in script.commands if (s := _own_script(c.words)) is not None), None)
    if own is not None:
        return NoLaunch(
            f"command: {shorten(own)} is a script of its own: none of its words says a layout of a known "
            "target",
            field="command",
            value=own,
            legal="the flags or the file of a known target: " + ", ".join(target_names()),
        )
    if wrapped is not None:
        held = script.variables.get(manifests.MOUNTED, "").partition("=")
        of = f" of the ConfigMap {held[2]}" if held[2] and wrapped.startswith(held[0]) else ""
        return NoLaunch(
            f"command: what {shorten(wrapped)}{of} starts is not in the text",
            field="command",
            value=wrapped,
            legal=f"the text of {shorten(wrapped)} with its variables set before it",
        )
    return NoLaunch(
        f"command: no launch command of a known target in {quoted(text.strip()[:60])}",
        field="command",
        value=text.strip()[:80],
        legal=", ".join(target_names()),
    )


_LAUNCHERS = ("torchrun", "hyperpodrun", "torch.distributed.run", "torch.distributed.launch")


def _own_script(words: list[str]) -> str | None:
    """The script that a launcher of processes starts."""
    at = next((i for i, w in enumerate(words) if w.rpartition("/")[2] in _LAUNCHERS), None)
    rest = words[at + 1 :] if at is not None else []
    return next((w for w in rest if w.endswith(".py")), None)
