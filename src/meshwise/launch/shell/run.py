"""A shell text followed from top to bottom, without running anything: each way through its branches
has its own variables, files and commands."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from typing import Any

from meshwise.errors import InputError, shorten
from meshwise.launch import shell_builtins
from meshwise.launch.shell import within as shell_within
from meshwise.launch.shell.expand import Expander, Variables
from meshwise.launch.shell.tree import (
    Body,
    Branch,
    Function,
    Loop,
    Parser,
    Simple,
    Statement,
    Subshell,
)
from meshwise.launch.shell.words import Lexer, Token, Word, bare, word_text
from meshwise.launch.shell_builtins import QUIET
from meshwise.launch.wrappers import slurm

MAX_WAYS = 16
MAX_TURNS = 64  # of a loop
_MAX_DEPTH = 8  # of scripts in scripts
MAX_STEPS = 60_000  # statements followed, those of loops each time
MAX_VALUE = 1_000_000  # characters of a variable
_ASSIGNED = re.compile(r"([A-Za-z_]\w*)(\+?)=")
_DECLARE = ("export", "declare", "local", "readonly", "typeset")

Pairs = tuple[tuple[str, str], ...]


class ShellState:
    """One way through a text."""

    def __init__(self) -> None:
        self.variables: Variables = {"@": ()}
        self.files: dict[str, str] = {}
        self.commands: list[tuple[tuple[str, ...], Pairs, Variables, tuple[int, ...]]] = []
        self.given: Mapping[str, str] = {}  # where the text's own value does not follow
        self.functions: dict[str, Body] = {}
        self.sourced: list[str] = []
        self.starter: tuple[str, ...] = ()  # srun with its options, around a script within
        self.conditions: tuple[str, ...] = ()
        self.done = False
        self.steps = [0]  # shared by all ways

    def copy(self) -> ShellState:
        new = ShellState()
        new.steps, new.given = self.steps, self.given
        new.variables, new.files = dict(self.variables), dict(self.files)
        new.commands, new.functions = list(self.commands), dict(self.functions)
        new.sourced, new.starter = list(self.sourced), self.starter
        new.conditions, new.done = self.conditions, self.done
        return new

    def key(self) -> Any:
        return (self.variables, self.files, self.commands, self.done)


def follow(
    text: str,
    before: dict[str, str],
    given: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
) -> list[ShellState]:
    """Every way through the text, those with the same outcome once; ``before``: variables that are set
    before it begins; ``given``: values that also hold where the text's own do not follow from it."""
    first = ShellState()
    first.given = given or {}
    first.variables |= {**before, **first.given}
    first.files |= files or {}
    states = _script(text, [first], 0)
    return [s for s in states if s.commands or s.files] or states[:1]


def _script(text: str, states: list[ShellState], depth: int) -> list[ShellState]:
    if depth > _MAX_DEPTH:
        return states
    parser = Parser(Lexer(text.replace("\r\n", "\n")).read())
    return _body(parser.body(), states, depth)


def _body(body: Body, states: list[ShellState], depth: int) -> list[ShellState]:
    for node in body:
        after: list[ShellState] = []
        for state in states:
            after += [state] if state.done else _step(node, state, depth)
        states = _distinct(after)
    return states


def _distinct(states: list[ShellState]) -> list[ShellState]:
    found: list[ShellState] = []
    for state in states:
        if all(state.key() != other.key() for other in found):
            found.append(state)
    if len(found) > MAX_WAYS:
        raise InputError(
            f"command: more than {MAX_WAYS} ways through its branches "
            f"({shorten(', '.join(found[-1].conditions), 120)})",
            field="command",
            value=found[-1].conditions[-1] if found[-1].conditions else None,
            legal="the command that runs, or the script without its branches",
        )
    return found


def _step(node: Statement, state: ShellState, depth: int) -> list[ShellState]:
    state.steps[0] += 1
    if state.steps[0] > MAX_STEPS:
        raise _too_long(f"more than {MAX_STEPS:,} statements to follow")
    if isinstance(node, Simple):
        return _command(node, state, depth)
    if isinstance(node, Function):
        state.functions[node.name] = node.body
        return [state]
    if isinstance(node, Subshell):
        variables, functions = dict(state.variables), dict(state.functions)
        return _own(_body(node.body, [state], depth), variables, functions)
    if isinstance(node, Loop):
        return _loop(node, state, depth)
    return _branch(node, state, depth)


def _own(
    states: list[ShellState], variables: Variables, functions: dict[str, Body]
) -> list[ShellState]:
    """After a shell of its own: what it started and wrote stays, its variables do not."""
    for each in states:
        each.variables, each.functions = dict(variables), dict(functions)
        each.done = False
    return states


def _too_long(what: str) -> InputError:
    return InputError(f"command: {what}", field="command", legal="the command that runs")


def _loop(node: Loop, state: ShellState, depth: int) -> list[ShellState]:
    if node.name is None:
        return _body(node.body, [state], depth)
    expander = Expander(state.variables, state.files)
    values = [f for w in node.words for f in expander.fields(w)]
    states = [state]
    for value in values[:MAX_TURNS]:
        for each in states:
            if "$" in value:
                each.variables.pop(node.name, None)
            else:
                each.variables[node.name] = value
        states = _body(node.body, states, depth)
    return states


def _branch(node: Branch, state: ShellState, depth: int) -> list[ShellState]:
    found: list[ShellState] = []
    for condition, body in node.ways:
        held = _holds(condition, node.subject, state)
        if held is False:
            continue
        way = state.copy()
        if held is None or (found and not condition):
            way.conditions = (*state.conditions, _shown(condition, node.subject))
        found += _body(body, [way], depth)
        if held is True:
            return _distinct(found)
    if not node.complete:
        state.conditions = (*state.conditions, "else")
        found.append(state)
    return _distinct(found)


def _shown(condition: Body, subject: Word | None) -> str:
    words = [
        word_text(t.words[0])
        for s in condition
        if isinstance(s, Simple)
        for t in s.tokens
        if t.words
    ]
    if subject is not None:
        return f"case {word_text(subject)} in {' | '.join(words)}"
    return "if " + " ".join(words) if words else "else"


def _holds(condition: Body, subject: Word | None, state: ShellState) -> bool | None:
    """Whether a condition holds; None: not known from the text."""
    expander = Expander(state.variables, state.files)
    if subject is not None:
        value = expander.text(subject)
        if "$" in value or not condition or not isinstance(condition[0], Simple):
            return None
        patterns = [expander.text(t.words[0]) for t in condition[0].tokens]
        return any(fnmatch.fnmatchcase(value, p) for p in patterns)
    if not condition:
        return True
    if len(condition) != 1 or not isinstance(condition[0], Simple):
        return None
    words = [
        f for t in condition[0].tokens if t.kind == "word" for f in expander.fields(t.words[0])
    ]
    if not words or words[0] not in ("[", "[[", "test") or any("$" in w for w in words):
        return None
    return _tested([w for w in words[1:] if w not in ("]", "]]")])


def _tested(words: list[str]) -> bool | None:
    if len(words) == 2 and words[0] in ("-n", "-z"):
        return bool(words[1]) == (words[0] == "-n")
    if len(words) != 3:
        return None
    left, operator, right = words
    if operator in ("=", "==", "!="):
        return fnmatch.fnmatchcase(left, right) == (operator != "!=")
    if not (left.lstrip("-").isdigit() and right.lstrip("-").isdigit()):
        return None
    a, b = int(left), int(right)
    compared = {
        "-eq": a == b,
        "-ne": a != b,
        "-gt": a > b,
        "-lt": a < b,
        "-ge": a >= b,
        "-le": a <= b,
    }
    return compared.get(operator)


def _command(node: Simple, state: ShellState, depth: int) -> list[ShellState]:
    expander = Expander(state.variables, state.files)
    before: list[tuple[str, str]] = []
    rest = list(node.tokens)
    declares = bool(rest) and bare(rest[0]) in _DECLARE
    if declares:
        rest = rest[1:]
        shell_builtins.associative(rest, state.variables)
    while rest and shell_builtins.array_entry(rest[0], expander):
        rest.pop(0)
    while rest and (declares or _assignment(rest[0]) is not None):
        token = rest.pop(0)
        if _assignment(token) is not None:
            before.append(_assign(token, state, expander, bool(rest) and not declares))
    if not rest:
        return [state]
    placed = [(f, t.line) for t in rest if t.kind == "word" for f in expander.fields(t.words[0])]
    words, lines = [f for f, _ in placed], tuple(line for _, line in placed)
    _files(rest, words, state, expander)
    if words and words[0] == "unset":
        for name in words[1:]:
            state.variables.pop(name, None)
    shell_builtins.perform(words, rest, expander)
    here = next((t for t in rest if t.kind == "here"), None)
    given = expander.text(here.words[0]) if here is not None else None
    return _started(words, tuple(before), state, depth, given, lines)


def _assignment(token: Token) -> re.Match[str] | None:
    if token.kind == "array":
        return _ASSIGNED.match(token.text + "=")
    if token.kind != "word" or not token.words[0] or token.words[0][0].quote:
        return None
    return _ASSIGNED.match(token.words[0][0].text)


def _assign(token: Token, state: ShellState, expander: Expander, passing: bool) -> tuple[str, str]:
    """A variable set; ``passing``: perhaps for one command only, which sees it all the same."""
    match = _assignment(token)
    assert match is not None
    name, more = match.group(1), bool(match.group(2))
    old = state.variables.get(name, "")
    value: str | tuple[str, ...]
    if (
        token.kind == "array"
        and not passing
        and shell_builtins.array_table(name, token.words, expander)
    ):
        return name, ""
    if token.kind == "array":
        value = tuple(f for w in token.words for f in expander.fields(w))
        if more:
            value = (*(old if isinstance(old, tuple) else old.split()), *value)
    else:
        first, *others = token.words[0]
        value = expander.text((first._replace(text=first.text[match.end() :]), *others))
        if more:
            value = f"{' '.join(old) if isinstance(old, tuple) else old}{value}"
    if isinstance(value, str) and len(value) > MAX_VALUE:
        raise _too_long(f"{name} has more than {MAX_VALUE:,} characters")
    own = re.compile(rf"\$\(|\$\{{?{name}\b")
    if not passing and not (isinstance(value, str) and own.search(value)):
        state.variables[name] = value
    elif not passing and name in state.given:
        state.variables[name] = state.given[name]
    elif not passing:  # of itself, or of a command's output: not known
        state.variables.pop(name, None)
    return name, value if isinstance(value, str) else " ".join(value)


def _files(rest: list[Token], words: list[str], state: ShellState, expander: Expander) -> None:
    """Files that ``cat <<EOF > FILE``, ``tee FILE <<EOF`` and ``echo … > FILE`` write."""
    target = next((t for t in rest if t.kind == "redirect" and t.text in (">", ">>", ">|")), None)
    name = expander.text(target.words[0]) if target is not None else None
    here = next((t for t in rest if t.kind == "here"), None)
    if name is None and words[:1] == ["tee"] and len(words) > 1:
        name = words[-1]
    if name is None or name.startswith("/dev/"):
        return
    if here is not None:
        text = expander.text(here.words[0])
    elif words[:1] == ["echo"]:
        text = " ".join(w for w in words[1:] if w not in ("-e", "-n"))
    else:
        return
    kept = state.files.get(name, "") + "\n" if target is not None and target.text == ">>" else ""
    state.files[name] = kept + text


def _started(
    words: list[str],
    before: Pairs,
    state: ShellState,
    depth: int,
    given: str | None = None,
    lines: tuple[int, ...] = (),
) -> list[ShellState]:
    """What a command starts; ``given``: the here-document that it reads."""
    if not words:
        return [state]
    program = words[0].rpartition("/")[2]
    if program in ("exit",):
        state.done = True
        return [state]
    if program in ("source", ".") and len(words) > 1 and words[1] not in state.files:
        state.sourced.append(words[1])
        return [state]
    inner = shell_within.inner_script(words, state.files, given)
    if inner is not None:
        return _within(inner, words, state, depth)
    if program in state.functions and depth < _MAX_DEPTH:
        kept = {k: v for k, v in state.variables.items() if k == "@" or k.isdigit()}
        state.variables |= {"@": tuple(words[1:]), **dict(_numbered(words[1:]))}
        states = _body(state.functions[program], [state], depth + 1)
        for each in states:
            each.variables |= kept
        return states
    if program not in QUIET:
        where = (*(0 for _ in state.starter), *lines) if depth == 0 else ()
        state.commands.append(((*state.starter, *words), before, dict(state.variables), where))
    return [state]


def _within(
    inner: shell_within.Within, words: list[str], state: ShellState, depth: int
) -> list[ShellState]:
    """A script in a command: it has its own arguments, and is started by what starts its shell. Only
    ``eval`` and ``source`` set variables of the shell that they are in."""
    starter, kept, functions = state.starter, dict(state.variables), dict(state.functions)
    state.starter = (*starter, *inner.starter)
    state.variables |= {"@": tuple(inner.words), **dict(_numbered(inner.words))}
    state.variables |= slurm.variables(slurm.command_request(list(inner.starter)))
    states = _script(inner.text, [state], depth + 1)
    own = {k: v for k, v in kept.items() if k == "@" or k.isdigit()}
    for each in states:
        each.starter = starter
        each.variables = {k: v for k, v in each.variables.items() if not k.isdigit()} | own
        each.done = False  # it was the inner shell that ended
    return states if words[0] in ("eval", "source", ".") else _own(states, kept, functions)


def _numbered(words: list[str]) -> list[tuple[str, str]]:
    return [(str(i), word) for i, word in enumerate(words[:9], 1)]
