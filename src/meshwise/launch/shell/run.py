"""A shell text followed from top to bottom, without running anything: each way through its branches
has its own variables, files and commands."""

from __future__ import annotations

import re
from collections.abc import Mapping

from meshwise.errors import shorten
from meshwise.launch.shell import builtins, written
from meshwise.launch.shell.builtins import QUERIES, QUIET, too_long, unknown
from meshwise.launch.shell.expand import Expander
from meshwise.launch.shell.syntax.source import Source, not_readable
from meshwise.launch.shell.syntax.statements import (
    Both,
    Calculate,
    Case,
    Count,
    For,
    Function,
    Group,
    If,
    Not,
    Pipe,
    Simple,
    Statement,
    Test,
    Unread,
    While,
)
from meshwise.launch.shell.syntax.tree import Body, body_of
from meshwise.launch.shell.values.conditions import case_matches, holds, tested
from meshwise.launch.shell.values.memory import Text, Value, file_name, line_of, unfollowed
from meshwise.launch.shell.values.outputs import output
from meshwise.launch.shell.way import MAX_OF_PART, Started, Way, changed_is_unknown, distinct
from meshwise.launch.shell.within import Files, Within, inner_script
from meshwise.launch.wrappers import slurm

_MAX_DEPTH = 8  # of scripts in scripts, and of functions in functions
_MAX_INSIDE = 40  # of statements
MAX_TURNS = 1_000  # of a loop with a condition
MAX_STEPS = 60_000  # statements followed, those of loops each time
_ARGUMENTS = re.compile(r"\$\{?[#1@*]|getopts")
_SETS = re.compile(
    r"\b([A-Za-z_]\w*)(?:\[[^\]]*\])?\+?=|\b(?:read|mapfile|readarray|for)\s+(?:-\w+\s+)*(\w+)"
)
_BEFORE = ("time", "builtin", "exec", "command", "nohup")


def follow(
    text: str, given: Mapping[str, Value], files: Mapping[str, str], wins: Mapping[str, str]
) -> list[Way]:
    """Every way through the text, those with the same outcome once; ``given``: variables that are set
    before it begins; ``files``: those beside it; ``wins``: values for what does not follow from it."""
    run = _Run(files, wins)
    first = Way()
    for name, value in {**given, **wins}.items():
        first.memory.set(name, value)
        first.memory.exported.add(name)
    ways = run.script(text, [first], "")
    return [w for w in ways if w.commands or w.files] or ways[:1]


class _Run:
    """What all ways through a text share."""

    def __init__(self, beside: Mapping[str, str], wins: Mapping[str, str]) -> None:
        self.beside, self.wins = beside, wins
        self.steps = self.inside = self.scripts = self.calls = 0
        self.top = True  # no shell around it but its own: an exit ends the way

    def script(self, text: str, ways: list[Way], file: str) -> list[Way]:
        if self.scripts > _MAX_DEPTH:
            raise too_long(f"more than {_MAX_DEPTH} scripts inside each other")
        lines = text.line_at if isinstance(text, Text) and not file and len(text.marks) else None
        before = [way.file for way in ways]
        for way in ways:
            way.file = file or way.file
        self.scripts += 1
        ways = self.body(body_of(Source(text.replace("\r\n", "\n"), file, 1, lines)), ways)
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
                after += [way] if way.halt else self.step(node, way)
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
            return self._simple(node, way)
        if isinstance(node, Test):
            way.status = holds(node, self._expander(way))
        elif isinstance(node, Calculate):
            text = str(self._expander(way).text(node.pieces))
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
        elif isinstance(node, Group):
            return self._group(node, way)
        elif isinstance(node, If):
            return self._if(node, way)
        elif isinstance(node, Case):
            return self._case(node, way)
        else:
            return self._loop(node, way)
        return [way]

    def _expander(self, way: Way) -> Expander:
        return Expander(way.memory, {**self.beside, **way.files} if self.beside else way.files)

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
        found: list[Way] = []
        for each in self.body(node.left, [way]):
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
            expander = self._expander(way)
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

    def _group(self, node: Group, way: Way) -> list[Way]:
        before = way.given
        expander = self._expander(way)
        for redirect in node.redirects:
            if redirect.body is not None:
                way.given = str(expander.text(redirect.body))
            elif redirect.operator == "<" and redirect.target is not None:
                way.given = expander.files.get(file_name(str(expander.text(redirect.target))))
        said = written.printed_by(node, expander)
        ways = self._own(node.body, [way]) if node.own else self.body(node.body, [way])
        for each in ways:
            each.given = before
            written.redirect(node.redirects, said, self._expander(each), each.files)
            each.status = True if node.own and not each.halt else each.status
        return ways

    # branches and loops

    def _if(self, node: If, way: Way) -> list[Way]:
        found: list[Way] = []
        left = [way]
        for condition, body in node.ways:
            undecided: list[Way] = []
            for each in self.body(condition, left):
                if each.halt or each.status is False:
                    (found if each.halt else undecided).append(each)
                    continue
                if each.status is None:
                    undecided.append(each.copy())
                    each.conditions = (*each.conditions, f"if {shorten(condition.text, 60)}")
                found += self.body(body, [each])
            left = undecided
        for each in left:
            if found:
                each.conditions = (*each.conditions, "else")
            each.status = True
            found += self.body(node.otherwise, [each]) if node.otherwise is not None else [each]
        return distinct(self._without_ended(found))

    def _case(self, node: Case, way: Way) -> list[Way]:
        found: list[Way] = []
        left: Way | None = way
        text = str(self._expander(way).text(node.subject))
        for i, item in enumerate(node.items):
            if left is None:
                break
            fits = case_matches(text, item.patterns, self._expander(left))
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

    def _loop(self, node: For | While | Count, way: Way) -> list[Way]:
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
        expander = self._expander(way)
        if node.words is None:
            given = way.memory.get("@")
            values = list(given) if isinstance(given, tuple) else ["$@"]
        else:
            values = [f for w in node.words for f in expander.fields(w)]
        before = dict(way.memory.values)
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
        if any("$" in v and _loose(v) for v in values):
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
        while True:
            rows = way.given
            ways = self.body(node.condition, [way])
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

    def _once(self, node: While | Count, ways: list[Way], before: dict[str, Value]) -> list[Way]:
        """A loop of which is not known how often it runs."""
        return self._after(node, [x for w in ways for x in self._turn(node.body, w)], before)

    def _after(self, node: While | Count, ways: list[Way], before: dict[str, Value]) -> list[Way]:
        for each in ways:
            if each.halt in ("", "break", "continue"):
                changed_is_unknown(each, before, f"the loop in line {node.line}")
        return distinct(ways, MAX_OF_PART)

    def _count(self, node: Count, way: Way) -> list[Way]:
        what = f"the loop in line {node.line}"
        before = dict(way.memory.values)

        def calculate(at: int) -> bool | None:
            text = str(self._expander(way).text(node.parts[at]))
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

    # commands

    def _simple(self, node: Simple, way: Way) -> list[Way]:
        expander = self._expander(way)
        before: list[tuple[str, str]] = []
        words = [f for w in node.words for f in expander.fields(w)]
        passing = bool(words) and not node.declares
        kept = {a.name: way.memory.get(a.name) for a in node.assignments} if passing else {}
        local = node.declares and words[:1] != ["export"] and words[:1] != ["readonly"]
        names = [a.name for a in node.assignments]
        if node.declares:
            names += [w for w in words[1:] if w.isidentifier()]
            if local and way.locals and "-g" not in words:
                for name in names:
                    way.locals[-1].setdefault(name, way.memory.get(name))
                    if words[0] == "local" and name not in [a.name for a in node.assignments]:
                        way.memory.set(name, "")
            builtins.declare(words, names, way.memory)
        for assignment in node.assignments:
            before.append(builtins.assign(assignment, expander))
            self._wins(assignment.name, way)
        if not words or node.declares:
            runs = any(p.kind == "command" for a in node.assignments for p in a.value)
            way.status = None if runs else True
            written.redirect(node.redirects, "", expander, way.files)
            return [way]
        given = written.read_by(node.redirects, expander, way.given)
        line = node.line
        while words and words[0] in _BEFORE and len(words) > 1 and not words[1].startswith("-"):
            words = words[1:]
        status = (
            builtins.perform(words, line, given, expander)
            if words[0] in QUIET or words[0] == "let"
            else True
        )
        if words[0] in ("test",):
            status = tested(words[1:], expander)
        for name in kept:  # for one command only
            value = kept[name]
            if value is None:
                way.memory.unset(name)
            else:
                way.memory.set(name, value)
        for name in self.wins:
            self._wins(name, way)
        written.follow_files(words, node.redirects, given, expander, way.files)
        way.status = status
        lines = tuple(line_of(w, line) for w in words)
        return self._started(words, lines, tuple(before), way, given)

    def _wins(self, name: str, way: Way) -> None:
        value = way.memory.get(name)
        if name in self.wins and isinstance(value, str) and value.startswith("${" + name + "!"):
            way.memory.set(name, self.wins[name])

    def _started(
        self,
        words: list[str],
        lines: tuple[int, ...],
        before: tuple[tuple[str, str], ...],
        way: Way,
        given: str | None,
    ) -> list[Way]:
        """What a command starts; ``given``: what it reads."""
        program = words[0].rpartition("/")[2]
        if program in ("exit", "return", "break", "continue"):
            way.halt = program
            said = words[1] if len(words) > 1 else ""
            way.status = said == "0" if said.isdigit() else way.status
            return [way]
        if program in way.functions:
            return self._call(way.functions[program], words[1:], before, way, given)
        inner = inner_script(words, Files(way.files, self.beside), given)
        if inner is not None:
            return self._within(inner, before, way)
        if program in ("source", ".") and len(words) > 1:
            way.sourced.append(words[1])
        if program not in QUIET:
            started = (*way.starter, *words)
            all_lines = (*[lines[0]] * len(way.starter), *lines)
            place = len(way.memory.log)
            way.commands.append(Started(started, before, all_lines, way.file, place))
        if program in QUERIES and program not in ("read", "getopts", "let", "test"):
            way.status = None
        return [way]

    def _call(
        self,
        body: Body,
        words: list[str],
        before: tuple[tuple[str, str], ...],
        way: Way,
        given: str | None,
    ) -> list[Way]:
        if self.calls > _MAX_DEPTH:
            raise too_long("functions that call themselves")
        memory = way.memory
        kept = {n: memory.get(n) for n in memory.values if n == "@" or n.isdigit()}
        kept.setdefault("@", None)
        was, way.given = way.given, given
        for name, value in before:
            way.locals.append({name: memory.get(name)})
            memory.set(name, value)
        builtins.arguments(memory, tuple(words))
        way.locals.append({})
        self.calls += 1
        ways = self.body(body, [way])
        self.calls -= 1
        for each in ways:
            for _ in range(1 + len(before)):
                for name, value in each.locals.pop().items():
                    _put(each, name, value)
            for name in [n for n in each.memory.values if n.isdigit()]:
                each.memory.unset(name)
            for name, value in kept.items():
                _put(each, name, value)
            each.given = was
            each.halt = "" if each.halt == "return" else each.halt
        return distinct(ways, MAX_OF_PART)

    def _within(self, inner: Within, before: tuple[tuple[str, str], ...], way: Way) -> list[Way]:
        """A script in a command: it has its own arguments, and is started by what starts its shell. Only
        ``eval`` and ``source`` set variables of the shell that they are in."""
        memory, starter = way.memory, way.starter
        way.starter = (*starter, *inner.starter)
        if inner.shell == "same":
            kept = {n: v for n, v in memory.values.items() if n == "@" or n.isdigit()}
            if inner.words is not None:
                builtins.arguments(memory, tuple(inner.words))
            ways = self.script(inner.text, [way], inner.file)
            for each in ways:
                each.starter = starter
                if inner.words is not None:
                    builtins.arguments(each.memory, ())
                    each.memory.unset("@")
                    for name, value in kept.items():
                        each.memory.set(name, value)
                if inner.file and each.halt == "return":
                    each.halt = ""
            return ways
        values, functions = dict(memory.values), dict(way.functions)
        exported, batch = set(memory.exported), slurm.script_request(inner.text)
        way.batches.append(inner.text)
        asked = slurm.command_request(list(inner.starter)).over(batch)
        own = memory.environment() if inner.shell == "child" else {}
        way.functions = {}
        memory.restore({**own, **dict(before), **slurm.variables(asked)})
        memory.exported |= {n for n, _ in before} | set(slurm.variables(asked))
        builtins.arguments(memory, tuple(inner.words or ()))
        if inner.file or inner.name:
            memory.set("0", inner.file or inner.name)
        top, self.top = self.top, False
        ways = self.script(inner.text, [way], inner.file)
        self.top = top
        for each in ways:
            each.starter, each.halt, each.functions = starter, "", dict(functions)
            each.memory.restore(values)
            each.memory.exported = set(exported)
            each.status = True
        return ways


def _put(way: Way, name: str, value: Value | None) -> None:
    if value is None:
        way.memory.unset(name)
    else:
        way.memory.set(name, value)


def _loose(value: str) -> bool:
    """Whether a word of a loop may be several: it has nothing but what is not known."""
    return re.sub(r"\$\{[^{}]*\}|\$\w+|\$\(.*\)|\$[@*#?!$-]", "", value, flags=re.DOTALL) == ""
