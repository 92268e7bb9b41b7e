"""The public function :func:`run`: a model performed on this machine (or in a job), and the prediction
beside it."""

from __future__ import annotations

import importlib.util
import re
from typing import TYPE_CHECKING, Any

import msgspec

from meshwise.api import estimate
from meshwise.api import stack as load_stack
from meshwise.arguments import NameOrPath
from meshwise.clusters.load import Cluster, Device, Level, load_cluster
from meshwise.dtypes import known
from meshwise.errors import InputError, MeshwiseError
from meshwise.models.families.config import model_from_config
from meshwise.models.formats import unquantised
from meshwise.models.load import first_layers, load_config, load_model
from meshwise.models.shapes import Model, Quantization
from meshwise.strict_tables import check_keys
from meshwise.workloads.workload import Decode, Formats, Prefill, Training

if TYPE_CHECKING:
    from meshwise.answers.run import RunFigures, RunOperation, RunRecord, RunResult
    from meshwise.runtime.job import Task

JOB = "meshwise.runtime.job:perform_run"
_EXPERTS = ("permute", "unpermute", "activation", "experts.gate_up", "experts.up", "experts.down")
_PHASES = {"forward": "forward", "dgrad": "backward", "wgrad": "backward"}


def run(
    model: str,
    *,
    on: NameOrPath | Cluster | None = None,
    layers: int | None = None,
    backend: str = "gloo",
    timeout_s: float = 120.0,
    threads: int | None = None,
    **task: object,
) -> RunResult | None:
    """Perform ``model`` with tensor parallelism on this machine (or in a job), and predict it.

    Rests on torch.distributed; the prediction on :func:`estimate`. On one machine the ranks are
    started here; where another launcher has started them (torchrun, srun) this process is one of
    them, and all but rank 0 get None.

    :param model: a preset, or the path of a ``config.json`` or its folder.
    :param on: the cluster to predict with; None: what is measured on the host.
    :param layers: the model's first layers only.
    :param backend: of torch.distributed: ``gloo``, ``nccl``.
    :param timeout_s: after which a rank that does not answer has failed [s].
    :param threads: of each rank; None: the machine's, divided.
    :param task: the fields of :class:`meshwise.runtime.job.Task`: ``tp, pp, dp, phase, batch, seq,
        steps, dtype, options`` and others.
    :returns: measured and predicted seconds, operation by operation; None on all ranks but 0.
    :raises InputError: for what cannot be run.
    :raises RunFailed: for a run that broke (:mod:`meshwise.runtime.ranks.processes`).
    :raises MeshwiseError: without the ``runtime`` extra.

    >>> import meshwise as mw
    >>> answer = mw.run("gpt2", layers=1, tp=2, batch=1, seq=16, steps=1)  # doctest: +SKIP
    >>> answer.measured.step_s > 0  # doctest: +SKIP
    True
    """
    name, table = load_config(model)
    stored = _stored_narrow(load_model(model), task.get("checkpoint"))
    where = load_cluster(on, field="on") if on is not None else None
    job, launcher, cluster_env = _runtime()
    check_keys(task, job.Task.__struct_fields__, "run")
    asked: Task = job.Task(
        model=first_layers(table, layers), timeout_s=timeout_s, measure_host=where is None, **task
    )
    job.checked_config(asked)
    how = {"backend": backend, "timeout_s": timeout_s, "threads": threads}
    arguments = msgspec.to_builtins(asked)
    if cluster_env.under_launcher():
        record = cluster_env.join(JOB, arguments, **how)
        if record is None:
            return None
    else:
        record = launcher.launch(JOB, arguments, ranks=asked.ranks, **how)
    from meshwise.answers.run import RunResult

    return RunResult(_joined(name, asked, record, where, stored))


def _stored_narrow(model: Model, checkpoint: object) -> Quantization | None:
    """How the model's checkpoint stores its weights, which no run does; refused where a run is to load them.

    :raises InputError: for ``checkpoint``.
    """
    q = model.quantization
    if q is None or checkpoint is None:
        return q
    raise InputError(
        f"checkpoint: the weights of {model.name} are stored in {q.weight_dtype} ({q.method}), and a run "
        "computes in 16, 32 or 64 bit without widening stored ones",
        field="checkpoint",
        value=checkpoint,
        legal="without `checkpoint` (random weights), or a model whose config.json has no "
        "quantization_config and a checkpoint like it",
    )


def _runtime() -> tuple[Any, Any, Any]:
    missing = [m for m in ("torch", "transformers") if importlib.util.find_spec(m) is None]
    if missing:
        raise MeshwiseError(
            f"run: {' and '.join(missing)} not installed",
            field="run",
            legal="after `pip install 'meshwise[runtime]'`",
        )
    from meshwise.runtime import job
    from meshwise.runtime.ranks import cluster_env
    from meshwise.runtime.ranks import processes as spawn

    return job, spawn, cluster_env


# -- the prediction --------------------------------------------------------------------------------


def host_cluster(record: dict[str, Any], ranks: int) -> Cluster:
    """The machine of a run as its micro-measurements show it: products at the measured rate, passes at
    that of a copy, an all-reduce of latency + bytes / bandwidth through its shortest and longest."""
    host = record["host"]
    times = host["all_reduce"]
    latency, bandwidth = 1e-6, host["memory_bytes_per_s"]
    if times:
        n = host["ranks"]
        short, long = times[0], times[-1]
        slope = (long["time_s"] - short["time_s"]) / (long["bytes"] - short["bytes"])
        # ring: 2 (N - 1) steps, 2 (N - 1) / N of the bytes
        bandwidth = 2.0 * (n - 1) / n / slope if slope > 0 else bandwidth
        latency = max(short["time_s"] / (2.0 * (n - 1)), 1e-7)
    device = Device(
        name="cpu",
        title=record["machine"]["device"],
        generation="cpu",
        memory_bytes=4.0 * 2**30,
        memory_bytes_per_s=host["memory_bytes_per_s"],
        peak_flops_per_s=dict.fromkeys(("fp32", "bf16", "fp16"), host["flops_per_s"]),
        sources=dict.fromkeys(("peak", "memory_bandwidth"), "measured in this run"),
    )
    level = Level(
        name="host",
        ranks=max(ranks, 2),
        fabric="shared-memory",
        kind="shared-memory",
        bandwidth_bytes_per_s=bandwidth,
        latency_s=latency,
        peer_to_peer=True,
        efficiency=1.0,
        own_latency=True,
    )
    return Cluster(
        name="this host",
        title=f"{record['machine']['device']}, measured in this run",
        device=device,
        levels=(level,),
        source="micro-measurements of products, a copy and the all-reduce before the run",
    )


def predicted(name: str, task: Task, where: Cluster) -> dict[str, Any]:
    """Step, communication and operations of a task on a cluster, by :func:`meshwise.estimate`."""
    spec = unquantised(model_from_config(task.model, name=name, source="run"))  # as it is performed
    options = task.options
    wide = {"fp64": "fp32"}.get(task.dtype, task.dtype)
    sent = options.comm_dtype or wide
    narrow = known(sent) or sent
    overlap = options.overlap if options.overlap in ("split", "decomposed") else "none"
    software = load_stack(
        "meshwise", overlap=overlap, overlap_input_gradient=options.overlap != "none"
    )
    formats = Formats(dtype=wide, comm=narrow, gradients=wide if task.phase == "train" else None)
    layout: dict[str, Any] = {"tp": task.tp, "dp": task.dp}
    if task.phase == "train":
        layout |= {"pp": task.pp, "shard": task.shard, "micro_batch": task.micro}
        layout["sequence_parallel"] = options.sequence_parallel and task.tp > 1
        work: Any = Training(batch=task.batch, seq=task.seq, formats=formats)
        return _shown(estimate(spec, where, work, stack=software, **layout), task.batch * task.seq)
    batch = task.batch
    prompt = Prefill(batch=batch, seq=task.seq, formats=formats)
    if task.phase == "prefill":
        found = estimate(spec, where, prompt, stack=software, **layout)
        return _shown(found, batch * task.dp * task.seq)
    middle = task.seq + (task.new_tokens // 2 if task.phase == "generate" else 0)
    decode = Decode(batch=batch, context=middle, formats=formats)
    token = _shown(estimate(spec, where, decode, stack=software, **layout), batch * task.dp)
    if task.phase == "decode":
        return token
    first = _shown(estimate(spec, where, prompt, stack=software, **layout), 1)
    step = first["step_s"] + (task.new_tokens - 1) * token["step_s"]
    waited = first["comm_share"] * first["step_s"]
    waited += token["comm_share"] * token["step_s"] * (task.new_tokens - 1)
    return {
        "step_s": step,
        "tokens_per_s": batch * task.dp * task.new_tokens / step,
        "comm_share": waited / step,
        "ttft_s": first["step_s"],
        "tpot_s": token["step_s"],
        "operations": [],
    }


def _shown(result: Any, tokens: int) -> dict[str, Any]:
    listed = result.explain()
    waited = sum(
        op["exposed_s"] * op["count"] for op in listed["operations"] if op["group"] in ("tp", "kv")
    )
    return {
        "step_s": listed["step_s"],
        "tokens_per_s": tokens / listed["step_s"],
        "comm_share": waited / listed["step_s"],
        "ttft_s": None,
        "tpot_s": None,
        "operations": listed["operations"],
    }


def _joined(
    name: str, task: Task, record: dict[str, Any], on: Cluster | None, stored: Quantization | None
) -> RunRecord:
    """The record of a run with the prediction's figures beside the measured ones; ``stored``: how the
    checkpoint stores the weights that the run has wide."""
    where = on
    if where is None and record["host"] is not None and record["machine"]["backend"] == "gloo":
        where = host_cluster(record, task.ranks)
    said, why = None, "name the cluster with `on`"
    if where is not None:
        try:
            said = predicted(name, task, where)
        except InputError as error:
            why = error.marked()
    return {
        "schema": 1,
        "model": name,
        "remarks": [
            f"{name} is stored in {stored.weight_dtype} ({stored.method}): the run and its prediction are of "
            f"random weights in {task.dtype}"
        ]
        if stored is not None
        else [],
        "layers": next(
            (task.model[k] for k in ("num_hidden_layers", "n_layer") if k in task.model), None
        ),
        "phase": task.phase,
        "layout": {"tp": task.tp, "pp": task.pp, "dp": task.dp, "ranks": task.ranks},
        "workload": {
            "batch": task.batch,
            "seq": task.seq,
            "micro_batch": task.micro if task.phase == "train" else None,
            "new_tokens": task.new_tokens if task.phase == "generate" else None,
            "dtype": task.dtype,
            "shard": task.shard,
            "schedule": task.schedule,
            "checkpoint": task.checkpoint,
        },
        "options": msgspec.to_builtins(task.options),
        "measured": {
            **_run_figures(record),
            "steps_s": record["steps_s"],
            "unattributed_s": record["unattributed_s"],
            "detailed_step_s": record["detailed_step_s"],
            "losses": record["losses"],
            "peak_memory_bytes": record["peak_memory_bytes"],
        },
        "predicted": _run_figures(said) if said else None,
        "predicted_on": where.title if said and where else why,
        "comm_error": record["comm_error"],
        "operations": _operations(record, said["operations"] if said else []),
        "links": record["links"],
        "host": record["host"],
        "machine": record["machine"],
    }


def _run_figures(found: dict[str, Any]) -> RunFigures:
    """What is both measured and predicted."""
    return {
        "step_s": found["step_s"],
        "tokens_per_s": found["tokens_per_s"],
        "comm_share": found["comm_share"],
        "ttft_s": found["ttft_s"],
        "tpot_s": found["tpot_s"],
    }


def _operations(record: dict[str, Any], listed: list[dict[str, Any]]) -> list[RunOperation]:
    """A row per operation and pass: what was measured and what was predicted, per step."""
    rows: dict[tuple[str, str, str], RunOperation] = {}

    def row(name: str, phase: str, kind: str) -> RunOperation:
        key = (name, _PHASES.get(phase, "update"), kind)
        return rows.setdefault(
            key,
            {
                "name": name,
                "phase": key[1],
                "kind": kind,
                "group": None,
                "group_size": None,
                "payload_bytes": None,
                "algorithm": None,
                "calls": 0.0,
                "measured_s": None,
                "predicted_s": None,
            },
        )

    for found in record["compute"]:
        own = row(found["name"], found["phase"], "compute")
        own["calls"] = max(own["calls"], found["calls"])
        own["measured_s"] = (own["measured_s"] or 0.0) + found["time_s"]
    for found in record["collectives"]:
        own = row(found["name"], found["phase"], found["kind"])
        own |= {
            "group": found["axis"],
            "group_size": found["ranks"],
            "payload_bytes": found["payload_bytes"],
            "algorithm": found["algorithm"] or None,
        }
        own["calls"] += found["calls"]
        if found["time_s"] is not None:
            own["measured_s"] = (own["measured_s"] or 0.0) + found["time_s"]
    for op in listed:
        name = re.sub(r"layer\[\d+\]", "layer", op["name"])
        part = name.removeprefix("layer.moe.")
        if part != name and part in _EXPERTS:
            name = "layer.moe.experts"
        if not op["count"]:
            continue
        sent = bool(op["payload_bytes"])
        own = row(name, op["phase"], op["kind"] if sent else "compute")
        seconds = op["exposed_s"] if sent else op["time_s"]
        own["predicted_s"] = (own["predicted_s"] or 0.0) + seconds * op["count"]
        if sent and own["group"] is None:
            own |= {
                "group": op["group"],
                "group_size": op["group_size"],
                "payload_bytes": round(op["payload_bytes"]),
                "calls": op["count"],
            }
    return list(rows.values())
