"""What a run, and a TP degree, cost or need that their figures do not say."""

from __future__ import annotations

from meshwise.clusters.load import Cluster
from meshwise.cost.kernels.fits import experts_of
from meshwise.layouts import tp_degrees as legality
from meshwise.layouts.rules.case import needs_split
from meshwise.models import formats
from meshwise.models.shapes import Model
from meshwise.search.tp_curve.towers import tower_degree_remarks, tower_remarks
from meshwise.stacks.stack import Stack, not_made_for, not_made_on
from meshwise.stacks.versions import version_remark
from meshwise.workloads.workload import Decode, Workload, drawn_skew


def expert_remarks(model: Model, workload: Workload) -> list[str]:
    """What was assumed of the experts that a decode's batch reads."""
    if not isinstance(workload, Decode) or not any(b.moe for b in model.blocks):
        return []
    skew = drawn_skew(workload.expert_skew)
    if skew == 0.0:
        return [
            "experts are drawn evenly: an upper bound of those that a batch reads (`expert_skew` 0)"
        ]
    how = ", assumed: the interval reaches to even draws" if workload.expert_skew is None else ""
    return [
        f"experts are drawn with log-normal popularity, sigma {skew:g}{how}: fewer are read than by even "
        "draws, which are the upper bound (`expert_skew` 0); ranks that share them get unlike numbers of tokens"
    ]


def run_remarks(model: Model, cluster: Cluster, workload: Workload, stack: Stack) -> list[str]:
    """As what a run is priced, whatever its layout: formats, and how experts are drawn."""
    device = cluster.device
    found = formats.format_remarks(model, workload, device.peak_flops_per_s, device.title)
    found += [cluster.asked] if cluster.asked else []
    found += not_made_for(stack, workload.phase)
    later = None if stack.ideal else version_remark(stack.name, stack.title)
    found += [later] if later else []
    found += not_made_on(stack, device.generation, device.title)
    unread = legality.unread_method(formats.model_as_run(model, workload), stack)
    found += [f"{unread}: priced as if it did"] if unread else []
    found += tower_remarks(model, workload, stack)
    found += expert_remarks(model, workload)
    return found + version_remarks(model, cluster, workload, stack)


def version_remarks(model: Model, cluster: Cluster, workload: Workload, stack: Stack) -> list[str]:
    """As of which version an engine's experts were measured: DeepSeek-R1 made 44 tokens/s of one stream
    on 8 x H200 in early 2025 (sgl-project/sglang pull request 3582), and twice as many a year later."""
    if not isinstance(workload, Decode) or stack.ideal or not any(b.moe for b in model.blocks):
        return []
    version = experts_of(cluster.device, stack.software)
    if version is None:
        return []
    return [
        f"experts' kernels are those of {version} (2026): engines of a year before took up to twice as "
        "long per token"
    ]


def degree_remarks(
    model: Model,
    cluster: Cluster,
    workload: Workload,
    stack: Stack,
    tp: int,
    etp: int | None = None,
) -> tuple[str, ...]:
    """What a degree costs or needs that its figures do not say, and a length that the model was not made
    for."""
    found = degree_cost_remarks(model, cluster, workload, stack, tp, etp)
    length = workload.context if isinstance(workload, Decode) else workload.seq
    if model.max_positions is None or length <= model.max_positions:
        return found
    beyond = f"{length:,} tokens are more than the {model.max_positions:,} positions the model was made for"
    return (*found, beyond)


def degree_cost_remarks(
    model: Model,
    cluster: Cluster,
    workload: Workload,
    stack: Stack,
    tp: int,
    etp: int | None = None,
) -> tuple[str, ...]:
    """What a degree costs or needs that its figures do not say."""
    found = run_remarks(model, cluster, workload, stack)
    if tp > 1 and needs_split(model, stack, workload.phase):
        name = stack.title or stack.name
        found.append(f"sequence parallelism is on: {name} trains experts beside TP with it only")
    found += legality.tp_remarks(model, tp, stack, etp)
    if workload.phase != "train":
        found += tower_degree_remarks(model, stack, tp)
    return tuple(dict.fromkeys(found))
