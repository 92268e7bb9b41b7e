"""A shell text followed from top to bottom, without running anything: each way through its branches
has its own variables, files and commands."""

from __future__ import annotations

import re
from collections.abc import Mapping

from meshwise.errors import shorten
from meshwise.launch.shell import builtins, written
from meshwise.launch.shell.builtins import too_long, unknown
from meshwise.launch.shell.calls import Calls
from meshwise.launch.shell.syntax.source import ScriptSource, not_readable
from meshwise.launch.shell.syntax.statements import (
    Body,
    Both,
    Calculate,
    CaseStatement,
    Function,
    GroupStatement,
    If,
    Not,
    Pipe,
    Simple,
    Statement,
    Test,
    Unread,
)
from meshwise.launch.shell.syntax.tree import body_of
from meshwise.launch.shell.values.conditions import case_matches, holds
from meshwise.launch.shell.values.memory import ShellValue, Text, file_name
from meshwise.launch.shell.values.outputs import output
from meshwise.launch.shell.way import Way, distinct

_MAX_DEPTH = 8  # of scripts in scripts
_MAX_INSIDE = 40  # of statements
MAX_STEPS = 60_000  # statements followed, those of loops each time
_SETS = re.compile(
    r"\b([A-Za-z_]\w*)(?:\[[^\]]*\])?\+?=|\b(?:read|mapfile|readarray|for)\s+(?:-\w+\s+)*(\w+)"
)


def follow(
    text: str,
    given: Mapping[str, ShellValue],
    files: Mapping[str, str],
    wins: Mapping[str, str],
    *,
    past_end: bool = False,
) -> list[Way]:
    """Every way through the text, those with the same outcome once; ``given``: variables that are set
    before it begins; ``files``: those beside it; ``wins``: values for what does not follow from it;
    ``past_end``: as if no command ended the script, for what it would have started."""
    run = _Run(files, wins, past_end)
    first = Way()
    for name, value in {**given, **wins}.items():
        first.memory.set(name, value)
        first.memory.exported.add(name)
    ways = run.script(text, [first], "")
    return [w for w in ways if w.commands or w.files] or ways[:1]


def _because(way: Way, condition: str) -> Way:
    """A way that ends in a branch, with the innermost condition of it."""
    if way.halt and not way.ended[2]:
        way.ended = (*way.ended[:2], condition)
    return way


def _halted(way: Way) -> Way:
    way.left_out = True
    return way


class _Run(Calls):
    """What all ways through a text share."""

    def script(self, text: str, ways: list[Way], file: str) -> list[Way]:
        if self.scripts > _MAX_DEPTH:
            raise too_long(f"more than {_MAX_DEPTH} scripts inside each other")
        lines = text.line_at if isinstance(text, Text) and not file and len(text.marks) else None
        before = [way.file for way in ways]
        for way in ways:
            way.file = file or way.file
        self.scripts += 1
        ways = self.body(body_of(ScriptSource(text.replace("\r\n", "\n"), file, 1, lines)), ways)
        self.scripts -= 1
        for way in ways:
            way.file = before[0] if before else ""
        return ways

    def body(self, body: Body, ways: list[Way]) -> list[Way]:
        self.inside += 1
        if self.inside > _MAX_INSIDE:
            raise too_long(f"more than {_MAX_INSIDE} statements inside each other")
        for node in body:
            after: list[Way] = []
            for way in ways:
                after += [_halted(way)] if way.halt else self.step(node, way)
            if len(after) > 1 and not isinstance(node, (Test, Calculate, Function)):
                after = distinct(self._without_ended(after))
            ways = after
        self.inside -= 1
        return ways

    def _without_ended(self, ways: list[Way]) -> list[Way]:
        """Ways that end without having started anything are of no interest where another goes on."""
        if not self.top:
            return ways
        left = [w for w in ways if w.halt != "exit" or w.commands or w.files]
        return left or ways

    def step(self, node: Statement, way: Way) -> list[Way]:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise too_long(f"more than {MAX_STEPS:,} statements to follow")
        if isinstance(node, Simple):
            return self.simple(node, way)
        if isinstance(node, Test):
            way.status = holds(node, self.expander(way))
        elif isinstance(node, Calculate):
            text = str(self.expander(way).text(node.pieces))
            way.status = builtins.calculate(text, f"((…)) in line {node.line}", way.memory)
        elif isinstance(node, Function):
            way.functions[node.name] = node.body
            way.status = True
        elif isinstance(node, Not):
            ways = self.body(node.body, [way])
            for each in ways:
                each.status = None if each.status is None else not each.status
            return ways
        elif isinstance(node, Unread):
            self._unread(node, way)
        elif isinstance(node, Both):
            return self._both(node, way)
        elif isinstance(node, Pipe):
            return self._pipe(node, way)
        elif isinstance(node, GroupStatement):
            return self._group(node, way)
        elif isinstance(node, If):
            return self._if(node, way)
        elif isinstance(node, CaseStatement):
            return self._case(node, way)
        else:
            return self.loop(node, way)
        return [way]

    def _unread(self, node: Unread, way: Way) -> None:
        from meshwise.launch.find import may_start  # it reads commands, which come from here

        if "<<" in node.text:
            where = "an array" if "=(" in node.text else "what is not readable"
            raise not_readable(f"a here-document in {where}", node.file, node.line, node.text)
        if may_start(node.text):
            raise not_readable("not readable", node.file, node.line, node.text)
        for match in _SETS.finditer(node.text):
            name = match[1] or match[2]
            unknown(way.memory, name, f"line {node.line} (not readable)")
            way.memory.exported.add(name)
        way.status = None

    # several commands

    def _both(self, node: Both, way: Way) -> list[Way]:
        chain = [node]  # a long list is one on the left of another, as deep as it is long
        while isinstance(first := next(iter(chain[-1].left), None), Both):
            chain.append(first)
        ways = self.body(chain[-1].left, [way])
        for each in reversed(chain):
            ways = self._second(each, ways)
        return ways

    def _second(self, node: Both, ways: list[Way]) -> list[Way]:
        """The right side of a list, where the left one's outcome asks for it."""
        found: list[Way] = []
        for each in ways:
            wanted = node.operator == "&&"
            if each.halt or each.status is (not wanted):
                found.append(each)
                continue
            if each.status is None:
                other = each.copy()
                shown = shorten(node.left.text, 60)
                other.conditions = (*each.conditions, f"{'not ' if wanted else ''}{shown}")
                each.conditions = (*each.conditions, f"{'' if wanted else 'not '}{shown}")
                other.status = not wanted
                found.append(other)
            found += self.body(node.right, [each])
        return distinct(self._without_ended(found))

    def _pipe(self, node: Pipe, way: Way) -> list[Way]:
        ways = [way]
        given: str | None = None
        for i, part in enumerate(node.parts):
            expander = self.expander(way)
            first = None
            if i < len(node.parts) - 1 and (i == 0 or given is not None):
                first = output(Body(part.source, (), tuple(part)), expander, given or "")
            for each in ways:
                each.given = given
            ways = self._own(part, ways)
            given = first
        for each in ways:
            each.given = None
        return ways

    def _own(self, body: Body, ways: list[Way]) -> list[Way]:
        """In a shell of its own: what it started and wrote stays, its variables do not."""
        found: list[Way] = []
        top, self.top = self.top, False
        for way in ways:
            values, functions = dict(way.memory.values), dict(way.functions)
            exported, tables = set(way.memory.exported), set(way.memory.tables)
            for each in self.body(body, [way]):
                each.memory.restore(values)
                each.memory.exported, each.memory.tables = set(exported), set(tables)
                each.functions = dict(functions)
                each.halt = ""
                found.append(each)
        self.top = top
        return found

    def _group(self, node: GroupStatement, way: Way) -> list[Way]:
        before = way.given
        expander = self.expander(way)
        for redirect in node.redirects:
            if redirect.body is not None:
                way.given = str(expander.text(redirect.body))
            elif redirect.operator == "<" and redirect.target is not None:
                way.given = expander.files.get(file_name(str(expander.text(redirect.target))))
        said = written.printed_by(node, expander)
        ways = self._own(node.body, [way]) if node.own else self.body(node.body, [way])
        for each in ways:
            each.given = before
            written.redirect(node.redirects, said, self.expander(each), each.files)
            each.status = True if node.own and not each.halt else each.status
        return ways

    # branches and loops

    def _if(self, node: If, way: Way) -> list[Way]:
        found: list[Way] = []
        left = [way]
        for condition, body in node.ways:
            undecided: list[Way] = []
            before = [len(way.commands) for way in left]
            for each in self.body(condition, left):
                if each.status and len(each.commands) > min(before, default=0):
                    each.status = None  # how a program ends is its own
                if each.halt or each.status is False:
                    (found if each.halt else undecided).append(each)
                    continue
                if each.status is None:
                    undecided.append(each.copy())
                    each.conditions = (*each.conditions, f"if {shorten(condition.text, 60)}")
                found += [_because(w, condition.text) for w in self.body(body, [each])]
            left = undecided
        for each in left:
            if found:
                each.conditions = (*each.conditions, "else")
            each.status = True
            found += self.body(node.otherwise, [each]) if node.otherwise is not None else [each]
        return distinct(self._without_ended(found))

    def _case(self, node: CaseStatement, way: Way) -> list[Way]:
        found: list[Way] = []
        left: Way | None = way
        text = str(self.expander(way).text(node.subject))
        for i, item in enumerate(node.items):
            if left is None:
                break
            fits = case_matches(text, item.patterns, self.expander(left))
            if fits is False:
                continue
            taken, left = (left, None) if fits else (left.copy(), left)
            if not fits or found:
                shown = " | ".join("".join(p.text for p in w.pieces) for w in item.patterns)
                taken.conditions = (*taken.conditions, f"case {node.text} in {shown}")
            ways = self.body(item.body, [taken])
            after = i
            while node.items[after].goes_on and after + 1 < len(node.items):
                after += 1
                ways = [
                    x
                    for w in ways
                    for x in ([w] if w.halt else self.body(node.items[after].body, [w]))
                ]
            found += ways
        if left is not None:
            if found:
                left.conditions = (*left.conditions, "else")
            found.append(left)
        return distinct(self._without_ended(found))
