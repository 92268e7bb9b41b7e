"""How a model is parallelised: each optimisation a switch, all of them exact but for ``comm_dtype``."""

from __future__ import annotations

import msgspec

from meshwise.errors import InputError
from meshwise.strict_tables import one_of

OVERLAPS = ("none", "wgrad", "split", "decomposed")
ALGORITHMS = ("auto", "backend", "ring", "hierarchical", "shared_memory")
RUN_PHASES = ("train", "prefill", "decode", "generate")
RUN_SCHEDULES = ("1f1b", "gpipe")
RUN_SHARDS = ("none", "zero3")
MAX_PIECES = 65536  # pieces, values per scale
COMM_DTYPES = ("int8", "e4m3", "e5m2", "bf16")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Switches of tensor parallelism.

    - ``sequence_parallel``: norms and dropout on 1/N of the sequence; all-gather and reduce-scatter
      in place of all-reduce (Korthikanti et al. 2022, arXiv 2205.05198, section 4.2.2).
    - ``overlap``: ``wgrad`` runs the backward reductions under the weight gradients; ``split`` also
      cuts the batch in two, one half's reductions under the other half's compute (Domino, arXiv
      2409.15241); ``decomposed`` cuts a product and its collective into ``chunks`` instead (Wang et
      al. 2023, ASPLOS).
    - ``comm_dtype``: what the TP collectives of a layer send; None sends what the model computes in.
      int8, e4m3 and e5m2 carry a scale per ``scale_group`` values and are summed in fp32.
    - ``algorithm``: of all-reduces; ``auto`` takes shared memory on one host, the hierarchical one
      over several nodes, each by size, and the backend's otherwise.
    - ``chunks``: pieces of a decomposed product or of a chunked collective.
    """

    sequence_parallel: bool = False
    overlap: str = "wgrad"
    comm_dtype: str | None = None
    scale_group: int = 128
    algorithm: str = "auto"
    chunks: int = 4

    def __post_init__(self) -> None:
        one_of(self.overlap, "overlap", OVERLAPS)
        one_of(self.algorithm, "algorithm", ALGORITHMS)
        if self.comm_dtype is not None:
            one_of(self.comm_dtype, "comm_dtype", COMM_DTYPES)
        for name in ("scale_group", "chunks"):
            value = getattr(self, name)
            if (
                not isinstance(value, int)
                or isinstance(value, bool)
                or not 1 <= value <= MAX_PIECES
            ):
                raise InputError(
                    f"{name}={value}: is no count",
                    field=name,
                    value=value,
                    legal=f"1 to {MAX_PIECES}",
                )
