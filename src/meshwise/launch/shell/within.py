"""Scripts inside a command: what ``bash -c``, ``eval``, ``sbatch --wrap`` and here-documents run."""

from __future__ import annotations

from typing import NamedTuple

from meshwise.errors import InputError, shorten
from meshwise.launch.wrappers.slurm import STARTERS

_SHELLS = ("bash", "sh", "zsh", "dash")
_AWAY = ("ssh", "pdsh", "clush", "tmux", "screen", "xargs", "su")  # their last word is a command
_MPI = ("mpirun", "mpiexec", "orterun")


class Within(NamedTuple):
    """``text`` is run with the arguments ``words``; ``starter``: srun and the like with options."""

    text: str
    words: list[str]
    starter: tuple[str, ...]


def inner_script(words: list[str], files: dict[str, str], given: str | None) -> Within | None:
    """The script in a command; ``files`` that the text wrote, ``given`` the here-document it reads."""
    program = words[0].rpartition("/")[2]
    if program == "eval":
        return Within(" ".join(words[1:]), [], ())
    wrapped = _wrapped(words) if program == "sbatch" else None
    if wrapped is not None:
        return Within(wrapped, [], tuple(words))
    at = next((i for i, w in enumerate(words) if w.rpartition("/")[2] in _SHELLS), None)
    if at is not None:
        return _shell(words, at, files, given)
    if given is not None and program == "kubectl":
        return _pods(given)
    applied = program == "kubectl" and next(
        (_manifest(w, files) for w in words if w in files), None
    )
    if applied:
        return _pods(applied)
    if given is not None and program in ("sbatch", "ssh"):
        return Within(given, [], tuple(words) if program == "sbatch" else ())
    named = next((i for i, w in enumerate(words[:9]) if _own(w, files) is not None), None)
    if named is not None and (named == 0 or program in (*STARTERS, *_MPI, "source", ".")):
        text = _own(words[named], files)
        return Within(text or "", words[named + 1 :], _starter(words[:named]))
    if program in _AWAY and any(c.isspace() for c in words[-1]):
        return Within(words[-1], [], ())
    return None


def _shell(words: list[str], at: int, files: dict[str, str], given: str | None) -> Within | None:
    """``bash -c TEXT``, ``bash FILE`` of a file that the text wrote, ``bash <<EOF``."""
    starter = _starter(words[:at])
    for i in range(at + 1, len(words)):
        word = words[i]
        if word.startswith("-") and not word.startswith("--") and word.endswith("c"):
            if i + 1 >= len(words):
                return None
            text, more = words[i + 1], words[i + 2 :]
            if more and "$" not in text:
                raise _split(more)
            return Within(text, more[1:], starter)
        if not word.startswith("-") and word not in ("pipefail",):
            text = _own(word, files) or ""
            return Within(text, words[i + 1 :], starter) if text else None
    return Within(given, [], starter) if given is not None else None


def _split(more: list[str]) -> InputError:
    return InputError(
        f"command: {shorten(more[0])} and what follows is outside the text that `-c` runs: an array in "
        "quotes is several words",
        field="command",
        value=more[0],
        legal='"${ARRAY[*]}" in place of "${ARRAY[@]}" in that text',
    )


def _own(word: str, files: dict[str, str]) -> str | None:
    """The text of a script that was written before."""
    for name in (word, word.removeprefix("./"), "./" + word):
        if name in files and not name.endswith((".json", ".yaml", ".yml", ".toml", ".py", ".txt")):
            return files[name]
    return None


def _manifest(word: str, files: dict[str, str]) -> str | None:
    return files[word] if word.endswith((".yaml", ".yml")) else None


def _pods(text: str) -> Within | None:
    """What ``kubectl apply`` starts."""
    from meshwise.launch.wrappers.manifests import container_commands  # it reads shell texts too

    found = container_commands(text)
    return Within(found, [], ()) if found is not None else None


def _starter(words: list[str]) -> tuple[str, ...]:
    """srun or mpirun before a shell; no other word around it."""
    known = (*STARTERS, *_MPI)
    at = next((i for i, w in enumerate(words) if w.rpartition("/")[2] in known), None)
    return tuple(words[at:]) if at is not None else ()


def _wrapped(words: list[str]) -> str | None:
    for i, word in enumerate(words):
        if word.startswith("--wrap="):
            return word.partition("=")[2]
        if word == "--wrap" and i + 1 < len(words):
            return words[i + 1]
    return None
