"""The public functions: each puts the parts together; no formula is here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from meshwise.arguments import NameOrPath, given, named_objects, usd_per_device_hour
from meshwise.axes import AXES, SERVES
from meshwise.checks import keywords, name_of
from meshwise.clusters.cluster import Cluster, Device, Level
from meshwise.clusters.load import load_cluster
from meshwise.cost.estimate import price_layouts
from meshwise.layouts.check import check, settled
from meshwise.layouts.layout import arrays, asked, stated_workload
from meshwise.models.load import load_model
from meshwise.models.shapes import Model
from meshwise.search.tp_curve.points import Point
from meshwise.stacks.load import load_stack
from meshwise.stacks.stack import Stack, replaced
from meshwise.stacks.switches import words_of
from meshwise.strict_tables import count, one_of
from meshwise.workloads.limits import Latency, limits_by_quantity, refuse_without_tokens
from meshwise.workloads.serving import Serving
from meshwise.workloads.workload import Decode, Formats, Prefill, Training, Workload

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshwise.answers.collective import CollectiveResult
    from meshwise.answers.estimate import EstimateResult
    from meshwise.answers.model import ModelResult
    from meshwise.answers.scale import ScaleResult
    from meshwise.answers.serve import ServeResult
    from meshwise.answers.validate import ValidateResult
    from meshwise.collectives import collective
    from meshwise.curves import grow, scale, sweep
    from meshwise.layouts.keywords import LayoutAxes, ServingDegrees
    from meshwise.plans import plan

__all__ = [
    "Cluster",
    "CollectiveResult",
    "Decode",
    "Device",
    "EstimateResult",
    "Formats",
    "Level",
    "Model",
    "ModelResult",
    "Point",
    "Prefill",
    "ScaleResult",
    "Serving",
    "Stack",
    "Training",
    "ValidateResult",
    "cluster",
    "collective",
    "describe",
    "estimate",
    "grow",
    "model",
    "plan",
    "scale",
    "serve",
    "stack",
    "sweep",
    "validate",
    "validate_published",
]


if not TYPE_CHECKING:
    _LATER = {
        "CollectiveResult": "meshwise.answers.collective",
        "EstimateResult": "meshwise.answers.estimate",
        "ModelResult": "meshwise.answers.model",
        "ScaleResult": "meshwise.answers.scale",
        "ValidateResult": "meshwise.answers.validate",
        "collective": "meshwise.collectives",
        "grow": "meshwise.curves",
        "plan": "meshwise.plans",
        "scale": "meshwise.curves",
        "sweep": "meshwise.curves",
    }

    def __getattr__(name: str) -> object:
        """An answer is loaded where it is asked for: a command starts in a tenth of a second."""
        if name not in _LATER:
            raise AttributeError(f"module 'meshwise.api' has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module(_LATER[name]), name)


@keywords
def validate(
    table: NameOrPath,
    *,
    stack: Stack | NameOrPath | None = None,
    anchor: NameOrPath | int | None = None,
) -> ValidateResult:
    """Predict every row of a CSV table of measurements: training steps, single layers, serving runs or
    collectives, told by its columns (``docs/reference/tables``).

    Rests on nothing of the table: a row is predicted from its layout and hardware alone.

    :param table: the path of the table, or of ``read``'s JSON; models: presets, or ``models/NAME.json`` beside it.
    :param stack: what software that the catalog does not know is priced as; None: the generic stack.
    :param anchor: of a table of collectives, measured sizes that anchor the predictions of their system
        by a factor on its latencies and one on its bandwidths: the path of a table or of a log of
        nccl-tests, or how many of each system's own rows (4: nearest to 8 KiB, 1 MiB, 32 MiB and 1 GiB).
        Those rows are listed as ``anchor``, and not counted.
    :returns: every row with its prediction, and the errors as shares.
    :raises InputError: for a table that cannot be read; a malformed row is a row of the answer.

    >>> import meshwise as mw, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = pathlib.Path(folder, "mine.csv")
    ...     header = "id,op,device,ranks,bytes,time_us"
    ...     _ = table.write_text(f"{header}\\nmine,all_reduce,a100-80gb-sxm,8,1e6,30\\n")
    ...     answer = mw.validate(table)
    >>> answer.kind, len(answer.rows())
    ('collectives', 1)
    """
    from meshwise.answers.validate import ValidateResult
    from meshwise.evidence.found_rows import read_tables
    from meshwise.evidence.score.summary import error_summary
    from meshwise.evidence.validate import as_one_table, row_results

    tables = read_tables(path := name_of(table, "table", "the path of a CSV table"))
    read, anchors = as_one_table(tables, path), None
    if anchor is not None:
        from meshwise.evidence.anchors.anchoring import anchoring

        anchors = anchoring(read, str(anchor))
    named = None if stack is None else load_stack(stack)
    folder = Path(path).parent
    results = [r for one in tables for r in row_results(one, folder, named, anchors)]
    anchored = () if anchors is None else tuple(anchors.systems.values())
    return ValidateResult(read, results, error_summary(results), anchored)


def validate_published(kind: str = "all") -> ValidateResult:
    """The shipped table of published figures, predicted.

    :param kind: ``"training"``, ``"layers"``, ``"serving"``, ``"collectives"`` or ``"all"``.
    :returns: as :func:`validate`.
    """
    from meshwise.answers.validate import ValidateResult
    from meshwise.evidence.validate import published

    return ValidateResult(*published(kind))


@keywords
def model(name: NameOrPath | Model) -> Model:
    """A model by its name, its ``config.json`` or its hub id.

    Rests on the configuration alone: shapes and parameters are those that transformers builds from
    it, exactly. For a model that nobody has published: :meth:`Model.dense`, :meth:`Model.moe`,
    :meth:`Model.mla`.

    :param name: a preset (``docs/reference/models``), the path of a ``config.json`` or of its folder,
        a hub id (with the ``hub`` extra), or a :class:`Model`, which is returned as it is.
    :raises UnknownName: with the nearest preset.
    :raises UnsupportedModel: for an architecture that is not known.

    >>> import meshwise as mw
    >>> mw.model("llama-3.1-8b").layers
    32
    """
    return load_model(name)


@keywords
def cluster(
    name: NameOrPath | Cluster,
    *,
    nodes: int | None = None,
    nics: int | None = None,
    pcie_host: str | None = None,
) -> Cluster:
    """A cluster by its name or its TOML file.

    Rests on datasheets: ``source`` of the cluster and of its device name them.

    :param name: a preset (``docs/reference/catalog``), a device's name (its usual node), the path of a
        TOML file (``docs/reference/cluster-file``), or a :class:`Cluster`.
    :param nodes: nodes, in place of its own.
    :param nics: NICs of a node, in place of its own.
    :param pcie_host: what is between PCIe cards: ``"switch"``, ``"root"`` or ``"host-memory"``, or a word
        of ``nvidia-smi topo`` (``"PIX"``).
    :raises InputError: for a name that there is none of, or a file that is not right.

    >>> import meshwise as mw
    >>> mw.cluster("dgx-h100", nodes=2).devices
    16
    """
    return load_cluster(name, nodes=nodes, nics=nics, pcie_host=pcie_host)


def stack(name: NameOrPath | Stack, **switches: object) -> Stack:
    """A software stack by its name or its TOML file, with switches replaced.

    Rests on the software's source and on measurements: ``sources`` names them, switch by switch.

    :param name: a stack of the catalog (``docs/reference/stacks``), with a version or without
        (``vllm-0.14``), the path of a TOML file, or a :class:`Stack`.
    :param switches: fields of :class:`Stack`. ``overlap="none"`` turns off the stack's own overlap of
        backward reductions too: nothing hides.
    :raises InputError: for a switch that there is none of, or a value that it does not take.

    >>> import meshwise as mw
    >>> mw.stack("megatron-core", schedule="gpipe").schedule
    'gpipe'
    """
    loaded = load_stack(name)
    for key in ("overlap", "attention", "schedule"):  # options of the command line too
        if key in switches:
            one_of(switches[key], key, words_of(key))
    if switches.get("overlap") == "none":
        switches.setdefault("overlap_input_gradient", False)
    return replaced(loaded, switches)


@keywords
def estimate(
    model: Model | NameOrPath,
    cluster: Cluster | NameOrPath,
    workload: Workload,
    *,
    stack: Stack | NameOrPath | None = None,
    gpus: int | None = None,
    **layout: Unpack[LayoutAxes],
) -> EstimateResult:
    """One layout in full: its step, its communication by axis, its memory.

    Rests on measured times of kernels and collectives, named with their share in ``provenance``;
    memory on arXiv 2205.05198 (activations) and 1910.02054 (sharded states), schedules on 2104.04473.

    :param model: a name, a path or a :class:`Model`.
    :param cluster: a name, a path or a :class:`Cluster`.
    :param workload: :class:`Training` (of all replicas), :class:`Prefill` or :class:`Decode` (of one).
    :param stack: the software; None: the phase's usual one.
    :param gpus: what the degrees have to multiply to; None: whatever they do.
    :param layout: ``tp, pp, vp, dp, cp, ep, etp, dcp`` (degrees; 1 where nothing is said),
        ``micro_batch``, ``sequence_parallel``, ``recompute``, ``shard``, ``placement``.
    :returns: seconds of one step, bytes of the fullest device.
    :raises IllegalLayout: for a layout that the model, the software or the cluster does not admit.
    :raises InputError: for anything else that is not legal.

    >>> import meshwise as mw
    >>> answer = mw.estimate("gpt2", "dgx-a100", mw.Training(batch=8, seq=512), tp=2, dp=4)
    >>> answer.layout.dp, answer.devices, answer.fits
    (4, 8, True)
    >>> waited = answer.exposed_comm_s + answer.bubble_s + answer.host_s
    >>> abs(answer.step_s - answer.compute_s - waited) < 1e-9
    True
    """
    from meshwise.answers.estimate import EstimateResult
    from meshwise.search.one_layout import report

    one = asked(layout, [name for name, axis in AXES.items() if not axis.key])
    gpus = None if gpus is None else count(gpus, "gpus")
    spec, where, software = named_objects(model, cluster, workload, stack)
    one = settled(one, spec, software, workload.phase)
    check(one, spec, where, workload, software, gpus)
    layouts, workload = arrays(one, workload), stated_workload(one, workload)
    return EstimateResult(report(price_layouts(spec, where, workload, software, layouts)))


@keywords
def serve(
    model: Model | NameOrPath,
    cluster: Cluster | NameOrPath,
    workload: Serving,
    *,
    stack: Stack | NameOrPath | None = None,
    gpus: int | None = None,
    request_rate: float | None = None,
    arrivals: str | os.PathLike[str] = "poisson",
    requests: int | None = None,
    seed: int = 0,
    ttft_s: Latency | None = None,
    tpot_s: Latency | None = None,
    request_s: Latency | None = None,
    price_per_device_hour: float | None = None,
    prefill: ServingDegrees | None = None,
    prefill_instances: int = 1,
    decode_instances: int = 1,
    progress: Callable[[int, int], None] | None = None,
    max_model_len: int | None = None,
    **layout: Unpack[ServingDegrees],
) -> ServeResult:
    """Continuous batching of one layout, simulated iteration by iteration: at a fixed number of requests in
    flight, at a rate of arrivals, or as a trace of them says.

    Rests on :func:`estimate` for the time of an iteration and on the engine's own rules of what is in it
    (``docs/reference/stacks``; Orca, OSDI 2022; chunked prefill, arXiv 2308.16369; drafts, arXiv
    2211.17192).

    :param model: a name, a path or a :class:`Model`.
    :param cluster: a name, a path or a :class:`Cluster`.
    :param workload: :class:`Serving`: prompts, answers, requests in flight over all replicas (of arrivals
        the most that run at once).
    :param stack: the engine; None: ``vllm``.
    :param gpus: what the degrees have to multiply to; None: whatever they do.
    :param request_rate: requests that arrive per second, over all replicas; None: a closed loop, which
        sends one where one ends.
    :param arrivals: ``"poisson"``, ``"gamma:B"`` (a burstiness below 1 bunches them), or the path of a file
        of arrival [s], tokens in and tokens out.
    :param requests: of the run; None: ten per request in flight, 2,000 of arrivals, all of a trace.
    :param seed: of lengths and arrivals.
    :param ttft_s: limit on the mean time to first token [s], or limits by statistic: ``{"p95": 1.0}``; with
        limits the answer has what is within them (goodput).
    :param tpot_s: the same of the time per output token of a request [s].
    :param request_s: the same of a whole request [s].
    :param price_per_device_hour: dollars per device and hour.
    :param prefill: prompts on GPUs of their own, on instances of this layout; ``layout`` is then of those
        that decode. None: one layout does both.
    :param prefill_instances: how many compute prompts.
    :param decode_instances: how many decode.
    :param progress: called with (requests that ended, of how many) while it runs.
    :param max_model_len: longest request that the engine is told of [tokens]; None: the model's longest.
    :param layout: ``tp, pp, dp, ep, etp, dcp``.
    :returns: seconds to the first and per further token, tokens and requests per second, bytes.
    :raises IllegalLayout: for a layout that the model, the engine or the cluster does not admit.
    :raises DoesNotFit: for requests that the memory does not hold.
    :raises Overloaded: where more requests arrive than can be served.
    :raises InputError: for anything else that is not legal.

    >>> import meshwise as mw
    >>> answer = mw.serve(
    ...     "llama-3.1-8b", "hgx-h100", mw.Serving(isl=512, osl=64, concurrency=8), tp=2
    ... )
    >>> answer.tpot_low_s < answer.tpot_s < answer.tpot_high_s, answer.fits
    (True, True)
    """
    from meshwise.answers.serve import ServeResult
    from meshwise.layouts.pools import pool_layouts
    from meshwise.search.serving.runs.lengths import with_lengths
    from meshwise.search.serving.runs.room import PlacedServer, room_for
    from meshwise.search.serving.served import simulated
    from meshwise.search.serving.steady_state import steady
    from meshwise.simulate.loads.arrivals import traffic
    from meshwise.simulate.loads.traces import MOST_REQUESTS

    one = asked(layout, SERVES)
    given(workload, Serving, "workload", "Serving(isl=, osl=, concurrency=)")
    step = workload.decode()
    parts = spec, where, software = named_objects(model, cluster, step, stack)
    gpus = None if gpus is None else count(gpus, "gpus")
    requests = None if requests is None else count(requests, "requests", high=MOST_REQUESTS)
    seed = count(seed, "seed", low=0)
    limits = limits_by_quantity(ttft_s, tpot_s, request_s)
    price = usd_per_device_hour(price_per_device_hour)
    if prefill is not None:
        given(prefill, dict, "prefill", "a dictionary of degrees, for example {'tp': 2}")
    first = None if prefill is None else asked(prefill, SERVES)
    pools = pool_layouts(one, first, prefill_instances, decode_instances)
    if prefill is not None:
        from meshwise.answers.serve_pools import PoolsResult
        from meshwise.search.serving.pools import check_pools, simulate_pools

        check_pools(pools, spec, where, workload, software, gpus)
    else:
        check(one, spec, where, step, software, gpus, workload.concurrency)
    coming = traffic(request_rate, arrivals, requests, seed=seed, drafts=workload.draft_tokens)
    refuse_without_tokens(limits, with_lengths(workload, coming).osl)
    room = room_for(PlacedServer(*parts, one, workload), pools.prefill, max_model_len, coming)
    if prefill is not None:
        both = simulate_pools(*parts, pools, workload, coming, requests, seed, progress)
        return PoolsResult(*parts, workload, both, room, limits, price)
    layouts = arrays(one, step)
    load, run = simulated(*parts, layouts, workload, coming, requests, seed, progress)
    found = steady(*parts, layouts, load)
    return ServeResult(spec, where, software, one, workload, found, run, room, limits, price)


@keywords
def describe(model: Model | NameOrPath) -> ModelResult:
    """What a model is made of: parameters, bytes, heads, legal TP degrees.

    Rests on the model's configuration alone.

    :param model: a name, a path or a :class:`Model`.
    :returns: counts of parameters, bytes of weights, degrees.
    :raises InputError: as :func:`model`.

    >>> import meshwise as mw
    >>> answer = mw.describe("gpt2")
    >>> answer.parameters, answer.legal_tp
    (124439808, [1, 2, 3, 4, 6, 12])
    """
    from meshwise.answers.model import ModelResult

    return ModelResult(load_model(model))
