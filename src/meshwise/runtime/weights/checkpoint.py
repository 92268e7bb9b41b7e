"""Safetensors checkpoints read by slice: a rank reads the bytes of its share and no others.

Only headers are read at first (:mod:`meshwise.models.checkpoint`), and everything that is wrong is said
then. Files are read, not mapped: mapped pages count as the process's memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from meshwise.errors import InputError, MeshwiseError, shorten
from meshwise.models.checkpoint.files import (
    INDEX,
    absent_shards,
    checkpoint_files,
    indexed_files,
    missing_shards,
    read_tensors,
)
from meshwise.models.checkpoint.headers import StoredEntry, file_refusal, read_index, some
from meshwise.runtime.weights.slices import BLOCK, StoredTensor, read_slice

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# buffers that older checkpoints carry
_LEFT_OVER = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".self_attn.bias")
_FIELD = "checkpoint"


def _refuse(path: str, what: str, legal: str = "") -> InputError:
    return file_refusal(path, what, _FIELD, legal)


class TensorPiece(NamedTuple):
    """A stored tensor that fills ``rows`` of dimension ``dim - 1`` of a parameter, for an ``expert`` (its
    first dimension); without one it is the parameter."""

    name: str
    expert: int | None = None
    start: int = 0


class Checkpoint:
    """The tensors of a folder with ``model.safetensors`` or an index and shards, or of one file.

    Raises :class:`InputError`, one line with file and tensor, for whatever cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        found = read_tensors(path, _files(path), _FIELD)
        self.tensors = {name: _loadable(entry) for name, entry in found.items()}

    def names(self) -> list[str]:
        return list(self.tensors)

    # -- parameters ------------------------------------------------------------------------------

    def pieces(self, parameter: str, shape: tuple[int, ...]) -> list[TensorPiece]:
        """What fills a parameter of transformers' model; empty where nothing does."""
        for name in _spellings(parameter):
            if name in self.tensors:
                return [TensorPiece(name)]
        if parameter.endswith((".experts.gate_up_proj", ".experts.down_proj")):
            return self._experts(parameter, shape)
        return []

    def _experts(self, parameter: str, shape: tuple[int, ...]) -> list[TensorPiece]:
        """One tensor per expert and product, as hubs hold them."""
        stem, _, product = parameter.rpartition(".")
        half = shape[1] // 2
        if product == "gate_up_proj":
            forms: tuple[tuple[tuple[str, int], ...], ...] = (
                (("w1", 0), ("w3", half)),
                (("gate_proj", 0), ("up_proj", half)),
            )
        else:
            forms = ((("w2", 0),), (("down_proj", 0),))
        for spelled in _spellings(stem):
            for form in forms:
                pieces = [
                    TensorPiece(f"{spelled}.{e}.{leaf}.weight", e, start)
                    for e in range(shape[0])
                    for leaf, start in form
                ]
                if any(p.name in self.tensors for p in pieces):
                    return pieces
        return []

    def check(self, expected: Mapping[str, tuple[int, ...]], tied: Iterable[str] = ()) -> None:
        """Every parameter (name → whole shape) is there in its shape, and nothing else but what is known
        to be superfluous and the names that are ``tied`` to another. A tied one that is stored as well
        has to be a copy of a parameter (transformers would untie it)."""
        copies = {s for name in tied for s in _spellings(name)}
        used = set(copies)
        # every parameter's pieces: there, in shape, of floating-point numbers
        missing, wrong, whole_numbers = [], [], []
        for parameter, shape in expected.items():
            pieces = self.pieces(parameter, shape)
            if not pieces:
                missing.append(parameter)
            for piece in pieces:
                used.add(piece.name)
                want = _piece_shape(piece, shape, len(pieces))
                stored = self.tensors.get(piece.name)
                if stored is None:
                    missing.append(piece.name)
                elif stored.shape != want:
                    wrong.append(f"{piece.name} {list(stored.shape)} (want {list(want)})")
                elif not stored.dtype.is_floating_point:
                    whole_numbers.append(piece.name)
        # all faults in one line
        extra = [n for n in self.tensors if n not in used and not n.endswith(_LEFT_OVER)]
        said = [
            f"{len(found)} {what}: {some(found)}"
            for what, found in (
                ("missing", missing),
                ("wrongly shaped", wrong),
                ("stored as whole numbers", whole_numbers),
                ("extra", extra),
            )
            if found
        ]
        if said:
            raise _refuse(self.path, "; ".join(said), "the tensors of the model's config.json")
        # stored copies of tied parameters are copies
        for name in sorted(copies & self.tensors.keys()):
            same = (p.name for n, shape in expected.items() for p in self.pieces(n, shape))
            if not any(_alike(self.tensors[name], self.tensors[other]) for other in same):
                raise _refuse(
                    self.path,
                    f"{shorten(name)} differs from the tensor that it is tied to",
                    "a config.json with tie_word_embeddings: false",
                )

    def read(self, parameter: str, cut: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The cut of a parameter (:class:`~meshwise.runtime.model.cuts.Cut`); only its bytes are read."""
        whole = cut.whole
        local = torch.zeros(
            (*whole[: cut.dim], cut.size, *whole[cut.dim + 1 :]) if whole else (),
            dtype=dtype,
            device=device,
        )
        for piece in self.pieces(parameter, whole):
            stored = self.tensors[piece.name]
            begin = 0
            for start, stop in cut.spans:
                if piece.expert is None:
                    target = local.narrow(cut.dim, begin, stop - start) if whole else local
                    read_slice(stored, cut.dim, start, stop, target)
                else:
                    self._read_expert(piece, stored, cut.dim, (start, stop), local, begin)
                begin += stop - start
        return local

    @staticmethod
    def _read_expert(
        piece: TensorPiece,
        stored: StoredTensor,
        dim: int,
        span: tuple[int, int],
        local: Tensor,
        begin: int,
    ) -> None:
        """An expert's tensor (rows, columns) into ``local[index]``, cut along rows (dim 1) or columns."""
        assert piece.expert is not None
        target = local[piece.expert]
        if dim == 2:
            read_slice(stored, 1, *span, target.narrow(1, begin, span[1] - span[0]))
            return
        if dim == 0:
            if span[0] <= piece.expert < span[1]:
                rows = target.narrow(0, piece.start, stored.shape[0])
                read_slice(stored, 0, 0, stored.shape[0], rows)
            return
        first = max(span[0], piece.start)
        last = min(span[1], piece.start + stored.shape[0])
        if first < last:
            rows = target.narrow(0, begin + first - span[0], last - first)
            read_slice(stored, 0, first - piece.start, last - piece.start, rows)


def _piece_shape(piece: TensorPiece, whole: tuple[int, ...], pieces: int) -> tuple[int, ...]:
    if piece.expert is None:
        return whole
    rows = whole[1] // (pieces // whole[0])
    return (rows, *whole[2:])


def _alike(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two stored tensors are the same, to the bit; read a block of rows at a time."""
    if (one.shape, one.dtype) != (other.shape, other.dtype) or not one.shape:
        return False
    rows = max(BLOCK // max(math.prod(one.shape[1:]) * one.dtype.itemsize, 1), 1)
    for start in range(0, one.shape[0], rows):
        stop = min(start + rows, one.shape[0])
        pair = [torch.empty((stop - start, *one.shape[1:]), dtype=one.dtype) for _ in range(2)]
        for stored, block in zip((one, other), pair, strict=True):
            read_slice(stored, 0, start, stop, block)
        if not torch.equal(*(block.view(torch.uint8) for block in pair)):
            return False
    return True


def _spellings(parameter: str) -> list[str]:
    """How checkpoints write a parameter's name: with or without the base model's prefix, Mixtral's
    block by its older name."""
    found = [parameter]
    first, _, rest = parameter.partition(".")
    if first in ("model", "transformer") and rest:
        found.append(rest)
    return found + [
        n.replace(".mlp.", ".block_sparse_moe.")
        for n in found
        if ".mlp.gate." in n or ".mlp.experts" in n
    ]


# -- files -------------------------------------------------------------------------------------------


def _files(path: str) -> list[tuple[str, tuple[str, ...]]]:
    """(file, tensors that an index says are in it)."""
    place = Path(path).expanduser()
    try:
        if place.is_file():
            if place.name.endswith(PICKLED):
                raise _refuse(path, "is a pickle, which can run code and is never loaded", _CONVERT)
            if place.name.endswith(".index.json"):
                return _indexed(place)
            return [(str(place), ())]
        if not place.is_dir():
            raise _refuse(path, "there is no such file or folder")
        inside = sorted(p.name for p in place.iterdir())
    except MeshwiseError:
        raise
    except PermissionError:
        raise _refuse(path, "no permission to read it") from None
    except (OSError, ValueError) as error:
        raise _refuse(path, shorten(error)) from None
    found = checkpoint_files(str(place), inside, _FIELD)
    if found is not None and found.files:
        return list(found.files)
    if found is not None and found.listing is not None and found.index_file.endswith(INDEX):
        raise missing_shards(found.index_file, list(found.listing.shards), _FIELD)
    pickled = next((n for n in inside if n.endswith(PICKLED)), None)
    if pickled is not None:
        raise _refuse(
            path, f"has {shorten(pickled)} only, a pickle, which is never loaded", _CONVERT
        )
    raise _refuse(path, "has no .safetensors file")


_CONVERT = "safetensors: load it where you trust it, then model.save_pretrained(folder)"


def _indexed(index: Path) -> list[tuple[str, tuple[str, ...]]]:
    found = read_index(str(index), _FIELD)
    gone = absent_shards(str(index.parent), found)
    if gone:
        raise missing_shards(str(index), gone, _FIELD)
    return list(indexed_files(str(index.parent), found).files)


def _loadable(found: StoredEntry) -> StoredTensor:
    """The tensor as torch has it; refused where torch has no such type."""
    if found.dtype not in _DTYPES:
        what = f"{shorten(found.name)} is stored as {found.dtype}"
        raise _refuse(found.file, what, ", ".join(_DTYPES))
    return StoredTensor(found.file, found.offset, found.shape, _DTYPES[found.dtype])
