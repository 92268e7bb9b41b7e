"""Texts that start no known target, and lines of flags that no command has: why, in one line."""

from __future__ import annotations

from collections.abc import Sequence

from meshwise.errors import InputError, quoted, shorten
from meshwise.launch import other_software
from meshwise.launch.find import Launch, launches, script_of
from meshwise.launch.parsed import NoLaunch
from meshwise.launch.shell.commands import Script
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


def none_found(script: Script, text: str) -> NoLaunch:
    wrapped = next((s for c in script.commands if (s := script_of(c.words)) is not None), None)
    wrapped = wrapped or next(iter(script.sourced), None)
    other = next((o for c in script.commands if (o := other_software.of_words(c.words))), None)
    if other is not None:
        return other_software.refusal(other)
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
        return NoLaunch(
            f"command: what {shorten(wrapped)} starts is not in the text",
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
