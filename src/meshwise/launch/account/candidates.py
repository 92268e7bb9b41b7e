"""The launches of a text: one that all of its commands and branches agree on, or all of them listed, of
which the caller chooses one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from meshwise.errors import InputError, MeshwiseError, shorten
from meshwise.launch.account.questions import OpenValue, Unanswered

_SHOWN = 12  # commands that a sentence names


class LaunchCandidate(NamedTuple):
    """A launch with what it was read as, or why it was not.

    ``conditions``: under which it runs, none where it always does; ``role``: prefill or decode of a
    disaggregated pair; ``names``: by which it may be chosen.
    """

    program: str
    target: str
    line: int
    read: Any  # a Parsed
    error: MeshwiseError | None
    conditions: tuple[str, ...] = ()
    role: str = ""
    names: tuple[str, ...] = ()

    def same(self, other: LaunchCandidate) -> bool:
        """Whether it comes to the same: one job, or one refusal of one command."""
        if (self.target, self.role) != (other.target, other.role):
            return False
        if self.read is not None and other.read is not None:
            alike = sizes_aside(self.read) == sizes_aside(other.read)
            return bool(self.read.job == other.read.job) and alike
        return (
            self.error is not None
            and other.error is not None
            and (self.error.message == other.error.message)
        )

    @property
    def words(self) -> str:
        """What it starts, in a few words."""
        shown = [f"line {self.line}"] if self.line else []
        if self.conditions:
            shown.append(shorten(self.conditions[-1], 60))
        shown.append(self.program)
        if self.role:
            shown.append(f"{self.role} of a disaggregated pair")
        if self.read is None:
            assert self.error is not None
            return f"{', '.join(shown)}: not read: {shorten(self.error.sentence, 120)}"
        model = self.read.job.model or "a model that it does not name"
        return f"{', '.join(shown)}: {model}, {self.read.job.words}"

    def to_dict(self, number: int) -> dict[str, Any]:
        job = None if self.read is None else self.read.job
        return {
            "number": number,
            "line": self.line or None,
            "program": self.program,
            "target": self.target,
            "model": None if job is None else job.model or None,
            "layout": None if job is None else job.words,
            "gpus": None if job is None else job.gpus,
            "role": self.role or None,
            "conditions": list(self.conditions),
            "error": None if self.error is None else self.error.sentence,
        }


class SeveralCommands(InputError):
    """A text with several launches of which none was chosen."""

    def __init__(
        self, found: Sequence[LaunchCandidate], message: str, field: str, **more: Any
    ) -> None:
        self.found = tuple(found)
        self.asked = tuple(open_questions(self.found))
        super().__init__(message, field=field, **more)

    def also(self, more: Sequence[OpenValue]) -> SeveralCommands:
        """With questions about what any of them runs: the next call can answer all at once."""
        self.asked = (*self.asked, *more)
        self.legal = ", ".join([str(self.legal), *(q.answer for q in more)])
        return self

    def to_dict(self) -> dict[str, Any]:
        found = super().to_dict()
        found["error"]["commands"] = [c.to_dict(i) for i, c in enumerate(self.found, 1)]
        found["error"]["asked"] = [q.to_dict() for q in self.asked]
        return found


def open_questions(found: Sequence[LaunchCandidate]) -> list[OpenValue]:
    """What the candidates' commands leave open."""
    return [q for c in found if isinstance(c.error, Unanswered) for q in c.error.questions]


def merged(ways: Sequence[Sequence[LaunchCandidate]]) -> list[LaunchCandidate]:
    """The candidates of all ways through a text, those that come to the same once; one of every way has
    no condition."""
    found: list[LaunchCandidate] = []
    many: list[int] = []
    for way in ways:
        for one in way:
            at = next((i for i, other in enumerate(found) if other.same(one)), None)
            if at is None:
                found.append(one)
                many.append(1)
            else:
                many[at] += 1
    return [
        c._replace(conditions=()) if n >= len(ways) else c for c, n in zip(found, many, strict=True)
    ]


def chosen(found: Sequence[LaunchCandidate], which: str | int | None) -> LaunchCandidate:
    """The only one, or that of the caller's choice; raise with all of them where that is open."""
    if which is not None:
        return _picked(found, str(which).strip())
    if len(found) == 1:
        return found[0]
    apart = all(c.conditions for c in found)
    pair = {c.role for c in found} >= {"prefill", "decode"}
    what = f"the text starts {len(found)} commands"
    if apart:
        what = "which branch runs is not known"
    elif pair:
        what += ", prefill and decode of a disaggregated pair among them"
    asked = open_questions(found)
    unset = list(dict.fromkeys(q.answer for q in asked))
    raise SeveralCommands(
        found,
        f"command: {what} ({_listed(found)})",
        "command",
        value=found[0].conditions[-1] if apart else None,
        legal=", ".join([f"`which=N`, 1 to {len(found)}", *unset]),
    )


def _picked(found: Sequence[LaunchCandidate], which: str) -> LaunchCandidate:
    """By its number or its name."""
    if which.isascii() and which.isdigit():
        if 1 <= int(which) <= len(found):
            return found[int(which) - 1]
        least = f"which={which}: the text starts {len(found)} command{'s' * (len(found) > 1)}"
        raise SeveralCommands(
            found,
            f"{least} ({_listed(found)})",
            "which",
            value=int(which),
            legal=f"1 to {len(found)}" if len(found) > 1 else "1, or no `which`",
            nearest=max(1, min(int(which), len(found))),
        )
    own = [c for c in found if which in c.names]
    if len(own) == 1:
        return own[0]
    named = dict.fromkeys(n for c in found for n in c.names)
    why = "names no command of the text" if not own else f"names {len(own)} of the text's commands"
    raise SeveralCommands(
        found,
        f"which={shorten(which)}: {why} ({_listed(found)})",
        "which",
        value=which,
        legal=", ".join([f"1 to {len(found)}", *map(shorten, named)]),
    )


def _listed(found: Sequence[LaunchCandidate]) -> str:
    listed = [f"{i}: {c.words}" for i, c in enumerate(found[:_SHOWN], 1)]
    if len(found) > _SHOWN:
        listed.append(f"{len(found) - _SHOWN} more")
    return "; ".join(listed)


_SIZE = re.compile(r"batch|seq|accum|length|micro", re.IGNORECASE)


def sizes_aside(read: Any) -> list[str]:
    """Of a Parsed the options of a script's own that are left aside and whose names speak of a batch or of a length."""
    return [word for word in read.ignored if _SIZE.search(word.partition(" ")[0])]
