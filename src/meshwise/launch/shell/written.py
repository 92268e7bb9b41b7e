"""Files that a shell text writes, and what its commands read of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from meshwise.launch.shell.expand import Expander
from meshwise.launch.shell.syntax.statements import GroupStatement, Redirect, Simple
from meshwise.launch.shell.values.memory import Text, file_name
from meshwise.launch.shell.values.outputs import output, printed

_MAX_FILES = 4_000_000  # characters of all
_WRITES = (">", ">>", ">|", "&>", "&>>")


def read_by(redirects: Sequence[Redirect], expander: Expander, given: str | None) -> str | None:
    """What a command reads: a here-document, a here-string, a file of the text, what a pipe gives."""
    for redirect in redirects:
        if redirect.body is not None:
            text = expander.text(redirect.body)
            given = text
        elif redirect.operator == "<" and redirect.target is not None:
            given = expander.files.get(file_name(str(expander.text(redirect.target))))
    return given


def redirect(
    redirects: Sequence[Redirect], said: str | None, expander: Expander, files: dict[str, str]
) -> None:
    """A file gets what a command printed; None: that is not known, and the file is not either."""
    for one in redirects:
        if one.operator not in _WRITES or one.target is None or one.descriptor not in ("", "1"):
            continue
        name = str(expander.text(one.target))
        if name.startswith("/dev/"):
            continue
        put_file(name, said, one.operator in (">>", "&>>"), files)


def put_file(name: str, said: str | None, more: bool, files: dict[str, str]) -> None:
    name = file_name(name)
    if said is None:
        files.pop(name, None)
        return
    before = files.get(name, "") if more else ""
    if sum(map(len, files.values())) + len(said) > _MAX_FILES:
        files.pop(name, None)
        return
    files[name] = before + said if before else said


def follow_files(
    words: list[str],
    redirects: Sequence[Redirect],
    given: str | None,
    expander: Expander,
    files: dict[str, str],
) -> None:
    """Files that ``cat <<EOF > FILE``, ``tee FILE <<EOF``, ``echo … > FILE`` write; those that a command
    changes in a way that is not followed are not known any more."""
    program = words[0].rpartition("/")[2]
    if program == "sudo":
        words = words[1:]
        program = words[0].rpartition("/")[2] if words else ""
    names = [w for w in words[1:] if not w.startswith("-")]
    if program == "tee":
        for name in names:
            if not name.startswith("/dev/"):
                put_file(name, given, "-a" in words, files)
    elif program in ("cp", "mv") and len(names) == 2:
        text = expander.files.get(file_name(names[0]))
        put_file(names[1], text, False, files)
        if program == "mv":
            files.pop(file_name(names[0]), None)
    elif program == "rm" or (
        program in ("sed", "perl") and any(re.match(r"-\w*i", w) for w in words[1:])
    ):
        for name in names:
            files.pop(file_name(name), None)
    if any(r.operator in _WRITES for r in redirects):
        redirect(redirects, said_by(words, given, expander), expander, files)


def said_by(words: list[str], given: str | None, expander: Expander) -> str | None:
    """What goes into a file: unknown values stay in it as they are written."""
    program = words[0].rpartition("/")[2]
    if program == "cat" and len(words) == 1 and given is not None:
        return given
    if program == "echo":
        plain = printed([w.replace("$", "\0") for w in words], "", {})
        return None if plain is None else _kept(plain.replace("\0", "$"), words)
    return (
        printed(words, given or "", expander.files) if given is not None or len(words) > 1 else None
    )


def _kept(said: str, words: list[str]) -> str:
    """With the lines of the one word that it is."""
    one = words[1] if len(words) == 2 else ""
    if isinstance(one, Text) and said == f"{one}\n":
        text = Text(said)
        text.marks = one.marks
        return text
    return said


def printed_by(node: GroupStatement, expander: Expander) -> str | None:
    """What ``{ echo …; cat <<EOF …; } > FILE`` prints."""
    if not any(r.operator in _WRITES for r in node.redirects):
        return None
    said: list[str] = []
    for statement in node.body:
        if not isinstance(statement, Simple):
            return None
        from meshwise.launch.shell.syntax.statements import Body

        text = output(Body(node.body.source, (), (statement,)), expander)
        if text is None:
            return None
        said.append(text)
    return "".join(said)
