"""Makefiles: their variables and recipes as shell text, each target's by its name."""

from __future__ import annotations

import itertools
import re

from meshwise.errors import InputError, shorten
from meshwise.launch.wrappers.manifests import NAME

_RULE = re.compile(r"([\w./%$(){}-]+(?:[ \t]+[\w./%$(){}-]+)*)[ \t]*::?(?!=)([^=\n]*)$")
_SET = re.compile(
    r"(?:export[ \t]+|override[ \t]+)*([A-Za-z_]\w*)[ \t]*(\?|:{1,3}|\+)?=[ \t]*(.*)$"
)
_CONDITION = re.compile(r"(ifeq|ifneq|ifdef|ifndef|define|include|-include)\b")
_SHELL = re.compile(r"\$\(shell\s+([^()]*)\)")
_FUNCTION = re.compile(r"\$[({]([\w-]+)\s+[^(){}]*[)}]")
_NAME = re.compile(r"\$[({]([A-Za-z_]\w*)[)}]")


def is_makefile(text: str) -> bool:
    """Whether a text has a rule with a recipe, which no shell and no YAML has."""
    if text.startswith("#!") or ("<<" in text and ".PHONY" not in text):
        return False
    rows = text.splitlines()
    return any(
        _RULE.match(row) and after.startswith("\t") and after.strip()
        for row, after in itertools.pairwise(rows)
    )


def makefile_text(text: str) -> str:
    """The shell text of all recipes, their lines where they stand."""
    rows: list[str] = []
    goes_on = False
    for number, line in enumerate(text.splitlines(), 1):
        if goes_on or line.startswith("\t"):
            recipe = line.lstrip("\t") if goes_on else line.strip("\t").lstrip("@-+ ")
            rows.append(_in_shell(recipe))
            goes_on = line.endswith("\\")
            continue
        bare = line.split(" #")[0].rstrip()
        condition = _CONDITION.match(bare)
        if condition is not None and condition[1].startswith("if"):
            raise InputError(
                f"command: {shorten(bare)} in line {number}: which way make takes is not read",
                field="command",
                value=bare,
                legal="what `make --dry-run TARGET` prints",
            )
        rows.append(_outside(bare))
    return "\n".join(rows)


def _outside(line: str) -> str:
    """A variable, or the name of a rule; an empty line for all else."""
    said = _SET.match(line)
    if said is not None and not line.startswith(("#", ".")):
        name, sign, value = said.groups()
        value = _in_shell(value).replace("\\", "\\\\").replace('"', '\\"')
        if sign == "?":
            return f'export {name}="${{{name}:-{value}}}"'
        return f'export {name}+=" {value}"' if sign == "+" else f'export {name}="{value}"'
    rule = _RULE.match(line)
    if rule is not None and not line.startswith(("#", ".")):
        return f"{NAME}={rule[1].split()[0]}" if re.match(r"[\w.-]+", rule[1]) else ""
    return ""


def _in_shell(text: str) -> str:
    """What make replaces: its variables, its functions, ``$$``."""
    kept = text.replace("$$", "\0")
    kept = _SHELL.sub(r"`\1`", kept)
    kept = _FUNCTION.sub(r"${make_\1}", kept)
    kept = _NAME.sub(r"${\1}", kept)
    return kept.replace("\0", "$")
