"""How much is computed: a training step, a prefill, or one decode iteration."""

from __future__ import annotations

from typing import Any

import msgspec

from meshwise.errors import InputError
from meshwise.spec import dtypes
from meshwise.spec.reading import count, fraction, one_of

PHASES = ("train", "prefill", "decode")
RECOMPUTE = ("none", "selective", "full")
OVERLAP = ("none", "split", "decomposed")
MAX_BATCH = 10**6
MAX_SEQ = 10**8
MAX_QUERIES = 64  # tokens of a sequence that one verification step works on
MAX_IMBALANCE = 1e4


class Formats(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Number formats; None follows the checkpoint (weights, KV cache) or ``dtype`` (the rest)."""

    dtype: str | None = None  # operands of the matrix products
    weights: str | None = None
    kv_cache: str | None = None
    comm: str | None = None  # what TP collectives send
    gradients: str | None = None


class Training(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One optimizer step of a replica: ``batch`` sequences of ``seq`` tokens.

    ``micro_batch`` None takes the whole batch as one microbatch. ``expert_imbalance``: tokens of the
    fullest rank of the expert group over their mean.
    """

    batch: int
    seq: int
    micro_batch: int | None = None
    recompute: str = "none"
    formats: Formats = Formats()
    expert_imbalance: float = 1.0

    phase = "train"

    def __post_init__(self) -> None:
        count(self.batch, "--batch", high=MAX_BATCH)
        count(self.seq, "--seq", high=MAX_SEQ)
        one_of(self.recompute, "--recompute", RECOMPUTE)
        check_imbalance(self.expert_imbalance)
        if self.micro_batch is not None:
            count(self.micro_batch, "--micro-batch", high=MAX_BATCH)
            if self.batch % self.micro_batch:
                legal = [d for d in range(1, min(self.batch, 4096) + 1) if self.batch % d == 0]
                raise InputError(
                    f"--micro-batch={self.micro_batch} does not divide the batch of {self.batch}",
                    field="--micro-batch",
                    value=self.micro_batch,
                    legal=legal if len(legal) < 20 else [*legal[:18], "…", self.batch],
                    nearest=min(legal, key=lambda d: abs(d - (self.micro_batch or 1))),
                )
        check_formats(self.formats)


class Prefill(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole batch's prompt: ``batch`` sequences of ``seq`` tokens, one forward pass.

    ``cached`` more tokens stand before them in the KV cache (a prefix, or earlier chunks): they are
    attended to and not computed. ``expert_imbalance`` as in training.
    """

    batch: int
    seq: int
    formats: Formats = Formats()
    cached: int = 0
    expert_imbalance: float = 1.0

    phase = "prefill"

    def __post_init__(self) -> None:
        count(self.batch, "--batch", high=MAX_BATCH)
        count(self.seq, "--seq", high=MAX_SEQ)
        count(self.cached, "cached", low=0, high=MAX_SEQ)
        check_imbalance(self.expert_imbalance)
        check_formats(self.formats)


class Decode(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One iteration: a token for each of ``batch`` sequences that hold ``context`` tokens.

    ``queries`` > 1 verifies drafts: that many of the context's last tokens are computed per sequence.
    ``expert_imbalance`` as in training.
    """

    batch: int
    context: int
    formats: Formats = Formats()
    queries: int = 1
    expert_imbalance: float = 1.0

    phase = "decode"

    def __post_init__(self) -> None:
        count(self.batch, "--batch", high=MAX_BATCH)
        count(self.context, "--context", high=MAX_SEQ)
        count(self.queries, "queries", high=min(MAX_QUERIES, self.context))
        check_imbalance(self.expert_imbalance)
        check_formats(self.formats)


Workload = Training | Prefill | Decode


def check_imbalance(value: object) -> float:
    return fraction(value, "--expert-imbalance", low=1.0, high=MAX_IMBALANCE)


def check_formats(formats: Formats) -> None:
    """Refuse a format that makes no sense in its place, in the words of the option."""
    for value, field, legal in (
        (formats.dtype, "--dtype", dtypes.COMPUTE),
        (formats.weights, "--weight-dtype", dtypes.WEIGHT),
        (formats.kv_cache, "--kv-dtype", dtypes.KV_CACHE),
        (formats.comm, "--comm-dtype", dtypes.COMM),
        (formats.gradients, "--grad-dtype", dtypes.GRADIENT),
    ):
        if value is not None:
            dtypes.canonical(value, field, legal)


def to_dict(workload: Workload) -> dict[str, Any]:
    """The workload as JSON, phase first."""
    fields: dict[str, Any] = {"phase": workload.phase}
    for name in workload.__struct_fields__:
        value = getattr(workload, name)
        if name == "formats":
            fields |= {
                f"{k}_dtype" if k != "dtype" else k: v
                for k, v in msgspec.to_builtins(value).items()
            }
        else:
            fields[name] = value
    return fields


def tokens_per_step(workload: Workload) -> int:
    """Tokens that one step of a replica works on (decode: makes)."""
    return workload.batch * (1 if isinstance(workload, Decode) else workload.seq)
