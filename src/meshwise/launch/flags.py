"""A target's own words: every one is a setting, priced or not, known and of no matter, or not followed."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from meshwise.errors import InputError, MeshwiseError, shorten
from meshwise.launch.account.origins import FlagWord, Origin, PlacedWords, placed_error
from meshwise.launch.account.questions import OpenValue, Unanswered
from meshwise.launch.settings.megatron_model import ASKED_LATER
from meshwise.launch.settings.settings import Settings
from meshwise.launch.shell.commands import unset_names
from meshwise.launch.shell.values.memory import WHY, reasons
from meshwise.launch.spelling.dotted import dotted_merged
from meshwise.launch.spelling.flag_values import flag_value
from meshwise.launch.spelling.misspelt import about_parallelism, builds_layers, misspelt
from meshwise.launch.spelling.source_flags import (
    SourceFlag,
    SourceFlags,
    as_default,
    is_flag,
    source_flags,
    spellings,
    taken,
)
from meshwise.launch.table import Flag, Target, function_of

# settings that name a layout; without one of them a command states none
LAYOUT_SETTINGS = frozenset(
    [
        *("tp", "pp", "dp", "cp", "ep", "etp", "dcp", "pcp", "vp", "layers_per_stage"),
        *("expert_parallel", "dp_attention", "dp_shard", "dp_replicate", "fsdp", "fsdp2"),
        *("multi_gpu", "parallelism", "megatron", "megatron_tp", "megatron_pp", "stage"),
        *("zero_stage", "deepspeed", "distributed_optimizer", "sequence_parallel"),
    ]
)
_LEFT_OUT = ("...", "…", "[...]", "[…]", "<...>")  # in the place of a command's further words
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
    ``unknown`` are in no table, ``unread`` are variables that the text does not set; ``flags``: all of
    them as they stand."""

    settings: Settings
    positional: list[str]
    ignored: list[str]
    unpriced: list[tuple[str, str]]
    unknown: list[str]
    notes: list[str]
    unread: list[str]
    foreign: list[str]  # names that are no flags of the target's source
    flags: list[FlagWord]


def no_words() -> ReadWords:
    return ReadWords({}, [], [], [], [], [], [], [], [])


def read_words(
    words: list[str],
    chosen: Target,
    placed: PlacedWords | None = None,
    questions: list[OpenValue] | None = None,
) -> ReadWords:
    """Raise for a wrong value, a contradiction, a misspelt flag and a word that may hold the layout.

    ``placed``: where the words stand. What the text leaves open is put into ``questions``; without them
    it is raised.
    """
    place = placed or PlacedWords()
    asked: list[OpenValue] = [] if questions is None else questions
    reader = _Reader(words, chosen, place, asked)
    while reader.at < len(reader.words):
        line = reader.place.line(reader.at)
        try:
            reader.step()
        except MeshwiseError as error:
            raise placed_error(error, line, place.file) from None
    if asked and questions is None:
        raise Unanswered(asked, chosen.phase)
    found, source = reader.found, source_flags(chosen.name)
    if found.foreign and source is not None:
        named = ", ".join(shorten(name) for name in dict.fromkeys(found.foreign))
        found.notes.append(f"no flags of {source.release}, left aside: {named}")
    return found


class _Reader:
    """A target's words one after the other, each put where it belongs."""

    def __init__(
        self, words: list[str], chosen: Target, place: PlacedWords, asked: list[OpenValue]
    ) -> None:
        self.words, self.chosen, self.place, self.asked = list(words), chosen, place, asked
        self.known, self.found, self.at = chosen.by_spelling(), no_words(), 0
        if chosen.dotted:
            self.words, lines = dotted_merged(words, place.lines, self._is_flag)
            self.place = place._replace(lines=lines)

    def _is_flag(self, name: str) -> bool:
        source = source_flags(self.chosen.name)
        known = source is not None and source.get(name) is not None
        return known or _flag(self.known, name, self.chosen) is not None

    def step(self) -> None:
        """The next word with its values."""
        words, start = self.words, self.at
        name, equals, given = words[start].partition("=")
        self.at += 1
        if words[start] in _LEFT_OUT:
            raise InputError(
                f"command: {words[start]} stands for words that are left out, which may hold the layout",
                field="command",
                value=words[start],
                legal="the command with all its flags",
            )
        whole = _unabbreviated(name, self.known, self.chosen)
        if whole != name:
            words[start], name = whole + words[start][len(name) :], whole
        flag = _flag(self.known, name, self.chosen)
        if flag is None:
            self._other(start)
            return
        value: Any = True
        if flag.kind == "flag":
            if equals:
                value = given.strip().lower() not in ("false", "0", "no")
            elif self.at < len(words) and words[self.at].lower() in ("true", "false"):
                value = words[self.at].lower() == "true"
                self.at += 1
        else:
            if not equals:
                given = self._values(flag, name)
            if unset_names(given) and flag.name in ASKED_LATER:
                self.found.settings[flag.name] = given
                return
            if unset_names(given) and flag.name not in ("model", "config"):
                self._ask(given, name, start)
                return
            value = flag_value(flag, name, given)
        if value is None:  # null: as where it is not said
            return
        self._agrees(flag, name, value)
        self.found.settings[flag.name] = value
        self._note(flag_kind(flag.name), start, flag.name)

    def _values(self, flag: Flag, name: str) -> str:
        """What follows a flag that has a value."""
        words = self.words
        if self.at >= len(words) or words[self.at].startswith("--"):
            raise InputError(
                f"{shorten(name)}: missing its value", field=name, legal=f"for example {name} 8"
            )
        given = words[self.at]
        self.at += 1
        while flag.kind == "list" and self.at < len(words) and re.match(r"[a-z]", words[self.at]):
            given += f",{words[self.at]}"
            self.at += 1
        return given

    def _ask(self, given: str, used: str, start: int) -> None:
        """The variables that a flag's value still has."""
        why, place = reasons(given), self.place
        line = place.line(start)
        names = list(dict.fromkeys(unset_names(given)))
        # what is calculated of others that are asked for too follows from them
        derived = {n for n in names if n in why and set(unset_names(why[n])) & {*names} - {n}}
        for name in [n for n in names if n not in derived]:
            because = _because({name: why[name]} if name in why else {})
            one = OpenValue(f"${name}", used, line=line, file=place.file, why=because)
            self.asked.append(one._replace(of=_decides(why.get(name, ""))))

    def _agrees(self, flag: Flag, name: str, value: Any) -> None:
        """Raise where the command says something else before: targets take the last without a word."""
        before = self.found.settings.get(flag.name)
        if before is None or before == value:
            return
        first = next((f.origin for f in self.found.flags if f.setting == flag.name), None)
        said = str(before) if first is None else shorten(first.word)
        if first is not None and first.line:
            said += f" (line {first.line})"
        raise InputError(
            f"{name}={shorten(value)}: the command also says {said}",
            field=name,
            value=value,
            legal=f"one value; {self.chosen.title} takes the last",
            nearest=shorten(value) if isinstance(value, str) else value,
        )

    def _note(self, kind: str, start: int, setting: str = "") -> None:
        word = " ".join(self.words[start : self.at])
        origin = Origin(word, self.place.line(start), self.place.file)
        self.found.flags.append(FlagWord(origin, kind, setting))

    def _other(self, start: int) -> None:
        """A word that is no setting."""
        before = len(self.found.unpriced), len(self.found.foreign)
        word = self.words[start]
        self.at, asked = _other(self.words, self.at, self.chosen, self.known, self.found)
        line, file = self.place.line(start), self.place.file
        self.asked.extend(q._replace(line=line, file=file) for q in asked)
        if not word.startswith("-") and not (self.chosen.style == "overrides" and "=" in word):
            if self.found.positional == [word] and self.chosen.phase == "serve":
                self._note("model", start, "model")
            return
        kind = "unpriced" if len(self.found.unpriced) > before[0] else "none"
        self._note("unknown" if len(self.found.foreign) > before[1] else kind, start)


_WHAT_RUNS = (
    *("model", "config", "layers", "hidden", "heads", "kv_heads", "ffn", "experts_total"),
    *("vocab_divisor", "untied"),
)
_WHERE = ("nodes", "machines", "processes", "gpus", "dp_local", "backend", "micro_batch")


def flag_kind(setting: str) -> str:
    """The kind of a flag that gives a setting: of the layout, of what is run, or of the price."""
    if setting in LAYOUT_SETTINGS or setting in _WHERE:
        return "layout"
    return "model" if setting in _WHAT_RUNS else "price"


def _because(why: dict[str, str]) -> str:
    """What sets variables whose values do not follow from the text."""
    return "".join(
        f"; what {what} gives ${name} does not follow from it" for name, what in why.items()
    )


def _decides(what: str) -> tuple[str, ...]:
    """Names in a condition or a sum, which decide its outcome; none where a command's output does too."""
    if re.search(r"\$\((?!\()|`", what):
        return ()
    if "$((" in what:
        return tuple(dict.fromkeys(re.findall(r"[A-Za-z_]\w*|(?<=\$)\d", what.partition("))")[0])))
    return tuple(dict.fromkeys(unset_names(what)))


def _flag(known: dict[str, Flag], name: str, chosen: Target) -> Flag | None:
    flag = known.get(name)
    if flag is None and name.startswith("--"):
        flag = known.get("--" + name[2:].replace("_", "-")) or known.get(
            "--" + name[2:].replace("-", "_")
        )
    return flag


def _unabbreviated(name: str, known: dict[str, Flag], chosen: Target) -> str:
    """The flag that a name begins, where the target's parser takes that and no other flag begins so."""
    source = source_flags(chosen.name)
    if not chosen.abbreviates or source is None or not name.startswith("--") or len(name) < 4:
        return name
    spelt = "--" + name[2:].replace("_", "-")
    if _flag(known, name, chosen) is not None or source.get(spelt) is not None:
        return name
    if any(_spelt(spelt, t) for t in (chosen.price, chosen.holds, chosen.bare, chosen.takes_value)):
        return name
    begun = {f.name: own for own, f in source.by_spelling.items() if own.startswith(spelt)}
    return next(iter(begun.values())) if len(begun) == 1 else name


def _spelt(name: str, table: Any) -> str | None:
    return next((s for s in spellings(name) if s in table), None)


def _other(
    words: list[str], i: int, chosen: Target, known: dict[str, Flag], found: ReadWords
) -> tuple[int, list[OpenValue]]:
    """A word that is no setting, put where it belongs; where the next one stands, and what is open."""
    word = words[i - 1]
    name, equals, given = word.partition("=")
    overrides = chosen.style == "overrides"
    if word.startswith("$") or (word.startswith("-") and "$" in name):
        return i, _unread_word(word, found)
    if not re.match(r"--?[A-Za-z]", word) and not (overrides and equals):
        found.positional.append(word)
        return i, []
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
    off = off or (values == ["1"] and name.endswith(("-size", "-shards")))  # a degree of one rank
    off = part == name and (off or (own is not None and as_default(own, values)))
    local = function_of(chosen, "is_local")
    if held is not None and local is not None and local(held, values):
        found.unpriced.append((shown, "room for requests"))
        return i, []
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
            if "layers" in chosen.flags and builds_layers(name):
                found.foreign.pop()
                found.unknown.append(shown)
                found.settings.setdefault("other_layers", shown)
                return i, []
        (found.unknown if about_parallelism(name) else found.ignored).append(shown)
    return i, []


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


def _unread_word(word: str, found: ReadWords) -> list[OpenValue]:
    """What a word that the text does not set may hold."""
    names = unset_names(word) or [word]
    name = names[0]
    if re.match(r"\$\((hostname|scontrol|date)\b", word) or _HEADLESS.fullmatch(word):
        return []
    if not word.startswith("$(") and _OTHERS.search(name) and not _LAYOUT.search(name):
        found.unread.append(word)
        return []
    why = _because(reasons(word))
    if word in ("$@", "$*"):
        return [OpenValue("$@", "command", why=why)]
    if unset_names(word) and not word.startswith("$("):
        said = reasons(word)
        return [
            OpenValue(f"${n}", "command", why=why, of=_decides(said.get(n, "")))
            for n in dict.fromkeys(names)
        ]
    shown = WHY.sub(r"$\1", word)
    raise InputError(
        f"command: {shorten(shown)} is not set in the text, and may hold the layout{why}",
        field="command",
        value=word,
        legal="the command with its variables' values, or the script that sets them",
    )
