"""What a text leaves open and an answer needs: all of it is asked for in one message, each with its name,
where it is used and the option that gives it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from meshwise.errors import InputError, list_in_words, shorten

VALUES, FILES = "values", "files"  # fields that give a variable's value, and a file's text
_SHOWN = 12  # questions that a sentence names


class OpenValue(NamedTuple):
    """A value that is not in the text. ``option``: the field that gives it (``values``: by its name);
    ``used``: the flag or the word that needs it; ``why``: what keeps it from being known, a condition or
    a sum of the names ``of``; ``said``: the sentence where nothing else is open."""

    name: str
    used: str
    option: str = VALUES
    line: int = 0
    file: str = ""
    why: str = ""
    example: str = "…"
    said: str = ""
    of: tuple[str, ...] = ()

    @property
    def answer(self) -> str:
        """What gives it: the option with the value's place, marked as a field."""
        name = self.name.lstrip("$")
        if self.option == FILES:
            return f"the text of {shorten(self.name)}, given beside it"
        return f"`values={name}=…`" if self.option == VALUES else f"`{self.option}={self.example}`"

    @property
    def words(self) -> str:
        """The name, and where it is used."""
        where = [self.used] if self.used and self.used != self.name else []
        where += [f"{self.file} line {self.line}".strip()] if self.line else []
        shown = f"{self.name} ({', '.join(where)})" if where else self.name
        return f"{shown}{self.why}"

    def to_dict(self) -> dict[str, Any]:
        """The question in JSON; ``option`` is the field's name."""
        return {
            "name": self.name,
            "used": self.used or None,
            "file": self.file or None,
            "line": self.line or None,
            "option": self.option,
        }


class Unanswered(InputError):
    """Values that are needed and not in the text; ``phase``, ``model`` (empty: the command
    names none; None: that is not known) and the settings that are ``said`` of the command, as far as they
    are known."""

    def __init__(
        self,
        questions: Iterable[OpenValue],
        phase: str = "",
        model: str | None = None,
        said: Iterable[str] = (),
    ) -> None:
        self.questions = tuple(_distinct(questions))
        self.phase, self.model, self.said = phase, model, frozenset(said)
        first, *others = self.questions
        named_by_use = first.option in (VALUES, FILES)
        field = (first.used or "command") if named_by_use else first.option
        legal = ", ".join(q.answer for q in self.questions)
        if not others:
            alone = _alone(first)
            message = alone if alone.startswith(f"{field}: ") else f"{field}: {alone}"
        elif all(q.option not in (VALUES, FILES) and not q.said for q in self.questions):
            names = list_in_words([field, *(f"`{q.option}`" for q in others)])
            why = "".join(q.why for q in self.questions)
            message = f"{names}: missing: the command does not say them{why}"
            examples = ", ".join(f"{q.option}={q.example}" for q in self.questions)
            legal = f"for example `{examples}`"
        else:
            named = [q.words for q in self.questions[:_SHOWN]]
            if len(self.questions) > _SHOWN:
                named.append(f"{len(self.questions) - _SHOWN} more")
            many = len(self.questions)
            message = f"{field}: {many} values are not set in the text: {list_in_words(named)}"
        super().__init__(
            message, field=field, value=first.name if named_by_use else None, legal=legal
        )
        if first.line:
            self.line, self.file = first.line, first.file

    def to_dict(self) -> dict[str, Any]:
        found = super().to_dict()
        found["error"]["asked"] = [q.to_dict() for q in self.questions]
        return found

    def also(self, more: Sequence[OpenValue]) -> Unanswered:
        """With further questions behind these."""
        whole = Unanswered((*self.questions, *more), self.phase, self.model, self.said)
        whole.line, whole.file = self.line, self.file
        return whole


def of_their_own(questions: Iterable[OpenValue], variables: Mapping[str, str]) -> list[OpenValue]:
    """Questions about values that follow from others as those about these others."""
    found: list[OpenValue] = []
    for q in questions:
        own = [n for n in q.of if f"${n}" != q.name and variables.get(n, "$").startswith("$")]
        found += [q._replace(name=f"${n}", why="", of=()) for n in own] or [q]
    return found


def _alone(q: OpenValue) -> str:
    if q.said:
        return q.said
    if q.option == VALUES:
        holds = ", and may hold the layout" if q.used == "command" else ""
        return f"{shorten(q.name)} is not set in the text{holds}{q.why}"
    return f"missing: the command does not say it{q.why}"


def _distinct(questions: Iterable[OpenValue]) -> list[OpenValue]:
    """Each value once, where it is used first."""
    found: dict[tuple[str, str], OpenValue] = {}
    for q in questions:
        found.setdefault((q.option, q.name), q)
    return list(found.values())
