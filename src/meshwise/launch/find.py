"""Which of a text's commands is a launch, and of which target: told by its words, not by its text."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from meshwise.launch.shell.commands import StartedCommand
from meshwise.launch.shell.runners.carried import IMAGE
from meshwise.launch.table import Target, every_target, function_of, target

_SHELLS = ("bash", "sh", "zsh", "source", ".")
_SCRIPT = re.compile(
    r"SCRIPT|RECIPE|CODE|FILE|MAIN|ENTRY"
)  # in the name of a variable that holds one
_DEGREES = ("tp", "pp", "cp", "ep", "etp", "dp", "dp_shard", "megatron_tp", "parallelism", "fsdp")


class _Programs(NamedTuple):
    """How commands are told by their words, from all targets' tables."""

    words: dict[tuple[str, ...], Target]  # a program, a module or a script, with the word after it
    patterns: dict[str, Target]  # of a script with its folder
    images: dict[str, Target]


@functools.cache
def _programs() -> _Programs:
    found = _Programs({}, {}, {})
    for chosen in every_target():
        for program in chosen.program:
            if "*" in program:
                found.patterns[program] = chosen
            else:
                found.words[tuple(program.split())] = chosen
        found.images.update(dict.fromkeys(chosen.images, chosen))
    return found


def image_targets() -> dict[str, Target]:
    """The target that a container's image starts, by the image's own name."""
    return _programs().images


class Launch(NamedTuple):
    """``before``: the launcher's words, the program's too; ``after``: the target's own."""

    target: Target
    before: list[str]
    after: list[str]
    by_structure: bool
    variables: Mapping[str, str]  # that are set where it stands
    lines: tuple[int, ...] = ()  # of each of its words, 0 where that is not known
    file: str = ""  # of these lines; none of the text itself

    @property
    def words(self) -> list[str]:
        return [*self.before, *self.after]


def launches(commands: list[StartedCommand], name: str | None) -> list[Launch]:
    """The launches among commands, of the target ``name`` where it is given."""
    found = [
        launch._replace(variables=c.variables, lines=c.lines, file=c.file)
        for c in commands
        if (launch := _launch(c.words)) is not None
    ]
    if name is None:
        return found
    wanted = target(name)
    chosen = [x for x in found if x.target.name == wanted.name]
    if chosen or found:
        return chosen or [_as(x.words, wanted, x.variables, x.lines) for x in found]
    known = wanted.by_spelling()
    said = [c for c in commands if any(w.partition("=")[0] in known for w in c.words)]
    return [_as(c.words, wanted, c.variables, c.lines) for c in said if not _a_script(c.words)]


def _as(
    words: list[str], wanted: Target, variables: Mapping[str, str], lines: tuple[int, ...]
) -> Launch:
    at = _script_at(words)
    return Launch(wanted, words[:at], words[at:], False, variables, lines)


def _launch(words: list[str]) -> Launch | None:
    for i, word in enumerate(words):
        base = word.rpartition("/")[2]
        after = words[i + 1] if i + 1 < len(words) else ""
        known = _programs().words
        chosen, many = known.get((base, *words[i + 1 : i + 3])), 3
        if chosen is None:
            chosen, many = known.get((base, after)), 2
        if chosen is None:
            chosen, many = known.get((base,)) or _pattern(word) or _image(base, words[:i], after), 1
        if chosen is not None:
            named = base.partition(":")[0] in image_targets() and after[:1] not in ("-", "")
            inner = _launch(words[i + 1 :]) if named else None  # a program in the image's place
            if inner is not None and inner.by_structure:
                return inner._replace(before=[*words[: i + 1], *inner.before])
            return Launch(chosen, words[: i + many], words[i + many :], True, {})
    for chosen in every_target():
        if chosen.override and any(re.match(rf"\+*{chosen.override}", w) for w in words):
            at = next(i for i, w in enumerate(words) if re.match(r"\+*\w+\.\w+=", w))
            script = _script_at(words[:at])  # whose own flags may stand before its overrides
            at = script or at
            return Launch(chosen, words[:at], words[at:], True, {})
    return None if _a_script(words) else _of_script(words)


def _pattern(word: str) -> Target | None:
    return next((t for p, t in _programs().patterns.items() if fnmatchcase(word, p)), None)


def _image(base: str, before: list[str], after: str) -> Target | None:
    """A container whose image starts the engine, where it is started: not pulled, built or named."""
    called = base.partition("@")[0].partition(":")[0]
    if called.endswith(".sif"):  # pulled from a registry: its name, its tag
        called = called.removesuffix(".sif").partition("_")[0]
    chosen = image_targets().get(called)
    programs = [w.rpartition("/")[2] for w in before]
    ran = any(p in _RUN_IMAGES for p in programs)
    starts = any(p in ("run", "create") for p in programs)
    if after.rpartition("/")[2] in _SHELLS:  # a shell in it, for what is typed there
        return None
    return chosen if (ran and starts) or IMAGE in programs else None


# programs whose `run` or `create` starts what an image has as its own command
_RUN_IMAGES = ("docker", "podman", "nerdctl", "apptainer", "singularity")


def _of_script(words: list[str]) -> Launch | None:
    """A training script: told by its name or its launcher, or by the flags of one target's layout."""
    at = _script_at(words)
    script = words[at - 1] if at else ""
    before, after = words[:at], words[at:]
    says = {chosen.name for chosen in every_target() if _says(after, chosen)}
    claimed = []
    for chosen in every_target() if at else ():
        claims = function_of(chosen, "claims")
        sure = 0 if claims is None else claims(before, after, says)
        claimed += [(sure, chosen)] if sure else []
    if claimed:
        return Launch(max(claimed, key=lambda c: c[0])[1], before, after, True, {})
    if len(says) == 1 and (words[0] != script or not words[0].startswith("-")):
        return Launch(target(says.pop()), before, after, False, {})
    return None


def _says(words: list[str], *chosen: Target) -> bool:
    return any(_says_of(words, one) for one in chosen)


def _says_of(words: list[str], chosen: Target) -> bool:
    spelt = {
        s.replace("_", "-")
        for name in _DEGREES
        if name in chosen.flags
        for s in chosen.flags[name].spellings
        if len(s) > 5
    }
    return any(w.partition("=")[0].replace("_", "-") in spelt for w in words)


def _script_at(words: list[str]) -> int:
    """Where the words of the script itself begin: after it."""
    for i, word in enumerate(words):
        if word == "-m" and i + 1 < len(words) and not words[i + 1].startswith("torch."):
            return i + 2
        if word.endswith((".py", ".sh")) and not word.startswith("-"):
            return i + 1
    launcher = [i for i, w in enumerate(words) if w.rpartition("/")[2] in ("torchrun", "deepspeed")]
    for i in range(launcher[0] + 1 if launcher else len(words), len(words)):
        if words[i].startswith("$") and _SCRIPT.search(words[i]):
            return i + 1
    return 0


def script_end(words: list[str]) -> int:
    """Where the words of the script itself begin in those of a launcher without its program; 0 where no
    script is told by its name."""
    for i, word in enumerate(words):
        if word in ("-m", "--module") and i + 1 < len(words):
            return i + 2
        if word.startswith("-"):
            continue
        named = word.startswith("$") and _SCRIPT.search(word) is not None
        if word.endswith((".py", ".sh")) or (named and not (i and words[i - 1].startswith("--"))):
            return i + 1
    return 0


def _a_script(words: list[str]) -> bool:
    """``bash train.sh …``: what it does with its words is not in the text."""
    return script_of(words) is not None


def may_start(text: str) -> bool:
    """Whether a text that is not read has a word of a launch: a program, a script, a flag of a layout."""
    first = {words[0] for words in _programs().words}
    for word in re.split(r"[\s;&|()'\"`]+", text):
        base = word.rpartition("/")[2]
        if base in first or base.endswith(".py") or _pattern(word) is not None:
            return True
        if word.startswith("-") and _says([word], *every_target()):
            return True
    return False


def script_of(words: list[str]) -> str | None:
    if words[0].rpartition("/")[2] == "sbatch":  # behind options of its own
        return next((w for w in words[1:] if w.endswith((".sh", ".slurm", ".sbatch"))), None)
    for i, word in enumerate(words):
        base = word.rpartition("/")[2]
        if base.endswith(".sh") and (base,) not in _programs().words:
            starts = i == 0 or words[i - 1].rpartition("/")[2] in _SHELLS or word.startswith("./")
            return word if starts or i == 1 else None
    return None
