"""Commands inside the words of another: of a container, ``env``, ``conda run``, ``xargs``, ``parallel``."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Sequence
from typing import NamedTuple

from meshwise.launch.shell.values.memory import unfollowed

_CONTAINERS = ("docker", "podman", "nerdctl", "nvidia-docker")
# options of `docker run` and `docker exec` without a value; any other takes the next word
_BARE = frozenset(
    [
        *("-d", "-i", "-t", "-it", "-ti", "-id", "-dit", "-itd", "-td", "-dt", "-di", "-q", "-P"),
        *("--detach", "--interactive", "--tty", "--rm", "--privileged", "--init", "--read-only"),
        *("--publish-all", "--no-healthcheck", "--oom-kill-disable", "--sig-proxy", "--quiet"),
        *("--disable-content-trust", "--replace", "--use-api-socket", "--tls", "--rmi"),
    ]
)
_CONDA_TAKING = ("-n", "--name", "-p", "--prefix", "--cwd")
_ENV_TAKING = ("-u", "--unset", "-C", "--chdir")
_XARGS_TAKING = ("-n", "-P", "-L", "-d", "-a", "-s", "-E", "-I", "--max-args", "--max-procs")
_PARALLEL_TAKING = (
    *("-j", "--jobs", "-a", "--colsep", "-C", "-n", "-N", "--delay", "--joblog", "--results"),
    *("-S", "--sshlogin", "--sshloginfile", "--tmpdir", "--timeout", "--retries", "-P"),
)
IMAGE = "MESHWISE_POD_IMAGE"  # before an image whose own program gets the words after it
_MANY = 64  # commands of one line: more than these are not listed


class Carried(NamedTuple):
    """A command with what it gets besides the environment around it; ``alone``: in place of that;
    ``reads``: what the command around it reads, where that does not use it up."""

    words: list[str]
    environment: tuple[tuple[str, str], ...] = ()
    alone: bool = False
    reads: str | None = None


def carried(
    words: Sequence[str],
    given: str | None,
    file_text: Callable[[str], str | None],
    value_of: Callable[[str], str | None],
) -> list[Carried] | None:
    """What the words of a command run; None where they are a command by themselves. ``given``: what it
    reads, where that is in the text."""
    program = words[0].rpartition("/")[2]
    rest = list(words)
    if program == "xargs":
        return _xargs(rest, given, file_text)
    if program == "parallel":
        return _parallel(rest, given)
    if program in ("conda", "mamba") and rest[1:2] == ["run"]:
        at = _after_options(rest, 2, _CONDA_TAKING)
        return [Carried(rest[at:], reads=given)] if at < len(rest) else None
    for i, word in enumerate(rest[:24]):
        base = word.rpartition("/")[2]
        if base == "env" and (i == 0 or not rest[i - 1].startswith("-")):
            return _reading(_env(rest, i), given)
        if base in _CONTAINERS:
            return _reading(_container(rest, i, file_text, value_of), given)
    return _pod(rest) if program == "kubectl" else None


def _reading(runs: list[Carried] | None, given: str | None) -> list[Carried] | None:
    return None if runs is None else [run._replace(reads=given) for run in runs]


def _after_options(words: list[str], at: int, taking: Sequence[str]) -> int:
    while at < len(words) and words[at].startswith("-") and words[at] != "--":
        at += 2 if words[at] in taking else 1
    return at + 1 if words[at : at + 1] == ["--"] else at


def _env(words: list[str], at: int) -> list[Carried] | None:
    """``env -i NAME=VALUE command``."""
    first, alone = at + 1, False
    environment: list[tuple[str, str]] = []
    while first < len(words):
        word = words[first]
        name, equals, value = word.partition("=")
        if equals and name.isidentifier():
            environment.append((name, value))
        elif word in _ENV_TAKING:
            first += 1
        elif word.startswith("-"):
            alone = alone or word in ("-i", "-", "--ignore-environment")
        else:
            return [Carried([*words[:at], *words[first:]], tuple(environment), alone)]
        first += 1
    return None


# -- containers -----------------------------------------------------------------------------------------


def _container(
    words: list[str],
    at: int,
    file_text: Callable[[str], str | None],
    value_of: Callable[[str], str | None],
) -> list[Carried] | None:
    """``docker run``: with ``--entrypoint`` another program than the image's own, and of the environment
    only what ``-e`` and ``--env-file`` name."""
    verb = next((i for i in range(at + 1, len(words)) if words[i] in ("run", "create", "exec")), 0)
    if not verb or "compose" in words[at:verb]:
        return None
    kept, environment = words[: verb + 1], []
    entrypoint: str | None = None
    i = verb + 1
    while i < len(words) and words[i].startswith("-"):
        word = words[i]
        name, equals, value = word.partition("=")
        if name.startswith("-e") and not name.startswith("--") and len(word) > 2:
            name, equals, value = "-e", "=", word[2:].removeprefix("=")
        took = not equals and name not in _BARE
        if took:
            value = words[i + 1] if i + 1 < len(words) else ""
        if name in ("-e", "--env"):
            environment += _variable(value, value_of)
        elif name == "--env-file":
            lines = (file_text(value) or "").splitlines()
            environment += [v for line in lines if "=" in line for v in _variable(line, value_of)]
        if name == "--entrypoint":
            entrypoint = value
        else:
            kept += words[i : i + 1 + took]
        i += 1 + took
    if i >= len(words):
        return None
    image, after = words[i : i + 1], words[i + 1 :]
    if entrypoint is not None:
        image, after = [], [*([entrypoint] if entrypoint else []), *after]
    whole = [*kept, *image, *after]
    return [Carried(whole, tuple(environment), True)]


def _variable(said: str, value_of: Callable[[str], str | None]) -> list[tuple[str, str]]:
    name, equals, value = said.strip().partition("=")
    if not name.isidentifier():
        return []
    own = value if equals else value_of(name)
    return [] if own is None else [(name, own)]


def _pod(words: list[str]) -> list[Carried] | None:
    """``kubectl run NAME --image=… -- arguments``: of the image's own program, or with ``--command`` (or
    where the first is no option) the command itself."""
    if "run" not in words[:6] or "--" not in words:
        return None
    at = words.index("--")
    before, after = words[:at], words[at + 1 :]
    image = next((w[8:] for w in before if w.startswith("--image=")), None)
    own = [w for w in before if not w.startswith("--image=")]
    if image is None and "--image" in before[:-1]:
        i = before.index("--image")
        image, own = before[i + 1], [*before[:i], *before[i + 2 :]]
    if image is None or not after:
        return None
    environment = [
        v for w in own if w.startswith("--env=") for v in _variable(w[6:], lambda _: None)
    ]
    if "--command" in own or not after[0].startswith("-"):
        return [Carried(after, tuple(environment), True)]
    return [Carried([*own, IMAGE, image, *after], tuple(environment), True)]


# -- once for each value --------------------------------------------------------------------------------


def _xargs(
    words: list[str], given: str | None, file_text: Callable[[str], str | None]
) -> list[Carried] | None:
    """The command with what it reads behind it, or in the place of what ``-I`` names, once for each line."""
    place, each = "", 0
    i = 1
    while i < len(words) and words[i].startswith("-"):
        word = words[i]
        value = words[i + 1] if i + 1 < len(words) else ""
        if word.startswith("-I"):
            place = word[2:] or value
        elif word == "-i":
            place = "{}"
        elif word in ("-n", "--max-args", "-L") and value.isdigit():
            each = int(value)
        elif word[:2] == "-n" and word[2:].isdigit():
            each = int(word[2:])
        elif word == "-a":
            given = file_text(value)
        i += 2 if word in _XARGS_TAKING else 1
    command = words[i:]
    if not command:
        return None
    unknown = unfollowed("xargs", "what xargs reads")
    if place:
        rows = [unknown] if given is None else [r for r in given.splitlines() if r.strip()]
        return [Carried([w.replace(place, r.strip()) for w in command]) for r in rows[:_MANY]]
    if given is None:
        return [Carried([*command, unknown])]
    values = given.split()
    step = each or max(len(values), 1)
    parts = [values[k : k + step] for k in range(0, len(values), step)]
    return [Carried([*command, *part]) for part in parts[:_MANY]]


def _parallel(words: list[str], given: str | None) -> list[Carried] | None:
    """GNU parallel's command, a shell's text, for each value behind ``:::`` or each line that it reads."""
    at = _after_options(words, 1, _PARALLEL_TAKING)
    marks = [i for i, w in enumerate(words) if w in (":::", ":::+")]
    text = " ".join(words[at : marks[0] if marks else len(words)])
    if not text:
        return None
    rows: list[tuple[str, ...]]
    if marks:
        ends = [*marks[1:], len(words)]
        lists = [words[a + 1 : b] for a, b in zip(marks, ends, strict=True)]
        linked = ":::+" in words
        rows = list(zip(*lists, strict=False) if linked else itertools.product(*lists))
    elif given is not None:
        rows = [(line.strip(),) for line in given.splitlines() if line.strip()]
    else:
        rows = [(unfollowed("parallel", "what parallel reads"),)]
    return [Carried(["bash", "-c", _filled(text, row)]) for row in rows[:_MANY]]


def _filled(text: str, row: Sequence[str]) -> str:
    found = text
    for i, value in enumerate(row, 1):
        found = found.replace(f"{{{i}}}", _quoted_value(value))
    if len(row) == 1 or "{}" in found:
        whole = " ".join(map(_quoted_value, row))
        found = found.replace("{}", whole) if "{}" in found or found != text else f"{found} {whole}"
    return found


def _quoted_value(value: str) -> str:
    return value if "$" in value else shlex.quote(value)
