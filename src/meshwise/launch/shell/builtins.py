"""What a shell's own commands do to variables: ``let``, ``((…))``, ``read``, ``printf -v``, ``set``,
``shift``, ``getopts``, entries of arrays. A value that does not follow from the text is marked with what
sets it."""

from __future__ import annotations

import re

from meshwise.errors import InputError
from meshwise.launch.shell.expand import Expander
from meshwise.launch.shell.values.arithmetic import NotKnown, calculated
from meshwise.launch.shell.values.memory import ShellMemory, ShellValue, unfollowed
from meshwise.launch.shell.values.outputs import formatted
from meshwise.launch.shell.values.parameters import is_followed

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
        "egrep",
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
        "pip3",
        "apt",
        "apt-get",
        "git",
        "date",
        "touch",
        "chmod",
        "chown",
        "hostname",
        "nvidia-smi",
        "rocm-smi",
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
        "type",
        "hash",
        "getopts",
        "export",
        "declare",
        "local",
        "readonly",
        "typeset",
        "pgrep",
        "ping",
        "nc",
        "diff",
        "cmp",
        "basename",
        "dirname",
        "wc",
        "tr",
        "cut",
        "uniq",
        "exit",
        "umask",
        "envsubst",
        "lscpu",
        "free",
        "df",
        "du",
        "id",
        "whoami",
        "uname",
        "jq",
        "rsync",
        "scp",
        "stat",
        "dnf",
        "yum",
        "builtin",
        "times",
    ]
)
# whose outcome is a question, not a deed that is taken to work
QUERIES = frozenset(
    [
        "grep",
        "egrep",
        "kill",
        "pkill",
        "command",
        "which",
        "type",
        "hash",
        "pgrep",
        "ping",
        "nc",
        "curl",
        "wget",
        "diff",
        "cmp",
        "nvidia-smi",
        "rocm-smi",
        "find",
        "ls",
        "getopts",
        "read",
        "lscpu",
        "id",
        "stat",
        "jq",
        "awk",
        "[",
        "[[",
        "((",
        "test",
        "let",
        "expr",
    ]
)
_SETS = re.compile(
    r"([A-Za-z_]\w*)\s*(?:\+\+|--|(?:<<|>>|[-+*/%&|^])?=(?!=))|(?:\+\+|--)\s*([A-Za-z_]\w*)"
)
_TAKING = ("-p", "-t", "-n", "-N", "-d", "-u", "-i")  # options of read with a value
_MAX_GAP = 10_000


def too_long(what: str) -> InputError:
    return InputError(f"command: {what}", field="command", legal="the command that runs")


def unknown(memory: ShellMemory, name: str, what: str) -> None:
    if name.isidentifier():
        memory.set(name, unfollowed(name, what))


def calculate(text: str, what: str, memory: ShellMemory) -> bool | None:
    """``N = a * b``, ``N += a``, ``N++``; whether it comes to another number than 0."""
    try:
        return calculated(text, memory) != 0
    except NotKnown:
        for match in _SETS.finditer(text):
            unknown(memory, match[1] or match[2], what)
        return None


def perform(words: list[str], line: int, given: str | None, expander: Expander) -> bool | None:
    """A command that sets variables; any other changes nothing. Whether it succeeds, as far as that is
    known; ``given``: what it reads, where that is in the text."""
    memory = expander.memory
    program = words[0]
    if program == "let":
        done = [calculate(w, f"let in line {line}", memory) for w in words[1:]]
        return done[-1] if done else None
    if program in ("mapfile", "readarray") and len(words) > 1:
        return _mapfile(words, f"{program} in line {line}", given, memory)
    if program == "printf" and words[1:2] == ["-v"] and len(words) > 2:
        said = formatted(words[3:]) if all(map(is_followed, words[3:])) else None
        if said is None or not words[2].isidentifier():
            unknown(memory, words[2], f"printf -v in line {line}")
        else:
            memory.set(words[2], said)
    elif program == "read":
        return _read(words[1:], f"read in line {line}", given, expander)
    elif program == "unset":
        for name in words[1:]:
            if "[" in name:
                unknown(memory, name.partition("[")[0], f"unset in line {line}")
            memory.unset(name)
    elif program == "shift":
        return _shift(words, f"shift in line {line}", memory)
    elif program == "set":
        _set(words[1:], memory)
    elif program == "getopts":
        return _getopts(words, memory)
    if program in ("true", ":", "false"):
        return program != "false"
    return None if program in QUERIES or program == "test" else True


def _set(words: list[str], memory: ShellMemory) -> None:
    """``set -euo pipefail -- a b``: options, the name after an ``o``, and new arguments."""
    i = 0
    while i < len(words):
        word = words[i]
        i += 1
        if word in ("-", "--") or not word.startswith(("-", "+")):
            arguments(memory, tuple(words[i - (not word.startswith("-")) :]))
            return
        option = ""
        if "o" in word[1:]:
            option = words[i] if i < len(words) else ""
            i += 1
        if "a" in word[1:] or option == "allexport":
            memory.all_exported = word[0] == "-"


def arguments(memory: ShellMemory, words: tuple[str, ...]) -> None:
    for name in [n for n in memory.values if n.isdigit() and n != "0"]:
        memory.unset(name)
    memory.set("@", words)


def _shift(words: list[str], what: str, memory: ShellMemory) -> bool | None:
    given = memory.get("@")
    many = words[1] if len(words) > 1 else "1"
    if isinstance(given, tuple) and many.isdigit():
        if int(many) > len(given):
            return False
        arguments(memory, given[int(many) :])
        return True
    memory.unset("@")
    for n in range(1, 10):
        memory.set(str(n), unfollowed(str(n), what))
    return None


def _getopts(words: list[str], memory: ShellMemory) -> bool | None:
    """One option of the arguments at a time; of arguments that are not given none."""
    given: ShellValue | None = memory.get("@") if len(words) < 4 else tuple(words[3:])
    if len(words) < 3 or not isinstance(given, tuple):
        return False if len(words) >= 3 else None
    known_options, name = words[1].lstrip(":"), words[2]
    place = memory.get("OPTIND")
    at = int(place) - 1 if isinstance(place, str) and place.isdigit() else 0
    if at >= len(given) or not re.match(r"-[^-]", given[at]):
        memory.set(name, "?")
        if at < len(given) and given[at] == "--":
            memory.set("OPTIND", str(at + 2))
        return False
    letter, rest = given[at][1], given[at][2:]
    takes = f"{letter}:" in known_options
    if letter not in known_options or (rest and not takes):
        return None  # several letters in a word, or one that is none
    memory.set(name, letter)
    memory.unset("OPTARG")
    if takes:
        value = rest or (given[at + 1] if at + 1 < len(given) else None)
        if value is None:
            return None
        memory.set("OPTARG", value)
        at += 0 if rest else 1
    memory.set("OPTIND", str(at + 2))
    return True


def _mapfile(words: list[str], what: str, given: str | None, memory: ShellMemory) -> bool | None:
    if (
        given is not None
        and is_followed(given)
        and words[1:-1] == ["-t"]
        and words[-1].isidentifier()
    ):
        memory.set(words[-1], tuple(given.splitlines()))
        return True
    unknown(memory, words[-1], what)
    return None


def _read(words: list[str], what: str, given: str | None, expander: Expander) -> bool | None:
    """``read A B``: of a here-string what it says, else not known."""
    names: list[str] = []
    options: list[str] = []
    skip = False
    for word in words:
        if not skip and not word.startswith("-"):
            names.append(word)
        elif not skip:
            options.append(word)
        skip = word in _TAKING
    names = names or ["REPLY"]
    memory = expander.memory
    takes = [o for o in options if o not in ("-r", "-a", "-ra", "-ar")]
    text = given.partition("\n")[0] if given is not None else "$"
    if not is_followed(text) or takes or ("\\" in text and not any("r" in o for o in options)):
        for name in names:
            unknown(memory, name, what)
        return None
    parts = expander.split_by_ifs(text)
    if any("a" in o for o in options):
        memory.set(names[0], tuple(parts))
        return True
    for i, name in enumerate(names):
        if not name.isidentifier():
            continue
        if i < len(names) - 1:
            memory.set(name, parts[i] if i < len(parts) else "")
        else:
            memory.set(name, expander.rest_by_ifs(text, i))
    return True
