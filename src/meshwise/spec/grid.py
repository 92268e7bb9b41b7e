"""One layout that a user wrote down: is it whole, and does the model allow it?"""

from __future__ import annotations

import msgspec
import numpy as np

from meshwise.errors import IllegalLayout
from meshwise.spec import legality
from meshwise.spec.checks import Rule, check_fields, counted, flag, optional
from meshwise.spec.cluster import Cluster
from meshwise.spec.layout import RECOMPUTE_CODE, SHARD_CODE, Layouts
from meshwise.spec.model import Model
from meshwise.spec.reading import one_of
from meshwise.spec.workload import Training, Workload


class Grid(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Degrees of one layout. ``etp`` None: what ep leaves of tp. ``micro_batch`` None: from the
    workload, else one sequence; ``recompute`` None: from the workload. ``dcp``: decode context
    parallelism, over ranks of tp."""

    tp: int = 1
    pp: int = 1
    vp: int = 1
    dp: int = 1
    cp: int = 1
    ep: int = 1
    etp: int | None = None
    dcp: int = 1
    micro_batch: int | None = None
    sequence_parallel: bool = False
    recompute: str | None = None
    shard: str = "none"

    def __post_init__(self) -> None:
        check_fields(self, _RULES, "")

    @property
    def devices(self) -> int:
        return self.tp * self.pp * self.dp * self.cp


_RULES: dict[str, Rule] = {
    **{name: counted(f"--{name}") for name in ("tp", "pp", "vp", "dp", "cp", "ep", "dcp")},
    "etp": optional(counted("--etp")),
    "micro_batch": optional(counted("--micro-batch")),
    "sequence_parallel": lambda value, field: flag(value, "--sequence-parallel"),
    "recompute": optional(lambda value, field: one_of(value, "--recompute", RECOMPUTE_CODE)),
    "shard": lambda value, field: one_of(value, "--shard", SHARD_CODE),
}


def _refuse(
    field: str, value: object, why: str, legal: object = None, nearest: object = None
) -> None:
    raise IllegalLayout(
        f"{field}={value}: {why}", field=field, value=value, legal=legal, nearest=nearest
    )


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _nearest(legal: list[int], value: int) -> int:
    return min(legal, key=lambda d: (abs(d - value), d))


def check(
    grid: Grid,
    model: Model,
    cluster: Cluster,
    workload: Workload,
    gpus: int | None = None,
    *,
    copies_kv_heads: bool = True,
) -> None:
    """Raise :class:`IllegalLayout` for the first rule that the layout breaks, in a fixed order:
    product, cluster, heads, layers, sequence, batch, experts."""
    product = f"tp {grid.tp} · pp {grid.pp} · dp {grid.dp} · cp {grid.cp} = {grid.devices}"
    if gpus is not None and grid.devices != gpus:
        rest = grid.tp * grid.pp * grid.cp
        fix = f"dp={gpus // rest}" if gpus % rest == 0 and gpus >= rest else None
        _refuse("--gpus", gpus, f"the layout uses {product} GPUs", f"{grid.devices}", fix)
    if grid.devices > cluster.devices:
        _refuse(
            "--tp" if grid.tp > cluster.devices else "--dp" if grid.dp > 1 else "--pp",
            grid.tp if grid.tp > cluster.devices else grid.dp if grid.dp > 1 else grid.pp,
            f"{product} GPUs, but {cluster.name} has {cluster.devices}",
            f"at most {cluster.devices} GPUs (--nodes changes the cluster)",
            None,
        )
    legality.require_tp(model, grid.tp, copies_kv_heads=copies_kv_heads)
    # embedding and head may count as layers of their own
    most = min(model.layers, (model.layers + 2) // grid.vp)
    if grid.pp > most:
        _refuse(
            "--pp",
            grid.pp,
            f"{grid.pp} · vp {grid.vp} stages for {model.layers} layers",
            f"1 to {most}",
            most,
        )
    if grid.vp > 1 and grid.pp == 1:
        _refuse("--vp", grid.vp, "virtual stages need a pipeline (pp > 1)", "1", 1)
    if workload.phase != "decode":
        seq = workload.seq  # type: ignore[union-attr]
        if seq % grid.cp:
            legal = [d for d in _divisors(grid.cp * 4) if seq % d == 0]
            _refuse(
                "--cp",
                grid.cp,
                f"does not divide the sequence of {seq} tokens",
                legal,
                _nearest(legal, grid.cp),
            )
        if grid.sequence_parallel and (seq // grid.cp) % grid.tp:
            _refuse(
                "--sequence-parallel",
                grid.tp,
                f"tp does not divide the {seq // grid.cp} tokens of a rank",
                "a --seq that tp divides, or no --sequence-parallel",
            )
    elif grid.cp > 1:
        _refuse("--cp", grid.cp, "decode has one token per sequence: nothing to divide", "1", 1)
    if grid.shard != "none" and not isinstance(workload, Training):
        _refuse(
            "--shard", grid.shard, f"{workload.phase} has no gradients to shard", "none", "none"
        )
    _check_batch(grid, workload)
    _check_experts(grid, model)


def _check_batch(grid: Grid, workload: Workload) -> None:
    if not isinstance(workload, Training):
        return
    micro = grid.micro_batch or workload.micro_batch or 1
    if workload.batch % grid.dp:
        legal = [d for d in _divisors(workload.batch) if d <= 4 * grid.dp]
        _refuse(
            "--dp",
            grid.dp,
            f"does not divide the global batch of {workload.batch}",
            legal,
            _nearest(legal, grid.dp),
        )
    per_replica = workload.batch // grid.dp
    if per_replica % micro:
        legal = _divisors(per_replica)[:24]
        _refuse(
            "--micro-batch",
            micro,
            f"does not divide the {per_replica} sequences of a replica",
            legal,
            _nearest(legal, micro),
        )
    if grid.vp > 1 and (per_replica // micro) % grid.pp:
        _refuse(
            "--vp",
            grid.vp,
            f"interleaving needs the {per_replica // micro} microbatches to be a multiple of pp {grid.pp}",
            "1",
            1,
        )


def _check_experts(grid: Grid, model: Model) -> None:
    experts = [b.moe.experts for b in model.blocks if b.moe is not None]
    if not experts:
        if grid.ep > 1:
            _refuse("--ep", grid.ep, f"{model.name} has no experts", "1", 1)
        if grid.etp not in (None, 1, grid.tp):
            _refuse("--etp", grid.etp, f"{model.name} has no experts", "leave --etp out", None)
        return
    for n in experts:
        if n % grid.ep:
            legal = _divisors(n)
            _refuse(
                "--ep", grid.ep, f"does not divide the {n} experts", legal, _nearest(legal, grid.ep)
            )
    inner = grid.tp * grid.cp * grid.dp
    etp = grid.etp or max(1, grid.tp // grid.ep)
    if inner % (etp * grid.ep):
        _refuse(
            "--ep",
            grid.ep,
            f"ep {grid.ep} · etp {etp} does not divide tp {grid.tp} · cp {grid.cp} · dp {grid.dp} = {inner}",
            legal := [d for d in _divisors(inner) if experts[0] % d == 0],
            _nearest(legal, grid.ep),
        )


def to_layouts(grid: Grid, workload: Workload) -> Layouts:
    """The layout as 0-d arrays."""
    micro = (
        grid.micro_batch or (workload.micro_batch if isinstance(workload, Training) else None) or 1
    )
    recompute = "none"
    if isinstance(workload, Training):
        recompute = grid.recompute or workload.recompute
    return Layouts(
        tp=np.int64(grid.tp),
        pp=np.int64(grid.pp),
        vp=np.int64(grid.vp),
        dp=np.int64(grid.dp),
        cp=np.int64(grid.cp),
        ep=np.int64(grid.ep),
        etp=np.int64(grid.etp or 0),
        micro_batch=np.int64(micro),
        sequence_parallel=np.bool_(grid.sequence_parallel),
        recompute=np.int64(RECOMPUTE_CODE[recompute]),
        shard=np.int64(SHARD_CODE[grid.shard]),
        dcp=np.int64(grid.dcp),
    )
