"""What a command in ``$(…)`` prints, where that follows from its words; nothing is ever run."""

from __future__ import annotations

import re
from collections.abc import Callable

from meshwise.launch.shell.expand import Expander
from meshwise.launch.shell.syntax.statements import Body, Pipe, Redirect, Simple, Statement
from meshwise.launch.shell.values.arithmetic import NotKnown, calculated
from meshwise.launch.shell.values.memory import ShellMemory, file_name
from meshwise.launch.shell.values.parameters import is_followed

_MAX_NUMBERS = 10_000
_FORMAT = re.compile(r"%(%|([-0 +#]*)(\d*)(?:\.(\d+))?([sdiqb]))")
_ESCAPE = re.compile(r"\\([abefnrtv\\]|0[0-7]{0,3})")
_ESCAPES = dict(zip("abefnrtv\\", "\a\b\x1b\f\n\r\t\v\\", strict=True))


def output(body: Body, expander: Expander, given: str = "") -> str | None:
    """What it prints; None where that is not known. ``given``: what it reads."""
    statements = list(body)
    return _printed(statements[0], given, expander) if len(statements) == 1 else None


def _printed(statement: Statement, given: str, expander: Expander) -> str | None:
    if isinstance(statement, Pipe):
        said: str | None = given
        for part in statement.parts:
            inner = list(part)
            if len(inner) != 1 or said is None:
                return None
            said = _printed(inner[0], said, expander)
        return said
    if not isinstance(statement, Simple) or statement.assignments or statement.declares:
        return None
    for redirect in statement.redirects:
        text = _given(redirect, expander)
        if text is None:
            return None
        given = text or given
    words = [f for w in statement.words for f in expander.fields(w)]
    if not words:
        return given if statement.redirects else None
    return printed(words, given, expander.files)


def _given(redirect: Redirect, expander: Expander) -> str | None:
    """What a redirect gives a command to read: nothing for one of errors, None where not known."""
    if redirect.body is not None:
        return str(expander.text(redirect.body)) + ("\n" if redirect.operator == "<<<" else "")
    target = str(expander.text(redirect.target)) if redirect.target is not None else ""
    if redirect.operator == "<":
        return expander.files.get(file_name(target))
    return "" if redirect.descriptor == "2" else None


def printed(words: list[str], given: str, files: dict[str, str]) -> str | None:
    """What a command with these words prints; ``given``: what it reads."""
    made = _COMMANDS.get(words[0].rpartition("/")[2])
    plain = words[:1] if words[0] == "awk" else words  # whose own $1 is none of the shell's
    if made is None or not all(map(is_followed, plain)) or not is_followed(given):
        return None
    if words[0] == "cat":
        names = [file_name(w) for w in words[1:]]
        if any(n not in files and n != "-" for n in names):
            return None
        said = "".join(given if n == "-" else files[n] for n in names) if names else given
        return said if is_followed(said) else None
    return made(words[1:], given)


def _echo(words: list[str], _: str) -> str | None:
    end, escapes = "\n", False
    while words and re.fullmatch(r"-[neE]+", words[0]):
        end = "" if "n" in words[0] else end
        escapes = escapes or "e" in words[0]
        words = words[1:]
    said = " ".join(words)
    return (_unescaped(said) if escapes else said) + end


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(
        lambda m: _ESCAPES[m[1]] if m[1] in _ESCAPES else chr(int(m[1], 8) & 255), text
    )


def formatted(words: list[str]) -> str | None:
    """``printf``: a format and its values."""
    if not words or words[0].startswith("-"):
        return None
    form, values = words[0], list(words[1:])
    if "%" in _FORMAT.sub("", form) or len(values) > _MAX_NUMBERS:
        return None
    said: list[str] = []
    many = sum(m[1] != "%" for m in _FORMAT.finditer(form))

    def one(match: re.Match[str]) -> str:
        if match[1] == "%":
            return "%"
        value = values.pop(0) if values else ""
        kind, flags, width, precise = match[5], match[2], match[3], match[4]
        if kind in "qb":
            raise NotKnown(kind)
        if kind == "s":
            value = value if precise is None else value[: int(precise)]
            pad = str.ljust if "-" in flags else str.rjust
            return pad(value, min(int(width or 0), 1000))
        if not re.fullmatch(r"[-+]?\d*", value) or precise is not None:
            raise NotKnown(value)
        return f"%{flags}{min(int(width or 0), 1000) or ''}d" % int(value or 0)

    try:
        while True:
            said.append(_FORMAT.sub(one, _unescaped(form)))
            if not values or not many:
                return "".join(said)
    except NotKnown:
        return None


def _seq(words: list[str], _: str) -> str | None:
    between = "\n"
    if words[:1] == ["-s"] and len(words) > 1:
        between, words = words[1], words[2:]
    elif words and words[0].startswith("-s"):
        between, words = words[0][2:], words[1:]
    if not 1 <= len(words) <= 3 or not all(re.fullmatch(r"-?\d{1,9}", w) for w in words):
        return None
    numbers = [int(w) for w in words]
    first, step, last = {1: (1, 1, numbers[0]), 2: (numbers[0], 1, numbers[-1])}.get(
        len(numbers), (numbers[0], numbers[1] if len(numbers) > 2 else 1, numbers[-1])
    )
    if step == 0 or abs((last - first) // step) > _MAX_NUMBERS:
        return None
    said = [str(n) for n in range(first, last + (1 if step > 0 else -1), step)]
    return between.join(said) + "\n" if said else ""


def _basename(words: list[str], _: str) -> str | None:
    if not 1 <= len(words) <= 2 or words[0].startswith("-"):
        return None
    name = words[0].rstrip("/").rpartition("/")[2] or words[0][:1]
    end = words[1] if len(words) > 1 else ""
    return (name.removesuffix(end) if name != end else name) + "\n"


def _dirname(words: list[str], _: str) -> str | None:
    if len(words) != 1 or words[0].startswith("-"):
        return None
    path = words[0].rstrip("/")
    if not path:
        return "/\n" if words[0] else ".\n"
    folder, slash, _name = path.rpartition("/")
    return (folder.rstrip("/") or "/" if slash else ".") + "\n"


def _wc(words: list[str], given: str) -> str | None:
    if words == ["-l"]:
        return f"{given.count(chr(10))}\n"
    if words == ["-w"]:
        return f"{len(given.split())}\n"
    return f"{len(given.encode())}\n" if words == ["-c"] else None


def _tr(words: list[str], given: str) -> str | None:
    removes = words[:1] == ["-d"]
    sets = [_set(w) for w in words[1:]] if removes else [_set(w) for w in words]
    if any(s is None for s in sets) or len(sets) != (1 if removes else 2):
        return None
    first, second = sets[0] or "", sets[-1] or ""
    if removes:
        return "".join(c for c in given if c not in first)
    if not second:
        return None
    second = second.ljust(len(first), second[-1])
    return given.translate({ord(a): b for a, b in reversed(list(zip(first, second, strict=False)))})


def _set(text: str) -> str | None:
    if text.startswith("-"):
        return None if len(text) > 1 else text
    text = _unescaped(text)
    text = text.replace("[:upper:]", "A-Z").replace("[:lower:]", "a-z")
    text = text.replace("[:digit:]", "0-9").replace("[:space:]", "\t\n\v\f\r ")
    if "[:" in text or "[=" in text or "*]" in text:
        return None
    return re.sub(
        r"(.)-(.)",
        lambda m: "".join(map(chr, range(ord(m[1]), ord(m[2]) + 1))),
        text,
        flags=re.DOTALL,
    )


def _many(words: list[str]) -> int | None:
    if not words:
        return 10
    said = "".join(words)
    found = re.fullmatch(r"-n?(\d{1,6})|--lines=(\d{1,6})", said)
    return int(found[1] or found[2]) if found else None


def _head(words: list[str], given: str) -> str | None:
    many = _many(words)
    return None if many is None else "".join(given.splitlines(True)[:many])


def _tail(words: list[str], given: str) -> str | None:
    many = _many(words)
    if many is None:
        return None
    return "".join(given.splitlines(True)[-many:]) if many else ""


def _cut(words: list[str], given: str) -> str | None:
    found = re.fullmatch(r"-d ?(.) ?-f ?(\d{1,3})|-f ?(\d{1,3}) ?-d ?(.)", " ".join(words))
    if found is None:
        return None
    by, field = found[1] or found[4], int(found[2] or found[3])
    rows = []
    for row in given.splitlines():
        parts = row.split(by)
        rows.append(row if len(parts) == 1 else parts[field - 1] if field <= len(parts) else "")
    return "".join(r + "\n" for r in rows)


def _bc(words: list[str], given: str) -> str | None:
    if words or not re.fullmatch(r"[\d\s+*/()-]+", given) or given.count("\n") > 1:
        return None
    return _number(given)


def _number(text: str) -> str | None:
    try:
        return f"{calculated(text, ShellMemory())}\n"
    except NotKnown:
        return None


def _expr(words: list[str], _: str) -> str | None:
    plain = all(re.fullmatch(r"-?\d+|[-+*/%()]", w) for w in words)
    return (
        _number(" ".join(w.lstrip("0") or "0" if w.isdigit() else w for w in words))
        if plain
        else None
    )


def _xargs(words: list[str], given: str) -> str | None:
    return None if words or re.search(r"['\"\\]", given) else " ".join(given.split()) + "\n"


def _paste(words: list[str], given: str) -> str | None:
    found = re.fullmatch(r"-s ?-?d ?(.) ?-?|-sd(.)|-d ?(.) ?-s", " ".join(words))
    by = next((g for g in found.groups() if g), None) if found else None
    return None if by is None else by.join(given.splitlines()) + "\n"


def _awk(words: list[str], given: str) -> str | None:
    found = re.fullmatch(r"\{ *print \$(\d{1,3}|NF) *;? *\}", words[0]) if len(words) == 1 else None
    if found is None:
        return None
    rows = []
    for row in given.splitlines():
        parts = row.split()
        at = len(parts) if found[1] == "NF" else int(found[1])
        rows.append(row if at == 0 else parts[at - 1] if at <= len(parts) else "")
    return "".join(r + "\n" for r in rows)


_COMMANDS: dict[str, Callable[[list[str], str], str | None]] = {
    "echo": _echo,
    "printf": lambda words, _: formatted(words),
    "seq": _seq,
    "basename": _basename,
    "dirname": _dirname,
    "cat": lambda _, given: given,
    "wc": _wc,
    "tr": _tr,
    "head": _head,
    "tail": _tail,
    "cut": _cut,
    "bc": _bc,
    "expr": _expr,
    "xargs": _xargs,
    "paste": _paste,
    "awk": _awk,
}
