"""``meshwise plan``: every legal layout, ranked, with the reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict, cast

import click

from meshwise.cli import (
    engine,
    latency,
    launch_text,
    needs,
    options,
    output,
    plan_options,
    ranges,
    serve,
    switches,
    terminal,
)
from meshwise.cli.command import CliCommand, Need
from meshwise.cli.given import Given
from meshwise.errors import IllegalLayout, InputError
from meshwise.units import format_gpus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshwise.answers.compared import ReadCommand
    from meshwise.answers.plan import PlanResult
    from meshwise.answers.plan_serving import ServingPlanResult
    from meshwise.api import Cluster, Model, Serving, Stack, Training
    from meshwise.launch.job import Job
    from meshwise.layouts.keywords import ServingPins
    from meshwise.plans import ServingObjective, TrainingObjective
    from meshwise.search.serving.plan import ServingPlan
    from meshwise.search.serving.runs.trial import SentLoad
    from meshwise.search.training.question import Planned


@click.command(
    "plan",
    cls=CliCommand,
    needs=(
        *(needs.NEEDS_MODEL, needs.NEEDS_CLUSTER),
        Need(
            *("batch", "256", "required to train", lambda o: not plan_options.asks_to_serve(o)),
            instead="or --isl 1024 --osl 256 --concurrency 32 to serve",
        ),
        Need("seq", "4096", "required to train", lambda o: not plan_options.asks_to_serve(o)),
        Need("isl", "1024", "required to serve", lambda o: _lengths(o)),
        Need("osl", "256", "required to serve", lambda o: _lengths(o)),
        Need(
            *("concurrency", "32", "required to serve, or a rate, or limits of latency"),
            lambda o: plan_options.asks_to_serve(o) and not _loaded(o),
            instead="or --request-rate 4, or limits such as --ttft 1s --tpot 30ms",
        ),
    ),
    phase=lambda o: "decode" if plan_options.asks_to_serve(o) else "train",
    check=plan_options.serves,
    about={"model": needs.ABOUT_MODEL},
    examples=(
        "meshwise plan gpt3-175b --on dgx-a100 --gpus 1024 --global-batch 1536 --seq 2k",
        "meshwise plan llama-3.1-70b --on hgx-h100 --isl 2k --osl 256 --request-rate 20 --ttft p95=1s --tpot p90=40ms",
    ),
)
@options.target_options
@plan_options.plan_common_options
@plan_options.training_options
@plan_options.serving_options
@plan_options.pin_options
@options.format_options
@engine.limit_options
@plan_options.plan_software_options
@output.output_options
def command(
    model: str, cluster: str | None, nodes: str | None, nics: str | None, **said: object
) -> None:
    """Every legal layout of MODEL on the GPUs of CLUSTER, ranked, and why the best one is.

    Training: --global-batch and --seq. Serving: --isl and --osl, with --concurrency, with limits of latency
    (--ttft, --tpot, --e2e: the most in flight that they allow), or with a --request-rate (the fewest GPUs that
    serve it within the limits; so with --concurrency and limits).
    """
    from meshwise import api

    o = _on_target(Given(said))
    spec = api.model(model)
    switches.check_switch_options(o, spec)
    where = options.read_cluster(cluster, nodes, nics, o.text("pcie_host"))
    gpus = o.number("gpus")
    if nodes is not None and gpus is not None and gpus > where.devices:
        raise InputError(
            f"--gpus={o['gpus']} is more than the {format_gpus(where.devices)} of --nodes {nodes}",
            field="--gpus",
            value=o["gpus"],
            legal=f"1 to {where.devices}, or no --nodes",
            nearest=where.devices,
        )
    if plan_options.serves(o):
        _plan_serving(spec, where, o, gpus)
    else:
        _plan_training(spec, where, o, gpus)


def _on_target(o: Given) -> Given:
    """With the software of ``--target``, where none is named."""
    if not o.has("target"):
        return o
    from meshwise.launch.table import target

    chosen = target(o.word("target"))
    if (chosen.phase == "serve") != plan_options.serves(o):
        raise InputError(
            f"--target={chosen.name}: {chosen.title} {'serves' if chosen.phase == 'serve' else 'trains'}",
            field="--target",
            value=chosen.name,
            legal="a target of the phase that is planned",
        )
    return o if o.has("stack") or o.flag("ideal") else o.but(stack=chosen.stack)


def _target_pins(o: Given, given: Mapping[str, object]) -> Mapping[str, object]:
    if not o.has("target"):
        return {}
    from meshwise.cli.plan_target import pins_of
    from meshwise.launch.table import target

    return pins_of(target(o.word("target")), given)


def _offered(o: Given, result: PlanResult | ServingPlanResult) -> None:
    if o.has("target"):
        from meshwise.cli.plan_target import offer
        from meshwise.launch.table import target

        offer(result, target(o.word("target")), o.count("top", high=1000))


class _Asked(TypedDict):
    """What is asked of either kind of plan."""

    gpus: int | None
    top: int
    price_per_device_hour: float | None
    progress: terminal.Bar | None


def _asked(o: Given, gpus: int | None) -> _Asked:
    top = o.count("top", high=1000)
    if o.has("target"):
        from meshwise.cli.plan_target import rows_asked

        top = rows_asked(top)
    return {
        "gpus": gpus,
        "top": top,
        "price_per_device_hour": options.price(o),
        "progress": terminal.progress("layouts"),
    }


def _plan_training(model: Model, cluster: Cluster, o: Given, gpus: int | None) -> None:
    from meshwise import api

    asked = _asked(o, gpus)
    load, stack = plan_options.training_step(o), plan_options.training_stack(o)
    axes = ranges.opened_pins(
        plan_options.counted_pins(o), model, gpus or cluster.devices, load, stack
    )
    pins: dict[str, object] = {**axes, **plan_options.named_pins(o)}
    pins.update(_target_pins(o, pins))
    result = api.plan(
        *(model, cluster, load),
        stack=stack,
        free=plan_options.comma_list(o.word("free")) if o.has("free") else (),
        objective=cast("TrainingObjective | None", o["objective"]),  # which checks it
        **asked,
        **options.training_pins(pins),
    )
    _offered(o, result)
    if o.has("compare"):
        result.command = _compared(o, model, cluster, load, stack, result.planned)
    output.write_answer(o, result.to_dict, result.page, "layouts")
    _leave(result)


def _plan_serving(model: Model, cluster: Cluster, o: Given, gpus: int | None) -> None:
    from meshwise import api

    asked = _asked(o, gpus)
    limits, stack = latency.by_statistic(o), plan_options.serving_stack(o)
    load = plan_options.serving_load(o, stack, gpus or cluster.devices)
    _comparable(o, fixed=bool(limits) and not plan_options.searches_load(o))
    axes = ranges.opened_pins(
        plan_options.counted_pins(o), model, gpus or cluster.devices, load, stack
    )
    serving_pins: dict[str, object] = {**axes, **_target_pins(o, axes)}
    result = api.plan(
        *(model, cluster, load),
        stack=stack,
        objective=cast("ServingObjective | None", o["objective"]),  # which checks it
        disaggregated=o.flag("disaggregated"),
        ttft_s=limits.get("ttft_s"),
        tpot_s=limits.get("tpot_s"),
        request_s=limits.get("request_s"),
        **plan_options.sent(o),
        **asked,
        **options.serving_pins(serving_pins),
    )
    _offered(o, result)
    if o.has("compare"):
        pins = options.serving_pins(axes)
        planned = result.planned
        result.command = _compared(
            *(o, model, cluster, load, stack, planned.plan, pins), planned.served.asked.sent
        )
    output.write_answer(o, lambda: engine.with_limits(o, result.to_dict()), result.page, "layouts")
    _leave(result)


def _comparable(o: Given, *, fixed: bool) -> None:
    """Refuse a command beside a plan of another number of GPUs than it is asked for."""
    if o.has("compare") and (fixed or o.has("request_rate") or o.has("arrivals")):
        raise InputError(
            "--compare: a command is held against layouts of as many GPUs at requests in flight, not against the "
            "fewest GPUs of a load or a rate of arrivals",
            field="--compare",
            value=o["compare"],
            legal="--concurrency without limits, or --ttft and --tpot alone",
        )


def _lengths(o: Given) -> bool:
    """Whether nothing but options can say how long requests are."""
    return plan_options.asks_to_serve(o) and not serve.traced(o)


def _loaded(o: Given) -> bool:
    """Whether something else than requests in flight says the load, or lets it be looked for."""
    return any(o.has(name) for name in ("request_rate", *latency.LIMITED)) or serve.traced(o)


def _leave(result: PlanResult | ServingPlanResult) -> None:
    """Exit codes of a plan that is not the whole answer, or has none."""
    if result.partial:  # interrupted: what was found is printed, and is not the answer
        raise click.exceptions.Exit(130)
    if not result.feasible:
        raise click.exceptions.Exit(3)


def _at_micro_batch(job: Job, o: Given) -> Job:
    """The job of a command that names no microbatch, at the one of the options."""
    from meshwise.comparison import at_micro_batch, open_values
    from meshwise.launch.account.questions import Unanswered

    said = str(o["micro_batch"]) if o.has("micro_batch") else ""
    if not said.isdecimal():
        missing = [q for q in open_values(job) if q.name == "micro_batch"]
        raise Unanswered(missing, job.phase, job.model)
    return at_micro_batch(job, int(said))


def _compared(
    o: Given,
    model: Model,
    cluster: Cluster,
    load: Training | Serving,
    stack: Stack,
    plan: Planned | ServingPlan,
    pins: ServingPins | None = None,
    sent: SentLoad | None = None,
) -> ReadCommand:
    """The command of ``--compare`` at the plan's own load."""
    from meshwise import commands
    from meshwise.answers.compared import ReadCommand
    from meshwise.api import Serving
    from meshwise.launch.account.sources import at_load
    from meshwise.launch.table import target
    from meshwise.layouts.pins import read_pins
    from meshwise.search.training.question import Planned

    gpus = plan.plan.search.gpus if isinstance(plan, Planned) else plan.gpus
    routed = any(block.moe is not None for block in model.blocks)
    text = launch_text.read_launch((o.word("compare"),), o)
    parsed = text.parse(None, gpus, routed)
    serves = isinstance(load, Serving)
    if parsed.job.phase == "train" and parsed.job.micro_batch is None:
        parsed = parsed._replace(job=_at_micro_batch(parsed.job, o))
    job = parsed.job
    if (job.phase == "serve") != serves:
        raise InputError(
            f"--compare: the command {'serves' if job.phase == 'serve' else 'trains'}",
            field="--compare",
            value=o["compare"],
            legal=f"a command that {'serves' if serves else 'trains'}",
        )
    if gpus % job.gpus:
        raise InputError(
            f"--compare: the command uses {format_gpus(job.gpus)}, the plan {gpus}",
            field="--compare",
            value=job.gpus,
            legal=f"--gpus {job.gpus}",
            nearest=job.gpus,
        )
    try:
        commands.same_model(parsed, model)
    except InputError as error:
        raise InputError(
            f"--compare: {error.sentence}",
            field="--compare",
            value=job.model,
            legal=f"a command that runs {model.name}, or a plan of the command's model",
        ) from None
    if not isinstance(load, Serving):
        parsed = at_load(parsed, {"global_batch": load.batch, "seq": load.seq})
    own = None
    if serves and not o.has("stack") and not stack.ideal:  # the plan's own is the usual one
        own = plan_options.serving_stack(o.but(stack=target(parsed.target).stack))
    try:
        compared = commands.beside(
            *(job, model, cluster, load, stack, plan),
            own_stack=own,
            pins=read_pins(dict(pins)) if pins is not None else None,
            sent=sent,
        )
    except IllegalLayout as error:
        raise commands.of_its_flag(error, parsed, text.name) from None
    return ReadCommand(commands.with_warnings(parsed, model, cluster), compared)
