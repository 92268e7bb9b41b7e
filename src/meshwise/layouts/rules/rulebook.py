"""Every rule of legality, once, in the order in which a layout is looked at: what it breaks first is what
a plan counts it under, and what a refusal names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from meshwise.layouts.layout import Layout, Layouts, of_codes
from meshwise.layouts.rules import of_cluster, of_model, of_stack, of_workload
from meshwise.layouts.rules.case import Case, case_of
from meshwise.layouts.rules.rule import INFERENCE_PHASES, TRAINING_PHASES, Rule
from meshwise.models.shapes import Model
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Workload

RULES: dict[str, Rule] = {
    "devices": of_cluster.DEVICES,  # more GPUs than the cluster has
    **of_model.TP_DEGREE,  # tp and heads, KV heads, their copies, quantisation groups
    "layers": of_model.LAYERS,  # more stages than layers, or chunks that are not even
    "shared_layers": of_model.SHARERS,  # a stage without the keys that its layers use
    "stack": of_stack.STACK,  # what the software cannot run
    "sequence": of_workload.SEQUENCE,  # cp does not divide the sequence
    "head_exchange": of_model.HEAD_EXCHANGE,  # … nor the heads of a recurrence
    "shards": of_workload.UNSHARDED,  # inference has no gradients to shard
    "batch": of_workload.BATCH,  # dp does not divide the global batch
    "micro_batch": of_workload.MICRO_BATCH,  # … nor the microbatch a replica's share of it
    "loss_chunks": of_stack.LOSS_CHUNKS,  # more parts of the loss than a microbatch has tokens
    "replicas": of_workload.REPLICAS,  # more replicas than requests in flight
    "experts": of_model.EXPERT_GRID,  # ep · etp does not divide tp · cp · dp
    "exchange": of_stack.EXCHANGE,  # ep 1 where the exchange of tokens is to be overlapped
    "interleaving": of_stack.INTERLEAVING,  # virtual stages whose microbatches are no multiple of pp
    "sequence_parallel": of_workload.SEQUENCE_PARALLEL,  # tp does not divide a rank's tokens
    "unsplit_experts": of_stack.UNSPLIT_EXPERTS,  # experts beside tp need sequence parallelism
    "dcp": of_model.DECODE_CONTEXT,  # decode context parallelism over ranks that share no KV head
}
# whoever breaks one of these has to mend it first: others are not looked at
FIRST = ("devices", *of_model.DEGREE_CODES)


def codes_of(phases: Sequence[str]) -> tuple[str, ...]:
    """The rules that have a meaning in some of the phases."""
    return tuple(code for code, rule in RULES.items() if set(phases) & set(rule.phases))


TRAINING_CODES, SERVING_CODES = codes_of(TRAINING_PHASES), codes_of(INFERENCE_PHASES)


def broken(case: Case, codes: Sequence[str] = tuple(RULES)) -> list[str]:
    """The rules that one layout breaks."""
    return [code for code in codes if not bool(np.all(RULES[code].keeps(case)))]


def refuse(layout: Layout, case: Case, codes: Sequence[str]) -> None:
    """Raise for the rules that a layout breaks: the first as the field, all in the text.

    :raises IllegalLayout: with what is legal and the nearest.
    """
    first = [code for code in codes if code in FIRST][:1]
    found = [RULES[code].sentence(layout, case) for code in first or codes]
    if found:
        others = "".join(f"; `{r.field}`={r.value}: {r.why}" for r in found[1:])
        raise found[0]._replace(why=found[0].why + others).error()


def refuse_pins(
    pins: Mapping[str, Sequence[int]],
    model: Model,
    stack: Stack,
    workload: Workload,
    requests: int | None = None,
) -> None:
    """Raise for a value of an axis (its code) that no layout can have, whatever its other axes are."""
    for axis, codes in pins.items():
        for code in codes:
            layout = of_codes({axis: int(code)})
            arrays = Layouts(**{"tp": np.int64(1), axis: np.int64(code)})
            case = case_of(model, stack, workload, arrays, requests)
            rules = [rule for rule in RULES.values() if axis in rule.pins]
            found = [r.sentence(layout, case) for r in rules if not r.keeps_pinned(case)]
            if found:
                raise found[0].error()
