"""Loops of a shell text, as often as it says that they run."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping

from meshwise.launch.shell import builtins
from meshwise.launch.shell.expand import Expander
from meshwise.launch.shell.syntax.statements import Body, Count, For, While
from meshwise.launch.shell.values.memory import ShellValue, unfollowed
from meshwise.launch.shell.way import MAX_OF_PART, Way, changed_is_unknown, distinct

MAX_TURNS = 1_000  # of a loop with a condition
_READS = re.compile(r"(?:\w+=\S*\s+)*read\b")
_ARGUMENTS = re.compile(r"\$\{?[#1@*]|getopts")


class Loops(ABC):
    """What all ways through a text share."""

    def __init__(
        self, beside: Mapping[str, str], wins: Mapping[str, str], past_end: bool = False
    ) -> None:
        self.beside, self.wins = beside, wins
        self.past_end = past_end  # no command ends the script
        self.steps = self.inside = self.scripts = self.calls = 0
        self.top = True  # no shell around it but its own: an exit ends the way

    @abstractmethod
    def body(self, body: Body, ways: list[Way]) -> list[Way]:
        """Every way through statements."""

    def expander(self, way: Way) -> Expander:
        return Expander(way.memory, {**self.beside, **way.files} if self.beside else way.files)

    def loop(self, node: For | While | Count, way: Way) -> list[Way]:
        if isinstance(node, For):
            ways = self._for(node, way)
        elif isinstance(node, Count):
            ways = self._count(node, way)
        else:
            ways = self._while(node, way)
        for each in ways:
            if each.halt in ("break", "continue"):
                each.halt = ""
        return ways

    def _for(self, node: For, way: Way) -> list[Way]:
        expander = self.expander(way)
        if node.words is None:
            given = way.memory.get("@")
            values = list(given) if isinstance(given, tuple) else ["$@"]
        else:
            values = [f for w in node.words for f in expander.fields(w)]
        loose = any("$" in v and _loose(v) for v in values)
        before = dict(way.memory.values) if loose else {}
        ways = [way]
        for value in values:
            for each in ways:
                if not each.halt:
                    open_ = "$" in value and _loose(value)
                    each.memory.set(node.name, unfollowed(node.name) if open_ else value)
            ways = [
                x for w in ways for x in ([w] if w.halt == "break" else self._turn(node.body, w))
            ]
            ways = distinct(ways, MAX_OF_PART)
        if loose:
            for each in ways:
                changed_is_unknown(each, before, f"the loop in line {node.line}")
        return ways

    def _turn(self, body: Body, way: Way) -> list[Way]:
        if way.halt:
            return [way]
        ways = self.body(body, [way])
        for each in ways:
            if each.halt == "continue":
                each.halt = ""
        return ways

    def _while(self, node: While, way: Way) -> list[Way]:
        turns = 0
        before = dict(way.memory.values)
        reads = _READS.match(node.condition.text.strip()) is not None and not node.until
        while True:
            rows = way.given
            if reads and rows == "":
                return [way]
            ways = self.body(node.condition, [way])
            if (
                reads and rows is not None
            ):  # a turn for each line, whether or not its words are known
                for each in ways:
                    each.given = rows.partition("\n")[2]
                    each.status = True if each.status is None else each.status
            if len(ways) != 1:
                return self._once(node, ways, before)
            way = ways[0]
            if way.halt or way.status is node.until:
                return [way]
            if way.status is None:
                absent = not isinstance(way.memory.get("@"), tuple)
                if absent and _ARGUMENTS.search(node.condition.text):
                    return [way]  # the text as it is run without arguments
                return self._once(node, [way], before)
            values, written_files = dict(way.memory.values), dict(way.files)
            turns += 1
            turn = self._turn(node.body, way)
            if len(turn) != 1:
                return self._after(node, turn, before)
            way = turn[0]
            if way.halt:
                return [way]
            if way.given == rows and way.memory.values == values and way.files == written_files:
                return [way]  # it ends by what is outside the text
            if turns > MAX_TURNS:
                return self._after(node, [way], before)

    def _once(
        self, node: While | Count, ways: list[Way], before: dict[str, ShellValue]
    ) -> list[Way]:
        """A loop of which is not known how often it runs."""
        return self._after(node, [x for w in ways for x in self._turn(node.body, w)], before)

    def _after(
        self, node: While | Count, ways: list[Way], before: dict[str, ShellValue]
    ) -> list[Way]:
        for each in ways:
            if each.halt in ("", "break", "continue"):
                changed_is_unknown(each, before, f"the loop in line {node.line}")
        return distinct(ways, MAX_OF_PART)

    def _count(self, node: Count, way: Way) -> list[Way]:
        what = f"the loop in line {node.line}"
        before = dict(way.memory.values)

        def calculate(at: int) -> bool | None:
            text = str(self.expander(way).text(node.parts[at]))
            done = [builtins.calculate(t, what, way.memory) for t in [text] if t.strip()]
            return done[-1] if done else True

        calculate(0)
        for _ in range(MAX_TURNS):
            status = calculate(1)
            if status is False or way.halt:
                return [way]
            if status is None:
                return self._once(node, [way], before)
            turn = self._turn(node.body, way)
            if len(turn) != 1:
                return self._after(node, turn, before)
            way = turn[0]
            if way.halt:
                return [way]
            calculate(2)
        return self._after(node, [way], before)


def _loose(value: str) -> bool:
    """Whether a word of a loop may be several: it has nothing but what is not known."""
    return re.sub(r"\$\{[^{}]*\}|\$\w+|\$\(.*\)|\$[@*#?!$-]", "", value, flags=re.DOTALL) == ""
