"""A job, as a launch command describes it, beside the best layout of as many GPUs."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from meshwise.arguments import NameOrPath
from meshwise.arguments import named_objects as _parts
from meshwise.clusters.load import Cluster, load_cluster
from meshwise.errors import InputError, list_in_words
from meshwise.launch.account.questions import OpenValue, Unanswered
from meshwise.models.shapes import Model
from meshwise.search.serving.engine_limits import EngineLimits, freed, limited_load, limited_stack
from meshwise.stacks.stack import Stack, replaced
from meshwise.workloads.serving import Serving
from meshwise.workloads.workload import Training

if TYPE_CHECKING:
    from meshwise.launch.job import Job
    from meshwise.launch.parsed import Parsed
    from meshwise.layouts.pins import Pins
    from meshwise.search.compare import Compared, ComparedServing
    from meshwise.search.serving.runs.trial import SentLoad

_Found = TypeVar("_Found", "Compared", "ComparedServing")


def compare(
    job: Job,
    model: Model,
    cluster: Cluster | NameOrPath,
    *,
    stack: Stack | NameOrPath | None = None,
    global_batch: int | None = None,
    micro_batch: int | None = None,
    seq: int | None = None,
    isl: int | None = None,
    osl: int | None = None,
    concurrency: int | None = None,
    acceptance: float | None = None,
) -> Compared | ComparedServing:
    """A job beside the best layout of as many GPUs."""

    from meshwise.launch.settings.formats import formats_of_job
    from meshwise.search.compare import compare_serving, compare_training
    from meshwise.workloads.workload import Formats

    missing = open_values(
        job,
        global_batch=global_batch,
        micro_batch=micro_batch,
        seq=seq,
        isl=isl,
        osl=osl,
        concurrency=concurrency,
        acceptance=acceptance,
    )
    if missing:
        raise Unanswered(missing, job.phase, job.model)
    if job.phase == "train":
        job = at_micro_batch(job, micro_batch)
        batch, tokens = global_batch or job.global_batch, seq or job.seq
        assert batch is not None and tokens is not None
        formats = Formats(dtype=job.dtype, comm=job.comm_dtype, gradients=job.grad_dtype)
        work = Training(batch=batch, seq=tokens, formats=formats)
        spec, where, software = _parts(model, cluster, work, stack)
        switches: dict[str, Any] = {"schedule": job.schedule, "attention": job.attention}
        if job.overlap == "split":
            switches["overlap"] = job.overlap
        switches |= _stated(job)
        if not software.ideal:
            software = replaced(software, switches)
        return compare_training(spec, where, work, software, job)
    flight = concurrency or job.concurrency
    assert isl is not None and osl is not None and flight is not None
    _within_length(isl, osl, job)
    formats = formats_of_job(job, model)
    drafts = _drafts(job, acceptance)
    load = Serving(isl=isl, osl=osl, concurrency=flight, formats=formats, **drafts)
    limits = _limits_of(job)
    spec, where, software = _parts(model, cluster, load.decode(), stack)
    free = freed(software, load, limits)
    load, software = limited_load(load, limits), limited_stack(software, limits)
    return compare_serving(
        *(spec, where, load, software, job), max_model_len=job.max_len, free=free
    )


def _limits_of(job: Job) -> EngineLimits:
    """What a serving command states of its engines."""
    from meshwise.launch.settings.serving import sequences_per_replica

    return EngineLimits(
        memory_share=job.memory_share,
        max_sequences=sequences_per_replica(job),
        chunk=job.chunk,
        eager=job.eager,
        chunked_prefill=job.chunked_prefill,
        dispatcher=job.dispatcher,
    )


def _within_length(isl: int, osl: int, job: Job) -> None:
    """A request longer than the command's engines take is refused by them."""
    if job.max_len is None or isl + osl <= job.max_len:
        return
    raise InputError(
        f"isl={isl}: with an answer of {osl} tokens it is longer than the {job.max_len} that the "
        "command's engines take",
        field="isl",
        value=isl,
        legal=f"`isl` and `osl` of at most {job.max_len} together",
        nearest=max(job.max_len - osl, 1),
    )


def _stated(job: Job) -> dict[str, Any]:
    """Switches of a stack that the job says."""
    from meshwise.stacks.stack import STATED

    return {name: getattr(job, name) for name in STATED if getattr(job, name) is not None}


def _drafts(job: Job, acceptance: float | None) -> dict[str, Any]:
    """Speculation as the load has it; how often a draft is accepted no command says."""
    if job.draft_tokens is None:
        _without_drafts(acceptance)
        return {}
    assert acceptance is not None  # asked for with the rest
    return {
        "draft_tokens": job.draft_tokens,
        "acceptance": acceptance,
        "draft_cost": job.draft_cost or "none",
    }


def _without_drafts(acceptance: float | None) -> None:
    if acceptance is not None:
        raise InputError(
            "acceptance: the command drafts no tokens",
            field="acceptance",
            value=acceptance,
            legal="leave `acceptance` out",
        )


def beside(
    job: Job,
    model: Model,
    cluster: Cluster,
    load: Training | Serving,
    stack: Stack,
    plan: Any,
    *,
    own_stack: Stack | None = None,
    pins: Pins | None = None,
    sent: SentLoad | None = None,
) -> Compared | ComparedServing:
    """A job at the load of a plan that is already made, its replicas as many as the plan's GPUs hold.

    The plan's best stands beside it where both run alike; where the command states formats, rules or
    limits of its own, or runs on ``own_stack``, the best under these does. ``pins``: axes that the plan holds;
    ``sent``: what it is sent, requests of a run and their seed.
    """
    import msgspec

    from meshwise.launch.settings.formats import formats_of_job
    from meshwise.search.compare import compare_serving, compare_training

    if isinstance(load, Training):
        trained = load
        if job.dtype is not None:  # what the command computes in, not what the plan does
            own = msgspec.structs.replace(
                load.formats, dtype=job.dtype, gradients=job.grad_dtype or load.formats.gradients
            )
            trained = msgspec.structs.replace(load, formats=own)
        software = stack if stack.ideal else replaced(stack, _stated(job))
        alike = trained == load and software == stack
        found = compare_training(model, cluster, trained, software, job, plan if alike else None)
        return found if alike else _remarked(found, _differences(load, trained, stack, software))
    if (job.draft_tokens or 0) != load.draft_tokens:
        raise InputError(
            f"draft_tokens={load.draft_tokens}: the command drafts {job.draft_tokens or 0}",
            field="draft_tokens",
            value=load.draft_tokens,
            legal=f"`draft_tokens={job.draft_tokens or 0}`, and `acceptance` where it drafts",
        )
    _within_length(load.isl, load.osl, job)
    said = {
        k: v for k, v in msgspec.structs.asdict(formats_of_job(job, model)).items() if v is not None
    }
    limits = _limits_of(job)
    served = msgspec.structs.replace(load, formats=msgspec.structs.replace(load.formats, **said))
    own_engine = stack if own_stack is None else own_stack
    whole = msgspec.structs.replace(job, dp=job.dp * max(plan.gpus // job.gpus, 1))
    flight = load.concurrency
    if plan.limits.tpot_s is not None or plan.limits.ttft_s is not None:
        flight = plan.rows[0].concurrency if plan.rows else whole.dp
    free = freed(own_engine, msgspec.structs.replace(served, concurrency=flight), limits)
    served = limited_load(served, limits)
    software = limited_stack(own_engine, limits)
    alike = served == load and software == stack
    differ = _differences(load, served, stack, software)
    served = msgspec.structs.replace(served, concurrency=flight)
    compared = compare_serving(
        *(model, cluster, served, software, whole),
        plan if alike else None,
        max_model_len=job.max_len,
        objective="latency" if plan.objective == "latency" else "throughput",
        pins=pins,
        sent=sent,
        free=free,
    )
    return compared if alike else _remarked(compared, differ)


_SPOKEN = {
    "max_sequences": "most requests at once",
    "eager": "no CUDA graphs",
    "whole_prompts": "whether prompts are cut",
    "mixes_prefill": "prompts' chunks beside decodes",
    "memory_reserve": "share of the memory",
}


def _differences(
    load: Training | Serving, own: Training | Serving, stack: Stack, software: Stack
) -> list[str]:
    """What a command runs otherwise than the plan, in words."""
    from meshwise.stacks.stack import FIELDS

    if software.name != stack.name:
        return [f"stack {software.name}, not {stack.name}"]
    said = ["number formats"] if own.formats != load.formats else []
    if getattr(own, "chunk", None) != getattr(load, "chunk", None):
        said.append("most tokens of an iteration")
    names = [n for n in FIELDS if getattr(software, n, None) != getattr(stack, n, None)]
    said += [_SPOKEN.get(n, n) for n in names if n != "max_sequences_small"]
    return said


def _remarked(found: _Found, differ: list[str]) -> _Found:
    """The comparison, with what its layouts have in common that the plan's have not."""
    said = f"yours and this best are priced with what the command states and the plan does not: {list_in_words(differ)}"
    return found._replace(remarks=(said, *found.remarks))


def open_values(
    job: Job,
    *,
    global_batch: int | None = None,
    micro_batch: int | None = None,
    seq: int | None = None,
    isl: int | None = None,
    osl: int | None = None,
    concurrency: int | None = None,
    acceptance: float | None = None,
) -> list[OpenValue]:
    """What of a job's load neither its command nor the caller says."""
    given = {
        "global_batch": global_batch or job.global_batch,
        "micro_batch": micro_batch or job.micro_batch,
        "seq": seq or job.seq,
        "isl": isl,
        "osl": osl,
        "concurrency": concurrency or job.concurrency,
    }
    found = open_load(job.phase, (), given)
    if job.draft_tokens is not None and acceptance is None:
        why = f"; it drafts tokens ({job.draft_tokens} a step)"
        found.append(OpenValue("acceptance", "", "acceptance", why=why, example="0.7"))
    return found


# what a load needs: field → an example, and the settings of a command that say it
_LOADS: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {
    "train": {
        "global_batch": ("256", ("global_batch",)),
        "micro_batch": ("1", ("micro_batch", "local_batch", "micro_tokens", "recipe", "family")),
        "seq": ("4096", ("seq",)),
    },
    "serve": {"isl": ("2048", ()), "osl": ("256", ()), "concurrency": ("64", ("max_seqs",))},
}


def at_micro_batch(job: Job, micro_batch: int | None) -> Job:
    """The job with the microbatch that the caller gives; of one without any none is taken for granted."""
    from msgspec import structs

    return job if micro_batch is None else structs.replace(job, micro_batch=micro_batch)


def open_load(phase: str, said: Container[str], given: Mapping[str, object]) -> list[OpenValue]:
    """What of a phase's load is not ``given``; ``said``: settings of a command that is not read whole."""
    needed = _LOADS.get(phase, {}).items()
    return [
        OpenValue(name, "", name, example=example)
        for name, (example, settings) in needed
        if given.get(name) is None and not any(setting in said for setting in settings)
    ]


_RACK = 16  # GPUs of a node from which on it is a rack, whose hosts have fewer


def check_nodes(parsed: Parsed, cluster: Cluster | NameOrPath) -> None:
    """Raise where the command puts its GPUs on other nodes than the cluster has: the collectives that
    cross the network would be others."""
    where = load_cluster(cluster)
    nodes, gpus = parsed.nodes, parsed.job.gpus
    if nodes is None or where.node_devices > _RACK or gpus % nodes:
        return
    each = gpus // nodes
    if each > where.node_devices or (nodes > 1 and each < where.node_devices):
        raise InputError(
            f"cluster={where.name}: the command puts {gpus} GPUs on {nodes} nodes of {each}: the cluster's "
            f"have {where.node_devices}",
            field="cluster",
            value=where.name,
            legal=f"a cluster with nodes of {each} GPUs, or the command with {where.node_devices} a node",
        )
