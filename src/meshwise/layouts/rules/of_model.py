"""Rules that the model imposes: its heads, layers, experts and number formats."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from meshwise.arrays import Array
from meshwise.layouts import tp_degrees
from meshwise.layouts.layout import Layout
from meshwise.layouts.rules.case import Case, cuts_evenly, expert_count, key_copies
from meshwise.layouts.rules.rule import Refusal, Rule, degree_refusal, divisors
from meshwise.layouts.stages import parts_sharers, source_layers
from meshwise.models.layers.recurrent import Recurrent
from meshwise.models.shapes import Model
from meshwise.stacks.stack import Stack


class _Refused:
    """Codes that refuse degrees of a model under a stack: a search asks for the same ones of every number of
    GPUs and for every code."""

    def __init__(self, model: Model, stack: Stack) -> None:
        self.model, self.stack = model, stack
        self._known: dict[tuple[int, int], frozenset[str]] = {}

    def codes(self, tp: int, etp: int) -> frozenset[str]:
        found = self._known.get((tp, etp))
        if found is None:
            every = tp_degrees.refusals(self.model, tp, self.stack, etp)
            found = self._known[tp, etp] = frozenset(f.code for f in every)
        return found


_last: list[_Refused] = []  # of the model and the stack that were asked for last


def _refused(c: Case) -> _Refused:
    known = _last[0] if _last else None
    if known is None or known.model is not c.model or known.stack is not c.stack:
        known = _Refused(c.model, c.stack)
        _last[:] = [known]
    return known


def _admits(code: str) -> Callable[[Case], Array]:
    """Layouts whose tp (and the ranks that split an expert) no finding of this code refuses."""

    def mask(c: Case) -> Array:
        if code in RECURRENT_CODES and not _recurrents(c):
            return np.bool_(True)
        tp, etp = np.broadcast_arrays(c.layout.tp, c.layout.expert_tp())
        pairs, place = np.unique(np.stack([tp.ravel(), etp.ravel()]), axis=1, return_inverse=True)
        refused = _refused(c)
        good = np.array([code not in refused.codes(int(t), int(e)) for t, e in pairs.T], dtype=bool)
        return good[place].reshape(tp.shape)

    return mask


def _degree(layout: Layout, c: Case) -> Refusal:
    found = tp_degrees.tp_refusal(c.model, layout.tp, c.stack, layout.expert_tp)
    assert found is not None
    return found


def _recurrents(c: Case) -> set[Recurrent]:
    return {b.recurrent for b in c.model.blocks if b.recurrent is not None}


def _exchanges_heads(c: Case) -> Array:
    """Context parallelism gives each rank all tokens of some heads of a recurrence: whole ones."""
    found: Array = np.bool_(True)
    if c.phase == "decode":
        return found
    for r in _recurrents(c):
        found = found & ((-(-r.heads // c.layout.tp)) % c.layout.cp == 0)
    return found


def _head_exchange(layout: Layout, c: Case) -> Refusal:
    r = min(_recurrents(c), key=lambda r: r.heads)
    own = -(-r.heads // layout.tp)
    why = f"does not divide the {own} {r.words} heads of a TP rank, which it exchanges"
    return degree_refusal("cp", layout.cp, why, divisors(own))


def _cut_layers(c: Case) -> Array:
    return cuts_evenly(c.model.layers, c.layout.pp, c.layout.vp)


def _layers(layout: Layout, c: Case) -> Refusal:
    n, pp, vp = c.model.layers, layout.pp, layout.vp
    if pp > n:
        return Refusal("pp", pp, f"{pp} stages for {n} layers", f"1 to {n}", n)
    if pp == 1:
        return Refusal("vp", vp, "virtual stages need a pipeline (pp > 1)", "1", 1)
    legal = [v for v in range(1, (n + 2) // pp + 1) if cuts_evenly(n, np.int64(pp), np.int64(v))]
    why = (
        f"pp {pp} · vp {vp} = {pp * vp} chunks do not divide the {n} layers evenly, nor with "
        "embedding and loss in the place of one each"
    )
    return degree_refusal("vp", vp, why, legal or [1])


def _keeps_sharers(c: Case) -> Array:
    """Layers that use keys and values of an earlier one are in its chunk: none pass from stage to stage
    (vLLM runs such models without pipelines, or fails at the first layer of a stage)."""
    sources = source_layers(c.model)
    if all(source == index for index, source in enumerate(sources)):
        return np.bool_(True)
    chunks = np.clip(np.asarray(c.layout.pp) * c.layout.vp, 1, c.model.layers)
    known = {n: not parts_sharers(sources, n) for n in {*map(int, np.ravel(chunks))}}
    return np.array([known[int(n)] for n in chunks.ravel()]).reshape(chunks.shape)


def _sharers(layout: Layout, c: Case) -> Refusal:
    sources, n = source_layers(c.model), c.model.layers
    legal = [pp for pp in range(1, n + 1) if not parts_sharers(sources, pp * layout.vp) or pp == 1]
    why = "parts layers from the one whose keys and values they use"
    if layout.pp in legal or layout.vp > 1:
        return degree_refusal("vp", layout.vp, why, [1])
    return degree_refusal("pp", layout.pp, why, legal)


def _spread_experts(c: Case) -> Array:
    """ep divides the experts, etp the TP ranks (serving: those of all replicas), and ep · etp the ranks
    of a stage. Without experts there is nothing to spread."""
    lay = c.layout
    if not expert_count(c.model):
        return (lay.ep == 1) & ((lay.etp <= 1) | (lay.etp == lay.tp))
    etp = lay.expert_tp()
    widest = lay.tp if c.trains else c.expert_ranks
    return _shared_out(c) & (widest % etp == 0) & (c.expert_ranks % (lay.ep * etp) == 0)


def _shared_out(c: Case) -> Array:
    """The part that ep and etp decide alone."""
    n, lay = expert_count(c.model), c.layout
    return n % lay.ep == 0 if n else (lay.ep == 1) & (lay.etp <= 1)


def _experts(layout: Layout, c: Case) -> Refusal:
    n, name, ep = expert_count(c.model), c.model.name, layout.ep
    if not n and ep > 1:
        return Refusal("ep", ep, f"{name} has no experts", "1", 1)
    if not n:
        return Refusal("etp", layout.etp, f"{name} has no experts", "leave `etp` out")
    if n % ep:
        return degree_refusal("ep", ep, f"does not divide the {n} experts", divisors(n))
    etp, ranks = layout.expert_tp, layout.tp * layout.cp * layout.dp
    of = f"tp {layout.tp} · cp {layout.cp} · dp {layout.dp} = {ranks}"
    widest = layout.tp if c.trains else ranks
    if widest % etp:
        whose = f"tp {layout.tp}" if c.trains else of
        return degree_refusal("etp", etp, f"does not divide {whose}", divisors(widest))
    legal = [d for d in divisors(ranks) if n % d == 0 and ranks % (d * _etp(layout, d)) == 0]
    return degree_refusal("ep", ep, f"ep {ep} · etp {etp} does not divide {of}", legal)


def _etp(layout: Layout, ep: int) -> int:
    """Ranks that split an expert with another ep."""
    return layout.etp or max(1, layout.tp // ep)


def _shares_keys(c: Case) -> Array:
    """Only ranks that hold the same keys and values can divide their context among them."""
    lay = c.layout
    if c.trains:
        return lay.dcp == 1
    tps = np.asarray(lay.tp)
    known = {tp: key_copies(c.model, tp) for tp in {*map(int, tps.ravel())}}
    copies = np.array([known[int(tp)] for tp in tps.ravel()], dtype=np.int64).reshape(tps.shape)
    return copies % lay.dcp == 0


def _dcp(layout: Layout, c: Case) -> Refusal:
    if c.trains:
        return Refusal("dcp", layout.dcp, "has no meaning in training", "leave `dcp` out", 1)
    copies = key_copies(c.model, layout.tp)
    why = (
        f"at most {copies} of the tp {layout.tp} ranks hold the same keys and values, which dcp "
        "divides"
    )
    return degree_refusal("dcp", layout.dcp, why, divisors(copies))


# what a TP degree alone breaks, in the order in which its findings come
RECURRENT_CODES = ("recurrent_heads", "key_groups", "key_copies", "norm_groups")
DEGREE_CODES = (
    "heads",
    "kv_heads",
    "kv_copies",
    "output_groups",
    *RECURRENT_CODES,
    "quantization",
)
TP_DEGREE = {code: Rule("model", _admits(code), _degree) for code in DEGREE_CODES}
LAYERS = Rule("model", _cut_layers, _layers, pins=("pp",))
SHARERS = Rule("model", _keeps_sharers, _sharers, pins=("pp",))
EXPERT_GRID = Rule("model", _spread_experts, _experts, pins=("ep", "etp"), pinned=_shared_out)
DECODE_CONTEXT = Rule(
    "model", _shares_keys, _dcp, pins=("dcp",), pinned=lambda c: np.bool_(not c.trains)
)
HEAD_EXCHANGE = Rule(
    "model", _exchanges_heads, _head_exchange, pins=("cp",), pinned=lambda c: np.bool_(True)
)
