"""The public functions of launch commands: :func:`export` and :func:`read_command`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

from meshwise.arguments import NameOrPath, given
from meshwise.checks import keywords
from meshwise.clusters.load import Cluster, load_cluster
from meshwise.comparison import beside, check_nodes, compare, open_load, open_values
from meshwise.errors import IllegalLayout, InputError
from meshwise.launch.account.launch_text import LaunchText, texts_by_name
from meshwise.launch.account.questions import OpenValue, Unanswered
from meshwise.models.load import load_model
from meshwise.models.names import HUB_ID
from meshwise.models.served.nearest import nearest_preset
from meshwise.models.shapes import Model
from meshwise.stacks.stack import Stack
from meshwise.strict_tables import count, fraction

if TYPE_CHECKING:
    from meshwise.answers.export import ExportResult
    from meshwise.answers.import_ import ImportResult
    from meshwise.launch.job import Job
    from meshwise.launch.read import Parsed


@keywords
def export(
    job: Job,
    target: str,
    *,
    wrapper: str | None = None,
    version: str | None = None,
    read_from: Parsed | None = None,
) -> ExportResult:
    """The launch command of a job.

    Rests on the flags of the target's software in the version that the answer names.

    :param job: a :class:`meshwise.launch.Job`: phase, layout, sizes.
    :param target: a name out of :func:`meshwise.launch.target_names`, such as ``vllm``.
    :param wrapper: what starts it on several nodes: ``torchrun``, ``slurm``, ``lws``, ``kuberay``.
    :param version: the version that is asked for; another than the known one is refused.
    :param read_from: the command that the job was read from (:func:`meshwise.launch.parse`): its flags
        that change time or memory are kept, or named in ``untranslated``.
    :returns: ``text`` to run, ``files`` that it reads, ``untranslated``: what the target has no flag for.
    :raises InputError: for a job that the target's software cannot run.

    >>> import meshwise as mw
    >>> from meshwise.launch import Job
    >>> answer = mw.export(Job(model="gpt2", phase="serve", tp=2, etp=2), "vllm")
    >>> answer.gpus, "--tensor-parallel-size 2" in answer.text
    (2, True)
    """
    from meshwise import launch
    from meshwise.answers.export import ExportResult

    given(job, launch.Job, "job", "a meshwise.launch.Job, such as meshwise.launch.job_of makes")
    for value, option in ((target, "target"), (wrapper, "wrapper"), (version, "version")):
        if value is not None or option == "target":
            given(value, str, option, "a name")
    if read_from is not None:
        given(read_from, launch.Parsed, "read_from", "what meshwise.launch.parse returns")
    _runs(job, target)
    written = launch.write_launch(
        job, target, wrapper=wrapper, version=version, read_from=read_from
    )
    return ExportResult(written, job)


def job_needs_split(job: Job, target: str) -> bool:
    """Whether the target's software trains experts beside TP split only, and the job's are not."""
    from meshwise.launch.table import target as known_target
    from meshwise.layouts.rules.case import needs_split as must_split
    from meshwise.stacks.load import load_stack

    known = known_model(job.model) if job.model else None
    if known is None or job.tp == 1 or job.sequence_parallel or job.phase != "train":
        return False
    stack = load_stack(known_target(target).stack)
    return must_split(load_model(known), stack, job.phase)


def _runs(job: Job, target: str) -> None:
    """Raise where the target's software cannot run the job."""
    from meshwise.launch.table import target as known_target

    if job_needs_split(job, target):
        raise IllegalLayout(
            f"sequence_parallel=false: {known_target(target).title} trains experts beside TP with it only",
            field="sequence_parallel",
            value="false",
            legal="`sequence_parallel=True`, or tp 1",
            nearest="true",
        )


def known_model(name: str) -> str | None:
    """A preset for a model's name as hubs and commands write it (``meta-llama/Llama-3.1-70B-Instruct``),
    or a config file by its path; None where there is none."""
    from pathlib import Path

    from meshwise.models.names import named_model

    plain = name.rstrip("/")
    if not plain or Path(plain).exists():
        return plain or None
    said = Path(plain).name if plain.startswith((".", "/", "~")) else plain  # of another machine
    return said if named_model(said, "model") is not None else None


@keywords
def read_command(
    command: str,
    cluster: Cluster | NameOrPath,
    *,
    model: Model | NameOrPath | None = None,
    target: str | None = None,
    gpus: int | None = None,
    stack: Stack | NameOrPath | None = None,
    global_batch: int | None = None,
    micro_batch: int | None = None,
    seq: int | None = None,
    isl: int | None = None,
    osl: int | None = None,
    concurrency: int | None = None,
    acceptance: float | None = None,
    which: int | str | None = None,
    values: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    name: str | None = None,
) -> ImportResult:
    """A launch command read into a layout, priced beside the best of as many GPUs.

    Rests on the flags of the target's software, :func:`estimate` or :func:`serve`, and :func:`plan`.
    What the command does not say is given here.

    :param command: the text of the command, or of the script that runs it.
    :param cluster: a name, a path or a :class:`Cluster`.
    :param model: a name, a path or a :class:`Model`; None: the command's.
    :param target: whose command it is; None: told by its words.
    :param gpus: GPUs in all, where the command does not say it.
    :param stack: the software; None: the target's.
    :param global_batch: training: sequences per step over all replicas.
    :param micro_batch: training: sequences per microbatch.
    :param seq: training: tokens per sequence.
    :param isl: serving: tokens of a prompt.
    :param osl: serving: tokens of an answer.
    :param concurrency: serving: requests in flight over all replicas.
    :param acceptance: serving with drafts: how often a drafted token is accepted, 0 to 1.
    :param which: of several commands of the text, by number or name.
    :param values: of variables that the text does not set: name → value.
    :param files: that the text names: name → text.
    :param name: of the file that the text is, which errors name.
    :returns: ``layout``, ``best`` and single ``changes``: seconds, bytes.
    :raises InputError: for a command that cannot be read, or lacks what is not given either.

    >>> import meshwise as mw
    >>> command = "vllm serve meta-llama/Llama-3.1-8B --tensor-parallel-size 2"
    >>> answer = mw.read_command(command, "hgx-h100", isl=512, osl=64, concurrency=8)
    >>> answer.model, answer.layout.tp
    ('llama-3.1-8b', 2)
    """
    from meshwise.answers.import_ import ImportResult
    from meshwise.launch.account.sources import at_load
    from meshwise.launch.table import target as known_target

    given(command, str, "command", "the text of a launch command")
    gpus = None if gpus is None else count(gpus, "gpus")
    for option, number in (
        ("global_batch", global_batch),
        ("micro_batch", micro_batch),
        ("seq", seq),
        ("isl", isl),
        ("osl", osl),
        ("concurrency", concurrency),
    ):
        if number is not None:
            count(number, option)
    if acceptance is not None:
        acceptance = fraction(acceptance, "acceptance", low=0.0, high=1.0)
    if name is not None:
        given(name, str, "name", "the name of a file")
    if which is not None and (isinstance(which, bool) or not isinstance(which, int | str)):
        given(which, str, "which", "a number or a name")
    load: _Load = {
        "global_batch": global_batch,
        "micro_batch": micro_batch,
        "seq": seq,
        "isl": isl,
        "osl": osl,
        "concurrency": concurrency,
        "acceptance": acceptance,
    }
    text = LaunchText(
        command, which, texts_by_name(values, "values"), texts_by_name(files, "files"), name or ""
    )
    spec, parsed = _read(text, model, target, gpus, load)
    same_model(parsed, spec)
    check_nodes(parsed, cluster)
    parsed = at_load(parsed, {"global_batch": global_batch, "micro_batch": micro_batch, "seq": seq})
    parsed = with_warnings(parsed, spec, cluster)
    try:
        compared = compare(
            parsed.job,
            spec,
            cluster,
            stack=known_target(parsed.target).stack if stack is None else stack,
            **load,
        )
    except IllegalLayout as error:
        raise of_its_flag(error, parsed, text.name) from None
    given_too = {k: v for k, v in {"model": model, "gpus": gpus, **load}.items() if v is not None}
    return ImportResult(parsed, compared, spec.name, (*given_too, *text.values))


def with_warnings(parsed: Parsed, spec: Model, cluster: Cluster | NameOrPath) -> Parsed:
    """The job with what its target says of it on the cluster."""
    from meshwise.launch.account.launch_warnings import launch_warnings

    return parsed._replace(warnings=launch_warnings(parsed, spec, load_cluster(cluster)))


def of_its_flag(error: IllegalLayout, parsed: Parsed, name: str) -> IllegalLayout:
    """A layout that its target refuses, with the flag of the command that says it."""
    from meshwise.launch.account.sources import sources

    own = sources(parsed, ()).get(error.field)
    if own is not None and own["source"] == "flag":
        error.message += f": {own['word']}"
        error.file = own["file"] or name
        error.line = own["line"] if error.file or own["file"] else None
    return error


class _Load(TypedDict):
    """What a caller says of a load."""

    global_batch: int | None
    micro_batch: int | None
    seq: int | None
    isl: int | None
    osl: int | None
    concurrency: int | None
    acceptance: float | None


def _read(
    text: LaunchText,
    model: Model | NameOrPath | None,
    target: str | None,
    gpus: int | None,
    load: _Load,
) -> tuple[Model, Parsed]:
    """The model and the job of a command; all that is open asked for in one message."""
    from meshwise.launch.account.candidates import SeveralCommands
    from meshwise.launch.shell.commands import unset_names

    spec = load_model(model, "model") if model is not None else None
    try:
        parsed = text.parse(target, gpus, None if spec is None else _is_routed(spec))
    except Unanswered as error:
        more = _model_question(error.model) if spec is None and error.model is not None else []
        raise error.also([*more, *open_load(error.phase, error.said, load)]) from None
    except SeveralCommands as error:
        jobs = [c.read.job for c in error.found if c.read is not None]
        named = [j.model for j in jobs]
        named += [c.error.model for c in error.found if isinstance(c.error, Unanswered)]
        asked = [q for n in named if unset_names(n) for q in _model_question(n)]
        asked = [q for q in asked if q.answer not in {x.answer for x in error.asked}]
        asked += [q for job in jobs for q in open_values(job, **load)]
        raise error.also(list({q.answer: q for q in asked}.values())) from None
    if spec is not None:
        return spec, parsed
    asked = open_values(parsed.job, **load)
    unknown = [] if parsed.shape and not parsed.job.model else _model_question(parsed.job.model)
    if unknown and (asked or unset_names(parsed.job.model)):
        raise Unanswered([*unknown, *asked], parsed.job.phase, parsed.job.model)
    spec = _model_of(parsed)
    return spec, text.parse(target, gpus, _is_routed(spec))


def _is_routed(spec: Model) -> bool:
    return any(block.moe is not None for block in spec.blocks)


def _model_question(name: str) -> list[OpenValue]:
    """That a command's model is not known; nothing where it is."""
    from meshwise.launch.shell.commands import unset_names

    if name and unset_names(name):
        return [OpenValue(f"${n}", "the model") for n in unset_names(name)]
    try:
        _model_named(name)
    except InputError as error:
        why = "; " + error.message.removeprefix("model: ")
        example = str(error.nearest or "llama-3.1-70b")
        return [OpenValue("model", "", "model", why=why, example=example)]
    return []


def same_model(parsed: Parsed, spec: Model) -> None:
    """Raise where the model that the command names, or the sizes that its flags give, are not the
    model's."""
    from meshwise.launch.settings import stages
    from meshwise.launch.settings.sizes import check_sizes
    from meshwise.launch.table import target as known_target

    chosen = known_target(parsed.target)
    check_sizes(dict(parsed.sizes), spec, chosen)
    if chosen.flags.keys() & set(stages.SPLITS):
        stages.check_split(dict(parsed.sizes), spec.layers, parsed.job.pp, parsed.job.vp)
    known = known_model(parsed.job.model) if parsed.job.model else None
    if known is None:
        return
    other = load_model(known)
    if (other.layers, other.hidden, other.vocab) != (spec.layers, spec.hidden, spec.vocab):
        raise InputError(
            f"model={spec.name}: the command runs {parsed.job.model}",
            field="model",
            value=spec.name,
            legal=f"{other.name}, or leave `model` out",
            nearest=other.name,
        )
    _same_format(parsed.job, other, spec, "model")


def _same_format(job: Job, other: Model, spec: Model, field: str) -> None:
    """Raise where a command serves a checkpoint in another format than the model that is asked for."""
    if job.phase != "serve" or job.quantization is not None:  # made of it as it is loaded
        return
    own, theirs = (m.quantization and m.quantization.weight_dtype for m in (spec, other))
    if own != theirs:
        raise InputError(
            f"{field}={spec.name}: weights in {own or '16 bit'}, and the command's {job.model} has them "
            f"in {theirs or '16 bit'}",
            field=field,
            value=spec.name,
            legal=f"{other.name}, as in the command",
            nearest=other.name,
        )


def _model_of(parsed: Parsed) -> Model:
    """The model that a command names, or that its flags describe."""
    from meshwise.launch.settings.megatron_model import model_of_flags

    name = parsed.job.model
    built = model_of_flags(parsed.shape, parsed.job.tp) if not name else None
    return _model_named(name) if built is None else built


def _model_named(name: str) -> Model:
    known = known_model(name) if name else None
    if known is None and name and HUB_ID.fullmatch(name):  # as every command reads it
        return load_model(name, "model")
    if known is None:
        said = (
            f"the command's model {name!r} is no preset" if name else "the command names no model"
        )
        raise InputError(
            f"model: {said}",
            field="model",
            value=name or None,
            legal="a preset, a config.json or its folder",
            nearest=nearest_preset(name) if name else None,
        )
    return load_model(known)


__all__ = [
    "LaunchText",
    "of_its_flag",
    "beside",
    "compare",
    "export",
    "known_model",
    "read_command",
    "same_model",
    "with_warnings",
]
