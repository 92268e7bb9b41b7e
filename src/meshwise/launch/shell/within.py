"""Scripts inside a command: what ``bash -c``, ``eval``, ``sbatch --wrap``, here-documents, units and files
run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from meshwise.errors import InputError, shorten
from meshwise.launch.shell.runners.terminals import typed_text
from meshwise.launch.shell.values.memory import file_name
from meshwise.launch.wrappers.slurm import STARTERS

_SHELLS = ("bash", "sh", "zsh", "dash", "ksh")
# what takes a command as its last word, to run it elsewhere
_AWAY = ("ssh", "pdsh", "clush", "pssh", "parallel-ssh", "kubectl")
_HERE = ("tmux", "screen", "xargs", "su", "script", "watch", "timeout", "nohup")
_MPI = ("mpirun", "mpiexec", "orterun")
_SAME = ("eval", "source", ".")
_NO_SCRIPTS = (".json", ".yaml", ".yml", ".toml", ".py", ".txt", ".jinja", ".md")


class Within(NamedTuple):
    """``text`` is run with the arguments ``words`` (None: those of the shell around it); ``starter``:
    srun and the like with options. ``shell``: same, child (gets what is exported) or away (gets nothing).
    """

    text: str
    words: list[str] | None
    starter: tuple[str, ...] = ()
    shell: str = "child"
    file: str = ""
    name: str = ""  # its own $0


class Files(NamedTuple):
    """Texts by name: those that the text wrote, and those that are given beside it."""

    written: Mapping[str, str]
    beside: Mapping[str, str]

    def script(self, word: str) -> str | None:
        """The text of a script that a word names."""
        if word.endswith(_NO_SCRIPTS):
            return None
        word = file_name(word)
        if word in self.written:
            return self.written[word]
        name = PurePosixPath(word).name
        ours = {PurePosixPath(k).name: v for k, v in self.beside.items()}
        return self.beside.get(word, ours.get(name))

    def any(self, word: str) -> str | None:
        word = file_name(word)
        return self.written.get(word, self.beside.get(word))


def inner_script(words: list[str], files: Files, given: str | None) -> Within | None:
    """The script in a command; ``given``: what it reads, where that is in the text."""
    program = words[0].rpartition("/")[2]
    if program == "eval":
        return Within(words[1] if len(words) == 2 else " ".join(words[1:]), None, (), "same")
    if program in _SAME:
        text = files.script(words[1]) if len(words) > 1 else None
        return None if text is None else Within(text, words[2:] or None, (), "same", words[1])
    unit = _unit(words, files) if program == "systemctl" else None
    if unit is not None:
        return Within(unit, [], (), "away")
    typed = typed_text(words)
    if typed is not None:
        return Within(typed, [])
    wrapped = _wrapped(words) if program == "sbatch" else None
    if wrapped is not None:
        return Within(wrapped, [], tuple(words))
    at = next((i for i, w in enumerate(words) if w.rpartition("/")[2] in _SHELLS), None)
    away = "away" if program in _AWAY else "child"
    if at is not None:
        found = _shell(words, at, files, given)
        return found._replace(shell=away) if found is not None else None
    manifest = _manifest(words, files, given) if program == "kubectl" else None
    if manifest is not None:
        return Within(manifest, [], (), "away")
    if given is not None and program in ("sbatch", "ssh"):
        return Within(given, [], tuple(words) if program == "sbatch" else (), away)
    starts = program in (*STARTERS, *_MPI)
    for i, word in enumerate(words[:24] if starts else words[:1]):
        text = files.script(word)
        if text is not None:
            return Within(text, words[i + 1 :], _starter(words[:i]), "child", word)
    if program in (*_AWAY, *_HERE) and any(c.isspace() for c in words[-1]):
        return Within(words[-1], [], (), away)
    return None


def _shell(words: list[str], at: int, files: Files, given: str | None) -> Within | None:
    """``bash -c TEXT``, ``bash FILE``, ``bash <<EOF``."""
    starter = _starter(words[:at])
    for i in range(at + 1, len(words)):
        word = words[i]
        if word.startswith("-") and not word.startswith("--") and word.endswith("c"):
            if i + 1 >= len(words):
                return None
            text, more = words[i + 1], words[i + 2 :]
            if more and "$" not in text:
                raise _split(more)
            return Within(text, more[1:], starter, name=more[0] if more else "")
        if word in ("-s", "--"):
            return Within(given, words[i + 1 :], starter) if given is not None else None
        if not word.startswith(("-", "+")) and word not in ("pipefail",):
            found = files.script(word)
            return Within(found, words[i + 1 :], starter, "child", word) if found else None
    return Within(given, [], starter) if given is not None else None


def _split(more: list[str]) -> InputError:
    return InputError(
        f"command: {shorten(more[0])} and what follows is outside the text that `-c` runs: an array in "
        "quotes is several words",
        field="command",
        value=more[0],
        legal='"${ARRAY[*]}" in place of "${ARRAY[@]}" in that text',
    )


def _manifest(words: list[str], files: Files, given: str | None) -> str | None:
    """What ``kubectl apply`` starts."""
    from meshwise.launch.wrappers.manifests import container_commands  # it reads shell texts too

    named = [t for w in words if w.endswith((".yaml", ".yml")) and (t := files.any(w)) is not None]
    text = named[0] if named else given
    if text is None or not {"apply", "create", "replace"} & set(words):
        return None
    return container_commands(text, None, {**files.beside, **files.written})


def _unit(words: list[str], files: Files) -> str | None:
    """The unit that ``systemctl start NAME`` starts, where the text writes it."""
    from meshwise.launch.wrappers.starters.units import unit_text

    if not {"start", "restart", "--now"} & set(words):
        return None
    wanted = {w.removesuffix(".service") + ".service" for w in words[1:] if not w.startswith("-")}
    known = {PurePosixPath(k).name: v for k, v in {**files.beside, **files.written}.items()}
    texts = [known[name] for name in wanted if name in known]
    return unit_text(texts[0]) if texts else None


def _starter(words: list[str]) -> tuple[str, ...]:
    """srun or mpirun before a shell, or torchrun that starts no Python; no other word around it."""
    known = [*STARTERS, *_MPI]
    if any(w in ("--no-python", "--no_python") for w in words):
        known.append("torchrun")
    at = next((i for i, w in enumerate(words) if w.rpartition("/")[2] in known), None)
    return tuple(words[at:]) if at is not None else ()


def _wrapped(words: list[str]) -> str | None:
    for i, word in enumerate(words):
        if word.startswith("--wrap="):
            return word.partition("=")[2]
        if word == "--wrap" and i + 1 < len(words):
            return words[i + 1]
    return None
