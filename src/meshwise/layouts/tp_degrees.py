"""Which tensor-parallel degrees a model admits, and what the others break.

Small named rules. Each finds what a degree breaks in one model; a *refusal* makes the degree
illegal, a *remark* says what it costs (padding, copied KV heads) and which software refuses it.
Reasons are codes with their figures; the sentences stand in :mod:`meshwise.answers.text.tp`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from meshwise.layouts.rules.rule import Refusal
from meshwise.models.layers.attention import Attention
from meshwise.models.layers.projections import Projection
from meshwise.models.layers.recurrent import Recurrent
from meshwise.models.parameters import attention_matrices
from meshwise.models.shapes import Block, Mlp, Model, Stored
from meshwise.stacks.stack import Stack

# The software decides over copies of KV heads and the padding of the vocabulary. None: an engine that
# copies, and pads no more than it must.
Software = Stack | None


class Finding(NamedTuple):
    """What one TP degree meets in a model: a code, and the figures that the sentence needs."""

    code: str
    refuses: bool
    text: str


def _attentions(model: Model) -> Iterator[Attention]:
    seen = set()
    for block in model.blocks:
        if block.attention is not None and block.attention not in seen:
            seen.add(block.attention)
            yield block.attention


def _mlps(block: Block) -> Iterator[tuple[str, Mlp]]:
    if block.mlp is not None:
        yield "FFN", block.mlp
    if block.moe is not None:
        yield "expert FFN", block.moe.expert
        if block.moe.shared is not None:
            yield "shared-expert FFN", block.moe.shared


def heads(model: Model, tp: int, stack: Software, etp: int) -> Iterator[Finding]:
    """Query heads are split whole: tp must divide them."""
    for a in _attentions(model):
        if a.heads % tp:
            yield Finding(
                "heads",
                True,
                f"tp={tp} does not divide {a.heads} attention heads ({a.heads} mod {tp} = {a.heads % tp})",
            )


def kv_heads(model: Model, tp: int, stack: Software, etp: int) -> Iterator[Finding]:
    """KV heads are split, or each is copied to a whole number of ranks (C38)."""
    for a in _attentions(model):
        # one latent, or one key that is its value: on every rank whole, as its engines have it
        if a.mla or a.one_cache or (a.heads == a.kv_heads and a.heads % tp):
            continue
        if a.kv_heads % tp and tp % a.kv_heads:
            yield Finding(
                "kv_heads",
                True,
                f"tp={tp} neither divides the {a.kv_heads} KV heads nor is a multiple of them",
            )
        elif tp > a.kv_heads:
            refuses = stack is not None and not stack.can.copies_kv_heads
            what = f"so the KV cache per GPU stays that of TP={a.kv_heads}"
            if stack is not None and refuses:
                what = f"which {stack.title or stack.name} does not"
            yield Finding(
                "kv_copies",
                refuses,
                f"{a.kv_heads} KV heads on {tp} ranks: every KV head is copied {tp // a.kv_heads} "
                f"times, {what}. Serving engines (vLLM, "
                "SGLang, TensorRT-LLM) copy; plain column splits (transformers, DTensor) refuse",
            )


def output_groups(model: Model, tp: int, stack: Software, etp: int) -> Iterator[Finding]:
    """Groups of heads whose outputs are compressed apart are split whole (vLLM's deepseek_v4.py)."""
    for a in _attentions(model):
        if a.output_rank is not None and a.output_groups % tp:
            text = f"tp={tp} does not divide {a.output_groups} groups of the output projection"
            yield Finding("output_groups", True, text)


def _recurrents(model: Model) -> list[Recurrent]:
    return list(dict.fromkeys(b.recurrent for b in model.blocks if b.recurrent is not None))


def recurrent_heads(model: Model, tp: int, stack: Software, etp: int) -> Iterator[Finding]:
    """Heads (channels) of recurrent mixers are split whole, each with its state."""
    for r in _recurrents(model):
        if r.heads % tp:
            what = f"{r.heads:,} {r.words} {'heads' if r.value_dim > 1 else 'channels'}"
            text = f"tp={tp} does not divide {what} ({r.heads} mod {tp} = {r.heads % tp})"
            yield Finding("recurrent_heads", True, text)


def key_groups(model: Model, tp: int, stack: Software, etp: int) -> Iterator[Finding]:
    """Heads of keys that several value heads share (Mamba: groups of B and C): split, or a single one copied
    (vLLM's mamba_mixer2.py and qwen3_next.py)."""
    for r in _recurrents(model):
        # of a rule without keys of their own, one group of Mamba 1's states is made on every rank
        if r.key_dim == 1 or r.rule == "mamba" or r.key_heads % tp == 0:
            continue
        what = f"{r.key_heads} {r.words} {'groups' if r.rule == 'mamba2' else 'key heads'}"
        if r.key_heads > 1:
            left = f"({r.key_heads} mod {tp} = {r.key_heads % tp})"
            yield Finding("key_groups", True, f"tp={tp} does not divide {what} {left}")
        elif tp > 1:
            refuses = stack is not None and not stack.can.copies_kv_heads
            why = f", which {stack.title or stack.name} does not" if stack and refuses else ""
            text = f"1 {r.words} group on {tp} ranks: every rank keeps a copy{why}"
            yield Finding("key_copies", refuses, text)


def recurrent_norms(model: Model, tp: int, stack: Software, etp: int) -> Iterator[Finding]:
    """A norm over heads of several ranks takes a third reduction in the layer; where it spans groups of heads
    of linear attention, engines keep whole groups on a rank (vLLM's bailing_linear_attn.py, SGLang's
    bailing_moe_linear.py)."""
    for r in _recurrents(model):
        if tp == 1 or not r.spans_ranks(tp):
            continue
        if r.rule == "lightning" and r.norm_groups > 1:
            what = f"{r.norm_groups} groups of heads that a {r.words} norm spans"
            yield Finding("norm_groups", True, f"tp={tp} does not divide the {what}")
            continue
        text = f"the {r.words} norm spans heads of {tp} ranks: one more reduction per layer"
        yield Finding("recurrent_norm", False, f"{text}, of their sums of squares")


def quantization(model: Model, tp: int, stack: Software, etp: int) -> Iterator[Finding]:
    """Shards must hold whole quantisation groups and FP8 blocks.

    Queries, keys and values that are stored apart and computed as one product may end inside a block where it
    is a head that does: engines round a rank's blocks up (vLLM's ColumnParallelLinear allows it of products that
    are merged; SGLang's mimo_v2_flash.py skips the check).
    """
    q = model.quantization
    if q is None:
        return
    if q.weight_dtype == "unknown" and tp == 1:
        yield Finding(
            "quantization_unknown",
            False,
            f"quantisation method {q.method!r} is not known, nor how many bytes its weights take: "
            "prices need `weights`",
        )
    padded = q.method == "mxfp4"  # engines pad MXFP4 experts to whole groups
    for where, side, width, stored in _split_widths(model, tp):
        size, n = _whole(q.method, side, stored), _ranks(where, tp, etp)
        if n == 1 or size <= 1 or (width % n and where.startswith("expert FFN")):
            continue  # an expert's uneven parts are the grid's own matter
        shard = -(-width // n)  # padded where it does not divide
        if shard % size:
            unit = "block" if stored.block else "group"
            done = "; engines pad it" * padded or "; engines round its blocks up" * (
                side == "heads"
            )
            yield Finding(
                "quantization_padding" if done else "quantization",
                not done,
                f"{q.method} {unit} {size}: {where} {width:,} / {n} = {shard:,} is no multiple of {size}"
                f" ({shard / size:g} {unit}s){done}",
            )


def _ranks(where: str, tp: int, etp: int) -> int:
    """Ranks that split a matrix: routed experts have a degree of their own."""
    return etp if where.startswith("expert FFN") else tp


def _whole(method: str, side: str, stored: Stored) -> int:
    """Features that a shard must hold together."""
    if side == "in":
        return stored.block[1] if stored.block else stored.group or 1
    if method.startswith(("awq", "gptq")) and stored.dtype in ("int4", "int8"):
        return 32 // int(stored.dtype[3:])  # outputs that share a 32-bit word
    return stored.block[0] if stored.block else 1


def _split_widths(model: Model, tp: int) -> Iterator[tuple[str, str, int, Stored]]:
    """(matrix, which side is split, width, format) of every quantised matrix that TP splits, once; ``heads``:
    the outputs, of heads each wider than a block."""
    seen: set[tuple[str, str, int, Stored]] = set()
    for block in model.blocks:
        s = block.stored
        found: list[tuple[str, str, int, Stored | None]] = []
        if block.attention is not None:
            for m in attention_matrices(block.attention, model.hidden):
                found += _sides(f"attention {m.role}", m, tp, s.attention, s.output)
        if block.recurrent is not None:
            for m in block.recurrent.matrices(model.hidden):
                name = f"{block.recurrent.words} {m.role}"
                found += _sides(name, m, tp, s.recurrent, s.recurrent_output)
        pairs = {
            "FFN": (s.up, s.down),
            "expert FFN": (s.expert_up, s.expert_down),
            "shared-expert FFN": (s.shared_up, s.shared_down),
        }
        for name, mlp in _mlps(block):
            up, down = pairs[name]
            found.append((f"{name} up", "out", mlp.width, up))
            found.append((f"{name} down", "in", mlp.width, down))
        for where, side, width, stored in found:
            if stored is not None and (where, side, width, stored) not in seen:
                seen.add((where, side, width, stored))
                yield where, side, width, stored


def _sides(
    name: str, m: Projection, tp: int, first: Stored | None, last: Stored | None
) -> list[tuple[str, str, int, Stored | None]]:
    """The side that TP splits of a projection, as wide as with its copies; nothing where none is."""
    if m.how == "none":
        return []
    copies = tp // m.heads if m.heads < tp else 1
    if m.how == "row":
        return [(name, "in", m.inputs * copies, last if m.role == "output" else first)]
    if m.outputs == m.heads:  # a value per head: engines keep these in 16 bit
        return []
    block = first.block[0] if first is not None and first.block else 0
    if m.role in ("query", "key", "value") and m.outputs // m.heads > block > 0:
        return [(name, "heads", m.outputs * copies, first)]
    return [(name, "out", m.outputs * copies, last if m.role == "output_down" else first)]


def method_family(method: str) -> str:
    """The name that stacks know a checkpoint's method by: ModelOpt and auto-round have several for theirs."""
    if method.startswith("modelopt"):
        return "modelopt"
    if method.rpartition("/")[2].replace("_", "").replace("-", "") == "autoround":
        return "auto-round"
    return method


def unread_method(model: Model, stack: Stack) -> str:
    """What says that a stack does not load checkpoints of the model's method; "" where it does."""
    q = model.quantization
    if q is None or method_family(q.method) not in stack.can.unread_methods:
        return ""
    return f"{stack.title or stack.name} does not load {q.method} checkpoints"


def ffn(model: Model, tp: int, stack: Software, etp: int) -> Iterator[Finding]:
    """FFN widths that do not divide are priced padded; even-splitting engines refuse them."""
    seen: set[tuple[str, int]] = set()
    for block in model.blocks:
        for name, mlp in _mlps(block):
            n = _ranks(name, tp, etp)
            if mlp.width % n and (name, mlp.width) not in seen:
                seen.add((name, mlp.width))
                yield Finding(
                    "ffn_padding",
                    False,
                    f"{name} width {mlp.width:,} does not divide by {n}: padded to "
                    f"{padded(mlp.width, n):,} here; engines that split evenly (vLLM, Megatron) refuse",
                )


def vocabulary_rows(model: Model, stack: Software, tp: Any) -> Any:
    """Rows of the vocabulary on each of ``tp`` ranks: rounded up as the engine does, then to whole rows."""
    multiple: Any = 1
    if stack is not None:
        multiple = stack.kernels.vocab_multiple * (
            tp if stack.kernels.vocab_multiple_per_rank else 1
        )
    return -(-padded(model.vocab, multiple) // tp)


def vocabulary(model: Model, tp: int, stack: Software, etp: int) -> Iterator[Finding]:
    """A vocabulary that does not divide is padded, to the multiple that the stack rounds it to."""
    if model.vocab % tp:
        rows = int(vocabulary_rows(model, stack, tp))
        yield Finding(
            "vocab_padding",
            False,
            f"vocabulary {model.vocab:,} does not divide by {tp}: padded to {rows * tp:,}; "
            "an engine without padding refuses",
        )


DEGREE_RULES = (
    heads,
    kv_heads,
    output_groups,
    recurrent_heads,
    key_groups,
    recurrent_norms,
    quantization,
    ffn,
    vocabulary,
)


def findings(model: Model, tp: int, stack: Software, etp: int | None = None) -> list[Finding]:
    """All that TP degree ``tp`` meets, in the fixed order of :data:`DEGREE_RULES`, each once. ``etp``: ranks
    that split an expert, where expert parallelism leaves fewer than ``tp``."""
    own = tp if etp is None else etp
    every = [finding for rule in DEGREE_RULES for finding in rule(model, tp, stack, own)]
    return list(dict.fromkeys(every))


def refusals(model: Model, tp: int, stack: Software, etp: int | None = None) -> list[Finding]:
    """What makes ``tp`` illegal."""
    return [f for f in findings(model, tp, stack, etp) if f.refuses]


def tp_remarks(model: Model, tp: int, stack: Software, etp: int | None = None) -> list[str]:
    """What ``tp`` costs or needs that does not make it illegal."""
    return list(dict.fromkeys(f.text for f in findings(model, tp, stack, etp) if not f.refuses))


def max_heads(model: Model) -> int:
    """Most heads that an attention has, or where there is none a recurrent mixer: no degree beyond is
    legal."""
    own = [a.heads for a in _attentions(model)]
    return max(own or [r.heads for r in _recurrents(model)], default=1)


def head_divisors(model: Model) -> list[int]:
    """Every degree that divides the heads of all layers."""
    found = [a.heads for a in _attentions(model)] + [r.heads for r in _recurrents(model)]
    whole = math.gcd(*found) or 1
    return [tp for tp in range(1, whole + 1) if whole % tp == 0]


def legal_tp(model: Model, stack: Software) -> list[int]:
    """Every degree that no rule refuses, ascending."""
    return [tp for tp in head_divisors(model) if not refusals(model, tp, stack)]


def tp_refusal(model: Model, tp: int, stack: Software, etp: int | None = None) -> Refusal | None:
    """All that refuses ``tp``, the legal degrees and the nearest; None where nothing does."""
    found = refusals(model, tp, stack, etp)
    if not found:
        return None
    legal = legal_tp(model, stack)
    message = "; ".join(f.text for f in found)
    if found[0].code in ("heads", "recurrent_heads"):
        others = [d for d in head_divisors(model) if d not in legal]
        if others:
            reasons = {f.code for d in others for f in refusals(model, d, stack)}
            why = " and ".join(sorted(_NAMES[r] for r in reasons))
            listed = ", ".join(str(d) for d in others)
            message += (
                f"; {listed} {'divides' if len(others) == 1 else 'divide'} the heads but not {why}"
            )
    if any(f.code == "quantization" for f in found):
        message += "; a copy in 16 bit has no such blocks or groups (`weights=bf16`)"
    # whoever mends one fault meets the next
    padding = (
        f for f in findings(model, tp, stack, etp) if f.code in ("ffn_padding", "vocab_padding")
    )
    message += "".join(f"; {f.text}" for f in padding)
    nearest = min(legal, key=lambda d: (abs(d - tp), d))
    return Refusal("tp", tp, message, legal, nearest, valued=False)


def require_tp(model: Model, tp: int, stack: Software, etp: int | None = None) -> None:
    """Raise :class:`IllegalLayout` for a degree that is not legal."""
    found = tp_refusal(model, tp, stack, etp)
    if found is not None:
        raise found.error()


_NAMES = {
    "kv_heads": "the KV heads",
    "kv_copies": "the KV heads (this stack does not copy them)",
    "quantization": "the quantisation groups",
    "heads": "the heads",
    "output_groups": "the groups of the output projection",
    "recurrent_heads": "the heads of recurrent layers",
    "key_groups": "the key heads or groups of recurrent layers",
    "norm_groups": "the groups that norms of recurrent layers span",
    "key_copies": "the heads of keys of recurrent layers (this stack does not copy them)",
}


def padded(number: int, multiple: Any) -> Any:
    """``number`` rounded up to a multiple."""
    return -(-number // multiple) * multiple
