"""What rows need and their file does not say: filled in from what the caller gives, asked for otherwise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from meshwise.clusters.load import device
from meshwise.clusters.names import canonical_cluster, counted_devices, exact_device
from meshwise.cost.collectives.collective import known_operation, operation
from meshwise.errors import InputError, list_in_words, quoted, shorten
from meshwise.evidence.readers.records import FileFound, FileRow, FileValue, count_or_none
from meshwise.models.load import load_model
from meshwise.models.names import named_model
from meshwise.stacks.load import stack_in_table


class Fact(NamedTuple):
    """What a caller may give beside a file: the column that it fills, of which kinds of rows, and an
    example."""

    column: str
    kinds: tuple[str, ...]
    example: str


_TRAINING, _SERVING, _COLLECTIVES = ("training",), ("serving",), ("collectives",)
_RUNS = ("training", "serving")
_ALL = ("training", "serving", "collectives")
# by the caller's keyword
FACTS: dict[str, Fact] = {
    "model": Fact("model", _RUNS, "llama-3.1-8b"),
    "device": Fact("device", _ALL, "h100-80gb-sxm"),
    "gpus": Fact("devices", _RUNS, "8"),
    "gpus_per_node": Fact("devices_per_node", _ALL, "8"),
    "nodes": Fact("nodes", _ALL, "2"),
    "intra_node": Fact("intra_node", _ALL, "nvlink4"),
    "inter_node": Fact("inter_node", ("training", "collectives"), "'RoCE 8x400 Gb/s per node'"),
    "op": Fact("op", _COLLECTIVES, "all_gather"),
    "ranks": Fact("ranks", _COLLECTIVES, "8"),
    "library": Fact("library", _COLLECTIVES, "nccl"),
    "tp": Fact("tp", _RUNS, "8"),
    "pp": Fact("pp", _RUNS, "1"),
    "dp": Fact("dp", _RUNS, "1"),
    "cp": Fact("cp", _TRAINING, "1"),
    "ep": Fact("ep", _RUNS, "1"),
    "shard": Fact("shard", _TRAINING, "zero3"),
    "recompute": Fact("recompute", _TRAINING, "none"),
    "micro_batch": Fact("micro_batch", _TRAINING, "1"),
    "global_batch": Fact("global_batch", _TRAINING, "512"),
    "seq": Fact("seq", _TRAINING, "4096"),
    "dtype": Fact("dtype", _RUNS, "bf16"),
    "software": Fact("stack", _TRAINING, "megatron-core"),
    "engine": Fact("engine", _SERVING, "vllm"),
    "isl": Fact("isl", _SERVING, "1024"),
    "osl": Fact("osl", _SERVING, "128"),
    "concurrency": Fact("concurrency", _SERVING, "32"),
}
_KEYWORD = {fact.column: keyword for keyword, fact in FACTS.items()}
# columns that rows of a kind cannot do without
_NEEDED = {
    "collectives": ("op", "device", "ranks"),
    "training": ("model", "device", "devices", "global_batch", "seq"),
    "serving": ("model", "device", "devices", "isl", "osl"),
}
_COUNTS = (
    *("devices", "devices_per_node", "nodes", "ranks", "tp", "pp", "dp", "cp", "ep"),
    *("micro_batch", "global_batch", "seq", "isl", "osl", "concurrency"),
)


class NamedFound(NamedTuple):
    """What was found in a file, under its name."""

    file: str
    found: FileFound


def completed(every: list[NamedFound], given: Mapping[str, str]) -> list[NamedFound]:
    """The same with what the caller gives; asks for all that is missing at once.

    :raises InputError: for what is missing, and for what a file says otherwise.
    """
    kinds = {item.found.kind for item in every}
    for keyword in given:
        _check(keyword, given[keyword])
        if not kinds & set(FACTS[keyword].kinds):
            legal = f"with files of {' or '.join(FACTS[keyword].kinds)}"
            raise InputError(
                f"{keyword}: no file has rows that take it",
                field=keyword,
                value=given[keyword],
                legal=legal,
            )
    filled = [
        item._replace(
            found=item.found._replace(rows=[_filled(item, row, given) for row in item.found.rows])
        )
        for item in every
    ]
    _ask(filled)
    return filled


def _check(keyword: str, value: str) -> None:
    """Refuse a given value that no row may have."""
    column = FACTS[keyword].column
    if column in _COUNTS and count_or_none(value) is None:
        raise InputError(
            f"{keyword}={shorten(value)}: not a whole number of at least 1",
            field=keyword,
            value=value,
            legal="a whole number from 1",
        )
    if column == "device" and _device(value) is None:
        device(value, keyword)  # refuses it, with the nearest
    if column == "op":
        operation(value)
    if column == "model":
        load_model(value, keyword)


def _device(value: str) -> str | None:
    counted = counted_devices(value)
    return exact_device(value) or canonical_cluster(value) or (counted and counted.device)


def _filled(item: NamedFound, row: FileRow, given: Mapping[str, str]) -> FileRow:
    values = dict(row.values)
    for keyword, text in given.items():
        fact = FACTS[keyword]
        if item.found.kind not in fact.kinds:
            continue
        said = values.get(fact.column)
        if said is not None and not _same(fact.column, str(said), text):
            raise InputError(
                f"{keyword}={shorten(text)}: {shorten(item.file)}, line {row.line} says {quoted(str(said))}",
                field=keyword,
                value=text,
                legal=f"what the file says, or no `{keyword}`",
                nearest=str(said),
            )
        values[fact.column] = _value(fact.column, text)
        values.pop(f"{fact.column}_said", None)
    # what is not known under the file's own word for it
    if (
        isinstance(name := values.get("model"), str)
        and "model" not in given
        and not is_known_model(name)
    ):
        del values["model"]
        values["model_said"] = name
    _check_sizes(item, row.line, values)
    if values.get("devices") == 1 and item.found.kind in _RUNS:
        values = {"tp": 1, "pp": 1, **values}
    if item.found.kind == "serving":
        values |= _per_device(values)
    samples, batch = values.get("samples_per_s"), count_or_none(values.get("global_batch"))
    if isinstance(samples, float) and batch is not None:
        values["step_s"] = batch / samples
    return FileRow(row.line, values)


def _per_device(values: Mapping[str, FileValue]) -> dict[str, FileValue]:
    """The rate of one device, of a load that a table has: so many in flight, or all at once."""
    rate, devices = values.get("output_tokens_per_s"), count_or_none(values.get("devices"))
    stated = "concurrency" in values or "all_at_once" in values
    if (
        not isinstance(rate, float)
        or devices is None
        or not stated
        or "request_rate_per_s" in values
    ):
        return {}
    return {"tokens_per_s_per_device": rate / devices}


def _check_sizes(item: NamedFound, line: int, values: Mapping[str, FileValue]) -> None:
    """Refuse a model whose layers or width are not those that the log says."""
    name = values.get("model")
    said = {k: values[k] for k in ("num_layers", "hidden_size") if k in values}
    if not isinstance(name, str) or not said:
        return
    model = load_model(name)
    own = {"num_layers": model.layers, "hidden_size": model.hidden}
    for key, value in said.items():
        if count_or_none(value) != own[key]:
            raise InputError(
                f"model={shorten(name)}: {shorten(item.file)}, line {line} says {key} {value}",
                field="model",
                value=name,
                legal=f"a model of {key} {value}: {shorten(name)} has {own[key]}",
            )


def _value(column: str, text: str) -> FileValue:
    number = count_or_none(text) if column in _COUNTS else None
    if column == "op":
        return known_operation(text) or text
    return text if number is None else number


def _same(column: str, said: str, given: str) -> bool:
    """Whether two words for a value mean the same; of a model, whether nothing tells them apart."""
    if column in _COUNTS:
        return count_or_none(said) == count_or_none(given)
    if column == "device":
        return _device(said) in (None, _device(given))
    if column == "op":
        return known_operation(said) == known_operation(given)
    if column == "model":
        return not is_known_model(said) or _preset(said) == _preset(given) or _preset(given) is None
    if column == "stack":
        return _may_be(said, given)
    return said.strip().lower() == given.strip().lower()


# what trains with Megatron's loop prints its lines
_ITS_LINES = {"megatron": ("nemo",), "hf-trainer": ("deepspeed",)}


def _may_be(form: str, given: str) -> bool:
    """Whether software may have printed lines of such a form: a version of it, or what builds on it."""
    known, other = stack_in_table(form), stack_in_table(given)
    if known is None or other is None or known.software == other.software:
        return True
    return other.software in _ITS_LINES.get(form, ())


def is_known_model(name: str) -> bool:
    """Whether a name is an architecture of the catalog, without asking anybody for it."""
    return _preset(name) is not None


def _preset(name: str) -> str | None:
    try:
        found = named_model(name)
    except InputError:  # a format that a name does not describe
        return None
    return found.preset if found else None


def _ask(every: list[NamedFound]) -> None:
    """Raise for all that rows lack, naming what would give it."""
    lacking: dict[str, str] = {}
    said: dict[str, str] = {}
    for item in every:
        for row in item.found.rows if item.found.kind in _NEEDED else ():
            for column in _lacks(item.found.kind, row.values):
                lacking.setdefault(_KEYWORD[column], f"{shorten(item.file)}, line {row.line}")
                word = row.values.get(f"{column}_said")
                if isinstance(word, str):
                    said[column] = word
    if not lacking:
        return
    keywords = [k for k in FACTS if k in lacking]
    where = lacking[keywords[0]]
    unknown = "".join(f"; {column} {quoted(word)} is not known" for column, word in said.items())
    examples = {k: FACTS[k].example for k in keywords}
    if "dtype" in said:  # how a format of GGUF is called by its bits
        bits = next((b for b in ("4", "8") if b in said["dtype"][:4]), "")
        examples["dtype"] = f"int{bits}" if bits else FACTS["dtype"].example
    example = ", ".join(f"{k}={word}" for k, word in examples.items())
    raise InputError(
        f"{keywords[0]}: {where}: the file does not say {list_in_words(_words(keywords))}{unknown}",
        field=keywords[0],
        legal=f"for example `{example}`",
    )


def _words(keywords: list[str]) -> list[str]:
    return [f"`{k}`" for k in keywords]


def _lacks(kind: str, values: Mapping[str, FileValue]) -> list[str]:
    """Columns that a row needs and does not have; of a layout, those that do not follow from its others."""
    found = [c for c in _NEEDED[kind] if c not in values]
    loads = ("concurrency", "all_at_once", "request_rate_per_s")
    if kind == "serving" and not any(c in values for c in loads):
        found.append("concurrency")
    if kind in _RUNS and "dtype_said" in values and "dtype" not in values:
        found.append("dtype")
    if kind in _RUNS:
        degrees = {
            c: count_or_none(values[c]) or 1 for c in ("tp", "pp", "dp", "cp") if c in values
        }
        devices = count_or_none(values["devices"]) if "devices" in values else None
        if devices is None or math.prod(degrees.values()) != devices:
            found += [c for c in ("tp", "pp") if c not in values]
    return found
