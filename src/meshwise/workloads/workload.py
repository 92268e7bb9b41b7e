"""How much is computed: a training step, a prefill, or one decode iteration."""

from __future__ import annotations

from typing import Any

import msgspec

from meshwise import dtypes
from meshwise.axes import RECOMPUTE_MODES
from meshwise.checks import Check, KeywordStruct, a, check_fields, counted, optional, shared
from meshwise.errors import InputError
from meshwise.strict_tables import count, one_of

WORKLOAD_PHASES = ("train", "prefill", "decode")
OVERLAP_MODES = ("none", "split", "decomposed")
MAX_BATCH = 10**6
MAX_SEQ = 10**8
MAX_QUERIES = 64  # tokens of a sequence that one verification step works on
MAX_IMBALANCE = 1e4
MAX_SKEW = 10.0
# How unevenly the tokens of a service draw experts: the standard deviation of the logarithm of an
# expert's popularity. Tokens of one batch are alike, and even draws visit too many experts: 0.5, 1, 1.5
# were tried on published decode rows of MoE models, and 1 was the best choice for the other rows
# whichever cell (model, device and engine) was left out. Training balances its experts: 0.
SERVED_SKEW = 1.0


def drawn_skew(expert_skew: float | None) -> float:
    """What is priced where a service's skew is not said: its intervals then reach to even draws."""
    return SERVED_SKEW if expert_skew is None else expert_skew


def drawn_imbalance(expert_imbalance: float | None, expert_skew: float | None) -> float | None:
    """The fullest expert rank's tokens over the mean, where no layout is needed to know them: as they were
    said, or 1 of even draws."""
    even = expert_imbalance is None and drawn_skew(expert_skew) == 0.0
    return 1.0 if even else expert_imbalance


def _format(legal: tuple[str, ...] | None) -> Check:
    """None (also as engines write it: auto), or the canonical name of one of the number formats;
    without a list of them, of one that weights are stored in."""

    def read(value: object, field: str) -> str | None:
        if isinstance(value, str) and value.strip().lower() == "auto":
            return None
        if legal is None:
            return dtypes.canonical_weights(value, field)
        return dtypes.canonical_dtype(value, field, legal)

    return optional(read)


_FORMATS = {
    "dtype": _format(dtypes.COMPUTE),
    "weights": _format(None),
    "kv_cache": _format(dtypes.KV_CACHE),
    "comm": _format(dtypes.COMM),
    "gradients": _format(dtypes.GRADIENT),
}


class Formats(KeywordStruct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Number formats; None follows the checkpoint (weights, KV cache) or ``dtype`` (the rest).

    :param dtype: operands of the matrix products.
    :param weights: of the stored weights.
    :param kv_cache: of keys and values.
    :param comm: what TP collectives send.
    :param gradients: of gradients, in training.
    :raises InputError: for a format that has no such use; ``field`` is its name here.

    >>> import meshwise as mw
    >>> work = mw.Decode(batch=8, context=1024, formats=mw.Formats(weights="fp8"))
    >>> wide = mw.Decode(batch=8, context=1024)
    >>> price = lambda w: mw.estimate("llama-3.1-8b", "hgx-h100", w)
    >>> price(work).memory_bytes < price(wide).memory_bytes
    True
    """

    dtype: str | None = None  # operands of the matrix products
    weights: str | None = None
    kv_cache: str | None = None
    comm: str | None = None  # what TP collectives send
    gradients: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, _FORMATS, "")


class Training(KeywordStruct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One optimizer step: ``batch`` sequences of ``seq`` tokens over all replicas.

    :param batch: sequences per step (the global batch).
    :param seq: tokens per sequence.
    :param micro_batch: sequences that go through a stage together; None: for ``scale`` the whole batch
        of its one replica, for ``estimate`` and ``explain`` 1.
    :param recompute: ``"none"``, ``"selective"`` (arXiv 2205.05198) or ``"full"``.
    :param formats: :class:`Formats`.
    :param expert_imbalance: tokens of the fullest rank of the expert group over their mean, 1 or more;
        None: what ``expert_skew`` makes of it, where experts are placed without regard to their popularity.
    :param expert_skew: how unevenly tokens draw experts: see :data:`SERVED_SKEW`.
    :raises InputError: for a value out of its range; ``field`` is its name here.

    >>> import meshwise as mw
    >>> mw.Training(batch=8, seq=512, micro_batch=3)
    Traceback (most recent call last):
    meshwise.errors.InputError: micro_batch=3 does not divide the batch of 8; legal: 1, 2, 4, 8; nearest: 2
    """

    batch: int
    seq: int
    micro_batch: int | None = None
    recompute: str = "none"
    formats: Formats = Formats()
    expert_imbalance: float | None = None
    expert_skew: float = 0.0

    phase = "train"

    def __post_init__(self) -> None:
        one_of(self.recompute, "recompute", RECOMPUTE_MODES)
        check_fields(self, _TRAINING, "")
        if self.micro_batch is not None and self.batch % self.micro_batch:
            legal = [d for d in range(1, min(self.batch, 4096) + 1) if self.batch % d == 0]
            raise InputError(
                f"micro_batch={self.micro_batch} does not divide the batch of {self.batch}",
                field="micro_batch",
                value=self.micro_batch,
                legal=legal if len(legal) < 20 else [*legal[:18], "…", self.batch],
                nearest=min(legal, key=lambda d: abs(d - (self.micro_batch or 1))),
            )


class Prefill(KeywordStruct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole batch's prompt: ``batch`` sequences of ``seq`` tokens, one forward pass.

    :param batch: prompts of a replica.
    :param seq: tokens of a prompt that are computed.
    :param formats: :class:`Formats`.
    :param cached: more tokens that stand before them in the KV cache (a prefix, or earlier chunks):
        attended to and not computed.
    :param image_tokens: how many of all these tokens are images' (or sounds'): they are priced as the others,
        and their encoder is not.
    :param expert_imbalance: as in :class:`Training`.
    :param expert_skew: as in :class:`Training`; None: :data:`SERVED_SKEW`, as an assumption.
    :raises InputError: for a value out of its range; ``field`` is its name here.

    >>> import meshwise as mw
    >>> mw.scale("gpt2", "dgx-a100", mw.Prefill(batch=1, seq=512), tp=2).points[0].tp
    2
    """

    batch: int
    seq: int
    formats: Formats = Formats()
    cached: int = 0
    image_tokens: int = 0
    expert_imbalance: float | None = None
    expert_skew: float | None = None

    phase = "prefill"

    def __post_init__(self) -> None:
        check_fields(self, _PREFILL, "")
        count(self.image_tokens, "image_tokens", low=0, high=self.seq + self.cached)


class Decode(KeywordStruct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One iteration: a token for each of ``batch`` sequences that hold ``context`` tokens.

    :param batch: sequences in flight of a replica.
    :param context: tokens that each holds.
    :param formats: :class:`Formats`.
    :param queries: tokens that are computed per sequence: above 1 drafts are verified.
    :param image_tokens: as in :class:`Prefill`, of the ``context``.
    :param expert_imbalance: as in :class:`Training`.
    :param expert_skew: as in :class:`Prefill`.
    :raises InputError: for a value out of its range; ``field`` is its name here.

    >>> import meshwise as mw
    >>> mw.scale("gpt2", "dgx-a100", mw.Decode(batch=8, context=512), tp=2).points[0].tp
    2
    """

    batch: int
    context: int
    formats: Formats = Formats()
    queries: int = 1
    image_tokens: int = 0
    expert_imbalance: float | None = None
    expert_skew: float | None = None

    phase = "decode"

    def __post_init__(self) -> None:
        check_fields(self, _DECODE, "")
        count(self.queries, "queries", high=min(MAX_QUERIES, self.context))
        count(self.image_tokens, "image_tokens", low=0, high=self.context)


_BATCH = counted(high=MAX_BATCH)
_SEQ = counted(high=MAX_SEQ)
_ALWAYS: dict[str, Check] = {
    "batch": _BATCH,
    "formats": a(Formats),
    "expert_imbalance": optional(shared(low=1.0, high=MAX_IMBALANCE)),
}
_SKEW = shared(low=0.0, high=MAX_SKEW)
_TRAINING = _ALWAYS | {
    "expert_skew": _SKEW,
    "seq": _SEQ,
    "micro_batch": optional(counted(high=MAX_BATCH)),
}
_PREFILL = _ALWAYS | {
    "expert_skew": optional(_SKEW),
    "seq": _SEQ,
    "cached": counted(low=0, high=MAX_SEQ),
    "image_tokens": counted(low=0, high=MAX_SEQ),
}
_DECODE = _ALWAYS | {
    "expert_skew": optional(_SKEW),
    "context": counted(high=MAX_SEQ),
    "queries": counted(high=MAX_QUERIES),
    "image_tokens": counted(low=0, high=MAX_SEQ),
}

Workload = Training | Prefill | Decode


def to_dict(workload: Workload) -> dict[str, Any]:
    """The workload as JSON, phase first."""
    fields: dict[str, Any] = {"phase": workload.phase}
    for name in workload.__struct_fields__:
        value = getattr(workload, name)
        if name == "image_tokens" and not value:
            continue
        if name == "formats":
            fields |= {
                f"{k}_dtype" if k != "dtype" else k: v
                for k, v in msgspec.to_builtins(value).items()
            }
        else:
            fields[name] = value
    fields["expert_imbalance"] = drawn_imbalance(workload.expert_imbalance, workload.expert_skew)
    return fields | {"expert_skew": drawn_skew(workload.expert_skew)}


def tokens_per_step(workload: Workload) -> int:
    """Tokens that one step of a replica works on (decode: makes)."""
    return workload.batch * (1 if isinstance(workload, Decode) else workload.seq)
