"""Which files of a folder are the checkpoint, and the tensors in them.

A folder may hold one set of weights twice (a publisher's own layout beside the hub's, a pickle beside
safetensors): one set counts, safetensors of the hub's layout first.
"""

# ruff: noqa: PTH116, PTH118, PTH119

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from meshwise.errors import InputError
from meshwise.models.checkpoint.headers import (
    Index,
    StoredEntry,
    file_refusal,
    read_header,
    read_index,
    some,
)

INDEX = "model.safetensors.index.json"
PICKLED_INDEX = "pytorch_model.bin.index.json"
# Safetensors that are no second part of the model: the publisher's own layout of the same weights, and
# what is added to them.
_CONSOLIDATED = re.compile(r"consolidated(\.\d+|-\d+-of-\d+)?\.safetensors")
_NOT_THE_MODEL = re.compile(
    r"(adapter_|optimizer|training_args|.*lora|tokenizer|vae|.*\.(fp16|fp32|bf16|int8)\.)"
)
_NUMBERED = re.compile(r"(.*-)(\d{1,6})(-of-)(\d{1,6})(\.safetensors)")


class CheckpointFiles(NamedTuple):
    """The files of a checkpoint, each with the tensors that an index says are in it.

    ``listing``: what stands for the files where there is nothing but an index.
    """

    files: tuple[tuple[str, tuple[str, ...]], ...]
    listing: Index | None = None
    index_file: str = ""


def checkpoint_files(folder: str, names: Iterable[str], field: str) -> CheckpointFiles | None:
    """The checkpoint among the ``names`` in a folder; None where there is none that can be read.

    An index whose shards are all absent stands for them by their names; one of which some are there is
    refused, with those that are missing.
    """
    inside = sorted(names)
    for index in (INDEX, "consolidated.safetensors.index.json"):
        if index == INDEX and index not in inside and "model.safetensors" in inside:
            return CheckpointFiles(((os.path.join(folder, "model.safetensors"), ()),))
        if index in inside and (index == INDEX or not _weights(inside)):
            path = os.path.join(folder, index)
            found = read_index(path, field)
            gone = absent_shards(folder, found)
            if len(gone) == len(found.shards):
                return CheckpointFiles((), found, path)
            if gone:
                raise missing_shards(path, gone, field)
            return indexed_files(folder, found)
    weights = _weights(inside) or [n for n in inside if _CONSOLIDATED.fullmatch(n)]
    if weights:
        _require_all(folder, weights, field)
        return CheckpointFiles(tuple((os.path.join(folder, n), ()) for n in weights))
    if PICKLED_INDEX in inside:
        path = os.path.join(folder, PICKLED_INDEX)
        return CheckpointFiles((), read_index(path, field), path)
    return None


def _weights(inside: list[str]) -> list[str]:
    """Safetensors of a folder that has neither an index nor ``model.safetensors``."""
    return [
        n
        for n in inside
        if n.endswith(".safetensors")
        and not _CONSOLIDATED.fullmatch(n)
        and not _NOT_THE_MODEL.match(n)
    ]


def _require_all(folder: str, weights: list[str], field: str) -> None:
    """Shards say in their names how many there are."""
    for name in weights:
        numbered = _NUMBERED.fullmatch(name)
        if numbered is None or int(numbered[4]) > 10_000:
            continue
        first, digits, of, number, end = numbered.groups()
        names = [f"{first}{i:0{len(digits)}d}{of}{number}{end}" for i in range(1, int(number) + 1)]
        gone = [n for n in names if n not in weights]
        if gone and f"{first}{0:0{len(digits)}d}{of}{number}{end}" not in weights:
            raise missing_shards(folder, gone, field)


def absent_shards(folder: str, index: Index) -> list[str]:
    """Files that an index names and that are not there; a dangling link is not there either."""
    return [n for n in index.shards if _absent(os.path.join(folder, n))]


def _absent(path: str) -> bool:
    try:
        os.stat(path)
    except FileNotFoundError:
        return True
    except OSError:  # a loop of links: what is wrong is said when it is read
        return False
    return False


def missing_shards(path: str, gone: list[str], field: str) -> InputError:
    return file_refusal(
        path,
        f"names {len(gone)} missing shards: {some(gone)}",
        field,
        "all the shards beside it, or none of them",
    )


def indexed_files(folder: str, index: Index) -> CheckpointFiles:
    return CheckpointFiles(
        tuple((os.path.join(folder, n), tuple(names)) for n, names in index.shards.items())
    )


def read_tensors(
    path: str, files: Iterable[tuple[str, Iterable[str]]], field: str
) -> dict[str, StoredEntry]:
    """The tensors of all files by name; refused where one is in two files, or not where the index
    says."""
    found: dict[str, StoredEntry] = {}
    for file, listed in files:
        for name, stored in read_header(file, field).items():
            if name in found:
                both = f"{_base(found[name].file)} and in {_base(file)}"
                raise file_refusal(path, f"{some([name])} is in {both}", field)
            found[name] = stored
        missing = [n for n in listed if n not in found]
        if missing:
            raise file_refusal(
                path, f"the index says {some(missing)} in {_base(file)}: not there", field
            )
    return found


def _base(path: str) -> str:
    return some([os.path.basename(path)])
