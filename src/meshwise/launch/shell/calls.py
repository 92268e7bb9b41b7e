"""Commands of a shell text: what they set, write and start, functions and scripts within them."""

from __future__ import annotations

import re
from abc import abstractmethod

from meshwise.launch.shell import assignments, builtins, written
from meshwise.launch.shell.builtins import QUERIES, QUIET
from meshwise.launch.shell.loops import Loops
from meshwise.launch.shell.runners.carried import Carried, carried
from meshwise.launch.shell.syntax.statements import Body, Simple
from meshwise.launch.shell.values.conditions import tested
from meshwise.launch.shell.values.memory import ShellValue, line_of
from meshwise.launch.shell.way import MAX_OF_PART, Started, Way, distinct
from meshwise.launch.shell.within import Files, Within, inner_script
from meshwise.launch.wrappers import slurm

_MAX_CALLS = 8  # of functions in functions
_BEFORE = ("time", "builtin", "exec", "command", "nohup")
_NAMED = re.compile(r"-[cl]*a")  # options of exec after which a name follows


class Calls(Loops):
    @abstractmethod
    def script(self, text: str, ways: list[Way], file: str) -> list[Way]:
        """Every way through the text of a script."""

    def simple(self, node: Simple, way: Way) -> list[Way]:
        expander = self.expander(way)
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
            assignments.declare(words, names, way.memory)
        for one in node.assignments:
            before.append(assignments.assign(one, expander))
            self._wins(one.name, way)
        if not words or node.declares:
            runs = any(p.kind == "command" for a in node.assignments for p in a.value)
            way.status = None if runs else True
            written.redirect(node.redirects, "", expander, way.files)
            return [way]
        given = written.read_by(node.redirects, expander, way.given)
        line = node.line
        replaces = words[0] == "exec" and len(words) > 1
        words = _without_exec(words) if replaces else words
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
        ways = self._started(words, lines, tuple(before), way, given)
        for each in ways if replaces else ():  # nothing of the shell is left after it
            self._end(each, "exec", line)
        return ways

    def _end(self, way: Way, word: str, line: int) -> None:
        """A word that ends the script, unless what follows is asked for too."""
        ends = word in ("exit", "exec") or (word == "return" and not self.calls)
        if ends and self.past_end:
            return
        way.halt = "exit" if word == "exec" else word
        way.ended = (word, line, "")

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
            self._end(way, program, lines[0])
            said = words[1] if len(words) > 1 else ""
            way.status = said == "0" if said.isdigit() else way.status
            return [way]
        if program in way.functions:
            return self._call(way.functions[program], words[1:], before, way, given)
        files = Files(way.files, self.beside)
        runs = None
        if program not in QUIET or program == "conda":
            runs = carried(words, given, files.any, lambda name: self._plain(name, way))
        if runs is not None:
            return self._carried(runs, lines, before, way)
        inner = inner_script(words, files, given)
        if inner is not None:
            return self._within(inner, before, way)
        if program in ("source", ".") and len(words) > 1:
            way.sourced.append(words[1])
        self._start(words, lines, before, way)
        if program in QUERIES and program not in ("read", "getopts", "let", "test"):
            way.status = None
        return [way]

    def _plain(self, name: str, way: Way) -> str | None:
        value = way.memory.get(name)
        return value if isinstance(value, str) else None

    def _carried(
        self,
        runs: list[Carried],
        lines: tuple[int, ...],
        before: tuple[tuple[str, str], ...],
        way: Way,
    ) -> list[Way]:
        """The commands that the words of another run, one after the other."""
        ways = [way]
        for run in runs:
            own = (*(() if run.alone else before), *run.environment)
            placed = tuple(line_of(w, lines[0]) for w in run.words)
            again = run._replace(environment=own)
            ways = [x for w in ways for x in self._carry(again, placed, w)]
        return distinct(ways)

    def _carry(self, run: Carried, lines: tuple[int, ...], way: Way) -> list[Way]:
        files = Files(way.files, self.beside)
        inner = inner_script(run.words, files, run.reads)
        if inner is None:
            more = carried(run.words, run.reads, files.any, lambda name: self._plain(name, way))
            if more and more[0].words != run.words:
                return self._carried(more, lines, run.environment, way)
            return self._start(run.words, lines, run.environment, way)
        if run.alone and inner.shell == "child":
            inner = inner._replace(shell="away")
        return self._within(inner, run.environment, way)

    def _start(
        self,
        words: list[str],
        lines: tuple[int, ...],
        before: tuple[tuple[str, str], ...],
        way: Way,
    ) -> list[Way]:
        if words[0].rpartition("/")[2] not in QUIET:
            started = (*way.starter, *words)
            all_lines = (*[lines[0]] * len(way.starter), *lines)
            place = len(way.memory.log)
            way.commands.append(Started(started, before, all_lines, way.file, place))
        return [way]

    def _call(
        self,
        body: Body,
        words: list[str],
        before: tuple[tuple[str, str], ...],
        way: Way,
        given: str | None,
    ) -> list[Way]:
        if self.calls > _MAX_CALLS:
            raise builtins.too_long("functions that call themselves")
        memory = way.memory
        kept = {n: memory.get(n) for n in memory.values if n == "@" or n.isdigit()}
        kept.setdefault("@", None)
        was, way.given = way.given, given
        for name, said in before:
            way.locals.append({name: memory.get(name)})
            memory.set(name, said)
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


def _without_exec(words: list[str]) -> list[str]:
    """The command that takes the shell's place: after ``exec`` and its options."""
    rest = words[1:]
    while len(rest) > 1 and rest[0].startswith("-"):
        rest = rest[2:] if _NAMED.fullmatch(rest[0]) and len(rest) > 2 else rest[1:]
    return rest


def _put(way: Way, name: str, value: ShellValue | None) -> None:
    if value is None:
        way.memory.unset(name)
    else:
        way.memory.set(name, value)
