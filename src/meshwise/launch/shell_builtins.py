"""What a shell's own commands do to variables: ``let``, ``((…))``, ``read``, ``printf -v``, entries of
arrays. A value that does not follow from the text is marked with what sets it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from meshwise.launch.shell.expand import Expander, Variables, unfollowed
from meshwise.launch.shell.words import Token, Word, bare, word_text

# commands that start nothing which could be a launch
QUIET = frozenset(
    [
        "echo",
        "printf",
        "cd",
        "mkdir",
        "rm",
        "cp",
        "mv",
        "ls",
        "cat",
        "tee",
        "sed",
        "awk",
        "grep",
        "sleep",
        "wait",
        "set",
        "unset",
        "shopt",
        "ulimit",
        "trap",
        "module",
        "conda",
        "pip",
        "apt",
        "git",
        "date",
        "touch",
        "chmod",
        "hostname",
        "nvidia-smi",
        "kill",
        "pkill",
        "true",
        "false",
        ":",
        "[",
        "[[",
        "((",
        "test",
        "pushd",
        "popd",
        "ln",
        "tar",
        "wget",
        "curl",
        "read",
        "mapfile",
        "readarray",
        "shift",
        "let",
        "which",
        "command",
        "source",
        ".",
        "alias",
        "head",
        "tail",
        "sort",
        "seq",
        "find",
        "return",
        "break",
        "continue",
        "scontrol",
    ]
)
_ENTRY = re.compile(r"([A-Za-z_]\w*)\[([^\]]*)\]=(.*)", re.DOTALL)
_KEYED = re.compile(r"\[([^\]]*)\]=(.*)", re.DOTALL)
_SETS = re.compile(r"\s*([A-Za-z_]\w*)\s*(\+\+|--|[-+*/%]?=(?!=))\s*(.*)", re.DOTALL)
_BEFORE = re.compile(r"\s*(\+\+|--)\s*([A-Za-z_]\w*)\s*")
_TAKING = ("-p", "-t", "-n", "-N", "-d", "-u", "-i")  # options of read with a value


def perform(words: list[str], tokens: list[Token], expander: Expander) -> None:
    """A command that sets variables; any other changes nothing."""
    program = words[0] if words else ""
    line = tokens[0].line if tokens else 0
    if program in ("let", "(("):
        for expression in words[1:]:
            for part in expression.split(","):
                _calculate(
                    part, f"{'let' if program == 'let' else '((…))'} in line {line}", expander
                )
    elif program in ("mapfile", "readarray") and len(words) > 1:
        _unknown(expander.variables, words[-1], f"{program} in line {line}")
    elif program == "printf" and words[1:2] == ["-v"] and len(words) > 2:
        _unknown(expander.variables, words[2], f"printf -v in line {line}")
    elif program == "read":
        _read(words[1:], tokens, f"read in line {line}", expander)


def _unknown(variables: Variables, name: str, what: str) -> None:
    if name.isidentifier():
        variables[name] = unfollowed(name, what)


def _calculate(text: str, what: str, expander: Expander) -> None:
    """``N = a * b``, ``N += a``, ``N++``."""
    before = _BEFORE.fullmatch(text)
    found = _SETS.fullmatch(f"{before[2]}{before[1]}" if before else text)
    if found is None:
        return
    name, how, rest = found.groups()
    if how in ("++", "--"):
        how, rest = f"{how[0]}=", "1"
    value = expander.arithmetic(rest if how == "=" else f"{name} {how[0]} ({rest})")
    if value is None:
        _unknown(expander.variables, name, what)
    else:
        expander.variables[name] = value[0]


def _read(words: list[str], tokens: list[Token], what: str, expander: Expander) -> None:
    """``read A B``: of a here-string what it says, else not known."""
    names: list[str] = []
    skip = False
    for word in words:
        if not skip and not word.startswith("-"):
            names.append(word)
        skip = word in _TAKING
    said = next((t for t in tokens if t.kind == "redirect" and t.text == "<<<"), None)
    text = expander.text(said.words[0]) if said is not None else "$"
    values = text.split(None, max(len(names) - 1, 0))
    for i, name in enumerate(names):
        _unknown(expander.variables, name, what)
        if "$" not in text and "-a" not in words and name.isidentifier():
            expander.variables[name] = values[i].strip() if i < len(values) else ""


def array_entry(token: Token, expander: Expander) -> bool:
    """An assignment to an entry of an array, done: ``A[0]=8``, ``CONFIG[tp]=8``."""
    if token.kind != "word" or not token.words[0] or token.words[0][0].quote:
        return False
    if _ENTRY.fullmatch(word_text(token.words[0])) is None:
        return False
    name, key, value = _ENTRY.fullmatch(expander.text(token.words[0])).groups()  # type: ignore[union-attr]
    old = expander.variables.get(name, ())
    listed = old if isinstance(old, tuple) else (old,)
    if key.isdigit() and int(key) <= len(listed) and f"{name}[]" not in expander.variables:
        expander.variables[name] = (*listed[: int(key)], value, *listed[int(key) + 1 :])
    else:
        expander.variables[f"{name}[{key}]"] = value
    return True


def array_table(name: str, entries: tuple[Word, ...], expander: Expander) -> bool:
    """An array given by its keys, done: ``([tp]=8 [pp]=2)``."""
    said = [_KEYED.fullmatch(expander.text(word)) for word in entries]
    if not said or not all(said):
        return False
    pairs = [(found[1], found[2]) for found in said if found is not None]
    if f"{name}[]" not in expander.variables and [k for k, _ in pairs] == list(_digits(len(pairs))):
        expander.variables[name] = tuple(value for _, value in pairs)
        return True
    expander.variables.pop(name, None)
    expander.variables |= {f"{name}[{key}]": value for key, value in pairs}
    return True


def _digits(n: int) -> Iterator[str]:
    return map(str, range(n))


def associative(tokens: list[Token], variables: Variables) -> None:
    """``declare -A NAME``: its entries are by key, numbers too."""
    options = [bare(t) for t in tokens]
    if any(o.startswith("-") and "A" in o for o in options):
        for token in tokens:
            name = token.text if token.kind == "array" else bare(token).partition("=")[0]
            if name.isidentifier():
                variables[f"{name}[]"] = ""
                variables.pop(name, None)
