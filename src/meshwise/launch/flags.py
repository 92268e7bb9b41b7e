"""A target's own words: every one is a setting, priced or not, known and of no matter, or not followed."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from meshwise.errors import InputError, closest, shorten
from meshwise.launch.settings.settings import Settings
from meshwise.launch.settings.source_flags import (
    SourceFlag,
    SourceFlags,
    as_default,
    is_flag,
    source_flags,
    spellings,
    taken,
)
from meshwise.launch.shell.commands import unset_names, whole_number
from meshwise.launch.shell.values.memory import WHY, reasons
from meshwise.launch.table import Flag, Target, every_target
from meshwise.strict_tables import count, fraction

ALIKE = 0.9  # of a misspelt flag to the one that was meant
ALIKE_OF_NONE = 0.85  # the same, of a word that none of the target's own flags is
# settings that name a layout; without one of them a command states none
LAYOUT_SETTINGS = frozenset(
    [
        "tp",
        "pp",
        "dp",
        "cp",
        "ep",
        "etp",
        "dcp",
        "pcp",
        "vp",
        "layers_per_stage",
        "expert_parallel",
        "dp_attention",
        "dp_shard",
        "dp_replicate",
        "fsdp",
        "fsdp2",
        "multi_gpu",
        "parallelism",
        "megatron",
        "megatron_tp",
        "megatron_pp",
        "stage",
        "zero_stage",
        "deepspeed",
        "distributed_optimizer",
        "sequence_parallel",
    ]
)
_KINDS = ("tp", "pp", "dp", "cp", "ep", "etp", "dcp", "vp", "micro_batch", "global_batch")
_ABOUT = re.compile(
    r"(tensor|pipeline|data|expert|context|sequence|model)[-_]\w*[-_]?parallel|[-_](tp|pp|dp|ep|cp)$"
)
_DEGREE = re.compile(r"(size|degree|ranks|stages|num|shards|parallel|tp|pp|dp|ep|cp)$")
# a list of arguments by a name that says what else it holds
_OTHERS = re.compile(
    r"MODEL|DATA|TOKENI|LOG|CKPT|CHECKPOINT|SAVE|LOAD|OUTPUT|EVAL|WANDB|TENSORBOARD|PROFIL|NCCL|MASTER|"
    r"SCRIPT|RECIPE|CODE|PATH|DIR|FILE|PORT|HOST|ADDR|RANK|NAME|IMAGE|API_KEY|TOKEN|SEED|LR|JOB",
    re.IGNORECASE,
)
_HEADLESS = re.compile(r"\$\(\[ [^]]* \] && echo --headless\)")
_LAYOUT = re.compile(r"PARALLEL|DIST|LAYOUT|(^|_)(TP|PP|DP|CP|EP|MP)(_|$)", re.IGNORECASE)


class ReadWords(NamedTuple):
    """``ignored`` flags do not matter to a price; ``unpriced`` (flag, what it changes) do;
    ``unknown`` are in no table, ``unread`` are variables that the text does not set."""

    settings: Settings
    positional: list[str]
    ignored: list[str]
    unpriced: list[tuple[str, str]]
    unknown: list[str]
    notes: list[str]
    unread: list[str]
    foreign: list[str]  # names that are no flags of the target's source


def no_words() -> ReadWords:
    return ReadWords({}, [], [], [], [], [], [], [])


def read_words(words: list[str], chosen: Target) -> ReadWords:
    """Raise for a wrong value, a contradiction, a misspelt flag and a word that may hold the layout."""
    found = no_words()
    known = chosen.by_spelling()
    unset: list[tuple[str, str]] = []
    why: dict[str, str] = {}
    i = 0
    while i < len(words):
        word = words[i]
        name, equals, given = word.partition("=")
        i += 1
        flag = _flag(known, name, chosen)
        if flag is None:
            i = _other(words, i, chosen, known, found)
            continue
        value: Any = True
        if flag.kind == "flag":
            if equals:
                value = given.strip().lower() not in ("false", "0", "no")
            elif i < len(words) and words[i].lower() in ("true", "false"):
                value = words[i].lower() == "true"
                i += 1
        else:
            if not equals:
                if i >= len(words) or words[i].startswith("--"):
                    raise InputError(
                        f"{shorten(name)}: missing its value",
                        field=name,
                        legal=f"for example {name} 8",
                    )
                given = words[i]
                i += 1
                while flag.kind == "list" and i < len(words) and re.match(r"[a-z]", words[i]):
                    given += f",{words[i]}"
                    i += 1
            if unset_names(given) and flag.name not in ("model", "config"):
                why |= reasons(given)
                unset += [(name, variable) for variable in unset_names(given)]
                continue
            value = _value(flag, name, given)
        if value is None:  # null: as where it is not said
            continue
        before = found.settings.get(flag.name)
        if before is not None and before != value:
            raise InputError(
                f"{name}={shorten(value)}: the command also says {before}",
                field=name,
                value=value,
                legal="one value",
                nearest=shorten(before) if isinstance(before, str) else before,
            )
        found.settings[flag.name] = value
    _all_set(unset, why)
    source = source_flags(chosen.name)
    if found.foreign and source is not None:
        named = ", ".join(shorten(name) for name in dict.fromkeys(found.foreign))
        found.notes.append(f"no flags of {source.release}, left aside: {named}")
    return found


def _all_set(unset: list[tuple[str, str]], why: dict[str, str]) -> None:
    if not unset:
        return
    names = list(dict.fromkeys(f"${variable}" for _, variable in unset))
    said = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not set in the text"
    raise InputError(
        f"{unset[0][0]}: {said}{_because(why)}",
        field=unset[0][0],
        value=names[0],
        legal=" ".join(f"{name[1:]}=…" for name in names) + " before the command",
    )


def _because(why: dict[str, str]) -> str:
    """What sets variables whose values do not follow from the text."""
    return "".join(
        f"; what {what} gives ${name} does not follow from it" for name, what in why.items()
    )


def _flag(known: dict[str, Flag], name: str, chosen: Target) -> Flag | None:
    flag = known.get(name)
    if flag is None and name.startswith("--"):
        flag = known.get("--" + name[2:].replace("_", "-")) or known.get(
            "--" + name[2:].replace("-", "_")
        )
    return flag


def _spelt(name: str, table: Any) -> str | None:
    return next((s for s in spellings(name) if s in table), None)


def _other(
    words: list[str], i: int, chosen: Target, known: dict[str, Flag], found: ReadWords
) -> int:
    """A word that is no setting, put where it belongs; where the next one stands."""
    word = words[i - 1]
    name, equals, given = word.partition("=")
    overrides = chosen.style == "overrides"
    if word.startswith("$") or (word.startswith("-") and "$" in name):
        _unread_word(word, found)
        return i
    if not re.match(r"--?[A-Za-z]", word) and not (overrides and equals):
        found.positional.append(word)
        return i
    values = [given] if equals else []
    source = source_flags(chosen.name)
    own = source.get(name) if source is not None else None
    part = name
    if own is None and not overrides:
        name, own = _part_of(name, source, chosen)
    if not equals and own is not None:
        values = words[i : i + taken(own, words, i)]
        i += len(values)
    elif not equals and _spelt(name, chosen.bare) is None:
        # all that follow are its values, but the model that an engine is to serve
        many = chosen.phase == "train" or bool(found.positional) or "model" in found.settings
        while i < len(words) and not is_flag(words[i]) and (many or not values):
            if many and values and (words[i].startswith("$") or (overrides and "=" in words[i])):
                break
            values.append(words[i])
            i += 1
    if re.match(r"--[\w.-]+\s", name):
        raise InputError(
            f"command: '{shorten(name)}' is one word here (quoted in an array), which no parser takes",
            field="command",
            value=name,
            legal="its words apart",
        )
    shown = " ".join([word, *values]) if not equals else word
    held, priced = _spelt(name, chosen.holds), _spelt(name, chosen.price)
    off = [v.lower() for v in values] in (["none"], ["false"], ["no"], ["null"])
    off = part == name and (off or (own is not None and as_default(own, values)))
    if held is not None and not off:
        raise InputError(
            f"{shorten(name)}: {chosen.title}'s flag is not followed: {chosen.holds[held]}",
            field=name,
            value=" ".join(values) or None,
            legal="a layout without it",
        )
    if priced is not None and not off:
        found.unpriced.append((shown, chosen.price[priced]))
    elif held or priced or own or _spelt(name, chosen.bare) or _spelt(name, chosen.takes_value):
        found.ignored.append(shown)
    else:
        misspelt(name, known, chosen, values)
        if source is not None and not chosen.script_flags:
            found.foreign.append(name)
        (found.unknown if _ABOUT.search(name) else found.ignored).append(shown)
    return i


def _part_of(
    name: str, source: SourceFlags | None, chosen: Target
) -> tuple[str, SourceFlag | None]:
    """A key of a flag's table by a dot (``--compilation-config.level``), or a level behind a letter
    (``-O3``), as the flag that it is a part of; any other name as it is."""
    level = re.fullmatch(r"(-[A-Z])\d", name)
    whole = level[1] if level else name.partition(".")[0]
    if whole == name or (
        (source is None or source.get(whole) is None) and not _spelt(whole, chosen.price)
    ):
        return name, None
    return whole, source.get(whole) if source is not None else None


def _unread_word(word: str, found: ReadWords) -> None:
    names = unset_names(word) or [word]
    name = names[0]
    if re.match(r"\$\((hostname|scontrol|date)\b", word) or _HEADLESS.fullmatch(word):
        return
    if not word.startswith("$(") and _OTHERS.search(name) and not _LAYOUT.search(name):
        found.unread.append(word)
        return
    shown = WHY.sub(r"$\1", word)
    raise InputError(
        f"command: {shorten(shown)} is not set in the text, and may hold the layout"
        f"{_because(reasons(word))}",
        field="command",
        value=word,
        legal="the command with its variables' values, or the script that sets them",
    )


def _value(flag: Flag, name: str, text: str) -> Any:
    if flag.kind == "text":
        return text
    if flag.kind == "share":
        return fraction(text.strip(), name, low=0.0, high=1.0)
    if flag.kind == "tokens":
        text = _tokens(text.strip(), name)
    if flag.kind == "list":
        return tuple(re.findall(r"[\w-]+", text))
    if text.strip().lower() in ("none", "null"):
        return None
    if text.strip() == "-1":
        return -1
    low = 0 if flag.name in ("stage", "zero_stage") else 1
    return count(text.strip(), name, low=low)


def _tokens(text: str, name: str) -> str:
    """``8k`` is 8,000 and ``8K`` 8,192, as vLLM and SGLang read them (``human_readable_int``: decimals
    with the small letter only)."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([kKmMgG])", text)
    if found is None:
        if text.lower() != "auto" and re.fullmatch(r"-?\d+", text) is None:
            raise InputError(
                f"{name}: {shorten(text)} is no length",
                field=name,
                value=text,
                legal="tokens, such as 8192, 8k (8,000) or 8K (8,192)",
            )
        return "-1" if text.lower() == "auto" else text
    digits, suffix = found.groups()
    power = "kmg".index(suffix.lower()) + 1
    if suffix.islower():
        return str(int(float(digits) * 1000**power))
    if "." in digits:
        raise InputError(
            f"{name}: {shorten(text)} has decimals before a binary suffix, which the engine refuses",
            field=name,
            value=text,
            legal=f"{digits}{suffix.lower()}, or a whole number",
            nearest=f"{digits}{suffix.lower()}",
        )
    return str(int(digits) * 1024**power)


def misspelt(name: str, known: dict[str, Flag], chosen: Target, values: list[str]) -> None:
    """Raise for a flag that the target does not have and that is about the layout: one that resembles
    a flag of the layout, that is another target's, or that gives a number of some parallelism."""
    if len(name) < 3:
        return
    alike = ALIKE if source_flags(chosen.name) is None else ALIKE_OF_NONE
    nearest = _resembled(name, known, alike) or _lent(name, chosen)
    numeric = any(whole_number(value) is not None or value.startswith("$") for value in values)
    about = _ABOUT.search(name) is not None
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
