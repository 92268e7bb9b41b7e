"""The planner against brute force, against itself, and against what others published."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tests.deep import deep

import meshwise as mw
from meshwise.axes import ORDERS, SHARD_CODE
from meshwise.catalog import names
from meshwise.clusters.load import Cluster
from meshwise.cost.estimate import price_layouts
from meshwise.layouts import tp_degrees as legality
from meshwise.layouts.layout import Layouts
from meshwise.layouts.placement import groups
from meshwise.layouts.rules.case import case_of
from meshwise.layouts.rules.rulebook import RULES
from meshwise.models.shapes import Model
from meshwise.search.training.plan import plan_from, ranked
from meshwise.search.training.prices import Pricer, slices
from meshwise.search.training.ranking import Search, search, variants
from meshwise.search.training.space import divisors, space, virtual_stages
from meshwise.stacks.load import load_stack
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Training

DENSE = mw.model("llama-2-13b")
SPARSE = mw.model("mixtral-8x7b")
A100 = mw.cluster("dgx-a100", nodes=2)
W = Training(batch=24, seq=4096)
STACKS = names("stacks")


def find(
    model: Model, cluster: Cluster, w: Training, stack: Stack, n: int, **pins: object
) -> Search:
    return search(model, cluster, variants(stack, w), n, dict(pins))


def signature(layout: Layouts, cluster: Cluster, routed: bool) -> tuple[object, ...]:
    """What tells two placements of a mesh apart: the ranks of each group on each level, and who shares
    the links of the levels that it crosses."""
    found = groups(layout, cluster)
    rows: list[object] = []
    for axis in ("tp", "cp", "dp", "pp", "dp_cp"):
        g = found[axis]
        rows.append(tuple(int(r) for r in g.ranks))
        rows.append(
            tuple(int(a) if int(r) > 1 else 0 for r, a in zip(g.ranks, g.active, strict=True))
        )
    if routed:
        for axis in ("etp", "ep", "expert_dp"):
            g = found[axis]
            rows.append((tuple(map(int, g.ranks)), tuple(map(int, g.active))))
    return tuple(rows)


def every_layout(model: Model, cluster: Cluster, w: Training, stack: Stack, n: int):
    """All legal layouts by nested loops: an independent enumeration of the rules."""
    moes = [b.moe for b in model.blocks if b.moe is not None]
    tps = legality.legal_tp(model, None)
    for tp, pp, cp in itertools.product(divisors(n), repeat=3):
        if n % (tp * pp * cp) or tp not in tps or pp > model.layers or w.seq % cp:
            continue
        dp = n // (tp * pp * cp)
        if w.batch % dp:
            continue
        grids = [(1, 0)]
        if moes:
            grids = [
                (ep, etp)
                for ep in divisors(moes[0].experts)
                for etp in divisors(tp)
                if (tp * cp * dp) % (ep * etp) == 0
            ]
        for ep, etp in grids:
            yield from _switches(model, cluster, w, stack, tp, pp, cp, dp, ep, etp)


def _switches(model, cluster, w, stack, tp, pp, cp, dp, ep, etp):
    seen = set()
    for order in range(len(ORDERS)):
        mesh = {"tp": tp, "pp": pp, "cp": cp, "dp": dp, "ep": ep, "etp": etp, "placement": order}
        layout = Layouts(**{k: np.int64(v) for k, v in mesh.items()})
        key = signature(layout, cluster, ep > 1 or etp > 1)
        if key in seen:
            continue
        seen.add(key)
        expert_dp = int(layout.expert_dp())
        for micro in divisors(w.batch // dp):
            interleaved = virtual_stages(model.layers, pp) if pp > 1 else []
            if (w.batch // dp // micro) % pp:
                interleaved = []
            ways = [] if tp > 1 and etp and not stack.unsplit_experts else [(False, False)]
            if tp > 1 and (w.seq // cp) % tp == 0:
                ways += [(True, False), (True, True)]
            shards = range(4) if dp * cp > 1 or (etp and expert_dp > 1) else range(1)
            if pp > 1:
                shards = [s for s in shards if list(SHARD_CODE)[s] in stack.pipelined_shards]
            for vp, (sp, cut), recompute, shard in itertools.product(
                [1, *interleaved], ways, (0, 2), shards
            ):
                yield mesh | {
                    "micro_batch": micro,
                    "vp": vp,
                    "sequence_parallel": sp,
                    "decomposed": cut,
                    "recompute": recompute,
                    "shard": shard,
                }


def priced(model, cluster, w, stack, layouts):
    """(seconds, fits) of each layout, one call per layout."""
    rows = []
    for axes in layouts:
        layout = Layouts(
            **{k: np.bool_(v) if isinstance(v, bool) else np.int64(v) for k, v in axes.items()}
        )
        e = price_layouts(model, cluster, w, stack, layout)
        rows.append((float(e.fast_step_s), bool(e.fits)))
    return rows


@pytest.mark.parametrize(("model", "gpus"), [(DENSE, 8), deep(DENSE, 12), deep(SPARSE, 16)])
def test_brute_force(model: Model, gpus: int) -> None:
    """Every layout by nested loops: the same number, the same number that fit, the same ranking."""
    stack = load_stack("megatron-core")
    found = find(model, A100, W, stack, gpus)
    layouts = list(every_layout(model, A100, W, stack, gpus))
    legal = sum(s.space.layouts for s in found.searched)
    assert legal >= len(layouts)
    if model is DENSE:
        assert legal == len(layouts)
    rng = np.random.default_rng(1)
    some = layouts
    if len(layouts) > 2500:
        some = [layouts[i] for i in sorted(rng.choice(len(layouts), 400, replace=False).tolist())]
    rows = priced(model, A100, W, stack, some)
    if some is layouts:
        assert found.feasible == sum(fits for _, fits in rows)
    best = sorted(s for s, fits in rows if fits)
    top = ranked(found, 20)
    if some is layouts:
        assert [f.step_s for f in top] == pytest.approx(best[:20], rel=1e-12)
    else:
        assert top[0].step_s <= best[0] * (1 + 1e-12)


@pytest.mark.parametrize("model", [DENSE, SPARSE])
@pytest.mark.parametrize("stack", STACKS)
def test_what_is_priced_is_what_is_counted(model: Model, stack: str) -> None:
    """Of every column: as many layouts as its number says, each of them one that the stack can run."""
    software = load_stack(stack)
    s = space(model, A100, W, software, 16, {})
    for piece in slices(s):
        legal = np.broadcast_to(piece.legal, piece.shape)
        at = slice(piece.first, piece.first + piece.shape[-1])
        assert np.array_equal(np.count_nonzero(legal, axis=(0, 1, 2, 3)), s.number[at])
        case = case_of(model, software, W, piece.layout, cluster=A100)
        for code, rule in RULES.items():
            assert not np.any(legal & ~np.asarray(rule.keeps(case))), code


@pytest.mark.parametrize("model", [DENSE, SPARSE])
@pytest.mark.parametrize("stack", ["megatron-core", "nemo", "torchtitan-fsdp", "ideal"])
def test_columns_equal_single_layouts_to_the_bit(model: Model, stack: str) -> None:
    software = load_stack(stack)
    s = space(model, A100, W, software, 16, {})
    pricer = Pricer(model, A100, W, software, s)
    pricer.run()
    rng = np.random.default_rng(0)
    columns = np.flatnonzero(np.isfinite(pricer.step_s))
    assert columns.size
    for column in rng.choice(columns, 25).tolist():
        axes = {k: int(v[column]) for k, v in s.columns.items()}
        axes |= {k: int(v[column]) for k, v in pricer.best.items()}
        for name in ("sequence_parallel", "decomposed"):
            axes[name] = bool(axes[name])
        ((step, fits),) = priced(model, A100, W, software, [axes])
        assert fits
        assert step == pricer.step_s[column], axes


@pytest.mark.parametrize("model", [SPARSE, deep(DENSE)])
def test_bound_hides_no_better_placement(model: Model) -> None:
    """All placements priced without the bound: the same best layouts."""
    stack = load_stack("megatron-core")
    cluster = mw.cluster("rtx-4090-8x", nodes=2)
    for where in (A100, cluster):
        pins = {"tp": (2, 4), "recompute": (2,)}
        found = find(model, where, W, stack, 16, **pins)
        best = [f.step_s for f in ranked(found, 10)]
        every: list[float] = []
        for order in range(len(ORDERS)):
            one = find(model, where, W, stack, 16, **pins, placement=(order,))
            every += [f.step_s for f in ranked(one, 10)]
        least = sorted(set(every))
        assert best[:1] == pytest.approx(least[:1], rel=1e-12)
        for mine, theirs in zip(sorted(set(best)), least, strict=False):
            assert mine <= theirs * (1 + 1e-9)


def _best(model: Model, cluster: Cluster, w: Training, n: int, **pins: object) -> float:
    rows = ranked(find(model, cluster, w, load_stack("megatron-core"), n, **pins), 1)
    return rows[0].step_s if rows else float("inf")


def test_more_memory_never_hurts() -> None:
    import msgspec

    steps = []
    for gib in (20, 30, 40, 60, 80, 120):
        device = msgspec.structs.replace(A100.device, memory_bytes=gib * 2.0**30)
        steps.append(_best(DENSE, msgspec.structs.replace(A100, device=device), W, 16))
    assert all(b <= a for a, b in itertools.pairwise(steps))
    assert steps[-1] < steps[0]


def test_a_faster_fabric_never_hurts() -> None:
    import msgspec

    steps = []
    for factor in (0.25, 0.5, 1.0, 2.0, 4.0):
        outer = A100.levels[-1]
        fast = msgspec.structs.replace(
            outer, bandwidth_bytes_per_s=outer.bandwidth_bytes_per_s * factor
        )
        levels = (*A100.levels[:-1], fast)
        steps.append(_best(DENSE, msgspec.structs.replace(A100, levels=levels), W, 16))
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(steps))


def test_a_pin_never_helps() -> None:
    free = _best(DENSE, A100, W, 16)
    for pins in ({"tp": (8,)}, {"pp": (2, 4)}, {"micro_batch": (1,)}, {"shard": (0,)}):
        assert _best(DENSE, A100, W, 16, **pins) >= free


def test_the_parts_of_a_row_add_up() -> None:
    stack = load_stack("megatron-core")
    answer = plan_from(find(SPARSE, A100, W, stack, 16), stack, 10)
    for row in answer.rows:
        assert sum(row.parts.values()) == pytest.approx(row.step_s, rel=1e-9)
        assert row.step_low_s < row.step_s < row.step_high_s
        assert row.fits
    steps = [row.step_s for row in answer.rows]
    assert steps == sorted(steps)


def test_the_front_is_a_front() -> None:
    stack = load_stack("megatron-core")
    front = plan_from(find(DENSE, A100, W, stack, 16), stack, 10).pareto
    assert len(front) > 2
    for a, b in itertools.pairwise(front):
        assert a.step_s <= b.step_s
        assert a.memory_bytes > b.memory_bytes


def test_rivals_differ_in_their_axis() -> None:
    stack = load_stack("megatron-core")
    answer = plan_from(find(DENSE, A100, W, stack, 16), stack, 10)
    best = answer.best
    assert best is not None
    assert {"tp", "pp", "dp", "cp", "recompute", "shard", "micro_batch"} <= {
        r.axis for r in answer.rivals
    }
    for rival in answer.rivals:
        assert rival.row.found.layout.code(rival.axis) != best.found.layout.code(rival.axis)
        assert rival.row.difference_s >= 0


def test_an_independent_solver_finds_the_same_optimum() -> None:
    """A reduced problem: Llama-2-7B on the 8 GPUs of one node at ideal rates, one replica of 16
    microbatches. Its step in closed form, written here without meshwise, and the choice of TP and PP
    solved by scipy's mixed-integer programming."""
    scipy = pytest.importorskip("scipy.optimize")
    layers, h, ffn, vocab, seq, m = 32, 4096, 11008, 32000, 2048, 16
    peak, wire = 312e12, 300e9

    def step(tp: int, pp: int) -> float:
        per_layer = seq * (2 * (4 * h * h + 3 * h * ffn) + 4 * seq * h)
        head = seq * 2 * h * vocab
        compute = 3 * (layers / pp * per_layer + head) / tp / peak
        reduced = 2 * (tp - 1) / tp * (2 * seq * h) / wire
        # two of a layer's forward and two of its backward, the head's, and on one stage the embedding's
        comm = (4 * layers / pp + 1 + (pp == 1)) * reduced
        sent = 2 * (2 * seq * h) / wire if pp > 1 else 0.0
        return (m + pp - 1) * (compute + comm + sent)

    meshes = [(1, 8), (2, 4), (4, 2), (8, 1)]
    cost = np.array([step(tp, pp) for tp, pp in meshes])
    solved = scipy.milp(
        cost,
        constraints=scipy.LinearConstraint(np.ones((1, len(cost))), 1, 1),
        integrality=np.ones(len(cost)),
        bounds=scipy.Bounds(0, 1),
    )
    tp, pp = meshes[int(np.argmax(solved.x))]
    pins = {"dp": (1,), "cp": (1,), "micro_batch": (1,), "vp": (1,), "recompute": (0,)}
    pins |= {"sequence_parallel": (False,), "placement": (0,)}
    model, cluster = mw.model("llama-2-7b"), mw.cluster("dgx-a100", nodes=1)
    found = find(model, cluster, Training(batch=m, seq=seq), load_stack("ideal"), 8, **pins)
    listed = ranked(found, 4)
    assert (listed[0].layout.tp, listed[0].layout.pp) == (tp, pp)
    for f in listed:
        assert f.step_s == pytest.approx(step(f.layout.tp, f.layout.pp), rel=5e-3)


def test_sizes_grow_linearly() -> None:
    """Twice the batch's divisors, about twice the layouts: nothing is cut silently."""
    stack = load_stack("megatron-core")
    few = space(DENSE, A100, Training(batch=8, seq=4096), stack, 16, {})
    many = space(DENSE, A100, Training(batch=64, seq=4096), stack, 16, {})
    assert many.layouts > 1.5 * few.layouts


@pytest.mark.parametrize(("name", "gpus"), [("deepseek-v2-lite", 32), deep("deepseek-v3", 512)])
def test_models_without_kv_heads_are_planned(name, gpus):
    w = Training(batch=512, seq=2048)
    answer = mw.plan(mw.model(name), mw.cluster("hgx-h100"), w, gpus=gpus, top=20).to_dict()
    assert len(answer["layouts"]) == 20
    for row in answer["layouts"]:
        assert row["step_s"] > 0 and all(s > 0 for s in row["exposed_comm_by_axis_s"].values())
