"""A flag that a target does not have and that is about the layout: misspelt, another target's, or a number
of some parallelism."""

from __future__ import annotations

import re

from meshwise.errors import InputError, closest, shorten
from meshwise.launch.shell.commands import whole_number
from meshwise.launch.spelling.source_flags import source_flags
from meshwise.launch.table import Flag, Target, every_target

ALIKE = 0.9  # of a misspelt flag to the one that was meant
ALIKE_OF_NONE = 0.85  # the same, of a word that none of the target's own flags is
_KINDS = ("tp", "pp", "dp", "cp", "ep", "etp", "dcp", "vp", "micro_batch", "global_batch")
_ABOUT = re.compile(
    r"(tensor|pipeline|data|expert|context|sequence|model)[-_]\w*[-_]?parallel|[-_](tp|pp|dp|ep|cp)$"
)
# of a fork's flags those that build other attention or other layers
_LAYERS = re.compile(
    r"(attention|attn|head|layer|block|mlp|ffn)s?[-_](type|kind|pattern|size|dim)$|multi[-_]?query|sliding|"
    r"window[-_]size|intermediate[-_]size|(num|n)[-_]\w*[-_]?(heads|layers|blocks|groups|experts)$|"
    r"parallel[-_](attention|attn|mlp)$|key[-_]value|embed\w*[-_](size|dim)$"
)
_DEGREE = re.compile(r"(size|degree|ranks|stages|num|shards|parallel|tp|pp|dp|ep|cp)$")


def about_parallelism(name: str) -> bool:
    """Whether a flag's name says that it is about some parallelism."""
    return _ABOUT.search(name) is not None


def builds_layers(name: str) -> bool:
    """Whether the name of a flag of no table says that it changes attention or the layers."""
    return _LAYERS.search(name) is not None


def misspelt(name: str, known: dict[str, Flag], chosen: Target, values: list[str]) -> None:
    """Raise for a flag that the target does not have and that is about the layout: one that resembles
    a flag of the layout, that is another target's, or that gives a number of some parallelism."""
    if len(name) < 3:
        return
    alike = ALIKE if source_flags(chosen.name) is None else ALIKE_OF_NONE
    nearest = _resembled(name, known, alike) or _lent(name, chosen)
    numeric = any(whole_number(value) is not None or value.startswith("$") for value in values)
    about = about_parallelism(name)
    degree = (
        about and (numeric or name.startswith(("--enable-", "--use-"))) and _DEGREE.search(name)
    )
    if nearest is None and degree:
        nearest = next(iter(closest(name, known)), None)
    if nearest is not None or degree:
        near = [s for s in known if nearest is not None and s[:6] == nearest[:6]]
        raise InputError(
            f"{shorten(name)}: {chosen.title} has no such flag of a layout that is known here",
            field=name,
            value=name,
            legal=sorted(near)[:20] or sorted(known)[:20],
            nearest=nearest,
        )


def _resembled(name: str, known: dict[str, Flag], alike: float) -> str | None:
    import difflib

    # files and Python write a flag's name with underscores
    for spelt in dict.fromkeys((name, "--" + name[2:].replace("_", "-"))):
        for near in closest(spelt, known, n=3):
            if near[:3] != spelt[:3]:  # the first letter is seldom mistaken: --patch-size is a word
                continue
            same_length = abs(len(near) - len(spelt)) <= 3
            ratio = difflib.SequenceMatcher(None, near, spelt).ratio()
            if (same_length and ratio >= alike) or ratio >= 0.95:
                return near
    return None


def _lent(name: str, chosen: Target) -> str | None:
    """The target's own flag for what another target calls by this name."""
    for other in every_target():
        flag = other.by_spelling().get(name)
        if flag is not None and flag.name in _KINDS and flag.name in chosen.flags:
            return chosen.flags[flag.name].spellings[0]
    return None
