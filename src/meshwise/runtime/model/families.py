"""Which module of a family plays which role, and how each of its parameters is cut over the ranks.

One table per family: role → module path. The names of the products are those of ``explain``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from meshwise.errors import InputError, meant
from meshwise.runtime.model.cuts import Cut


class Product(NamedTuple):
    """A linear layer: its path in the layer, and the parts that its output features consist of:
    ``q`` (query heads), ``kv`` (key or value heads), ``ffn``."""

    path: str
    parts: tuple[str, ...]


class SplitFamily(NamedTuple):
    """Paths are within the base model, those of a layer's modules within the layer."""

    base: str
    layers: str
    embedding: str
    norm: str
    attention: str
    inputs: tuple[Product, ...]  # of the attention
    output: str
    ffn: str  # module that the up and down products are in; "" is the layer itself
    up: tuple[Product, ...]
    down: str
    centred_norms: bool = False  # a norm multiplies by 1 + its weight
    views_whole: bool = False  # the base model reshapes the last hidden state to the input's shape


_SEPARATE = (
    Product("q_proj", ("q",)),
    Product("k_proj", ("kv",)),
    Product("v_proj", ("kv",)),
)
_LLAMA = SplitFamily(
    base="model",
    layers="layers",
    embedding="embed_tokens",
    norm="norm",
    attention="self_attn",
    inputs=_SEPARATE,
    output="o_proj",
    ffn="mlp",
    up=(Product("gate_proj", ("ffn",)), Product("up_proj", ("ffn",))),
    down="down_proj",
)
SPLIT_FAMILIES: dict[str, SplitFamily] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _LLAMA._replace(centred_norms=True),
    "phi3": _LLAMA._replace(
        inputs=(Product("qkv_proj", ("q", "kv", "kv")),),
        up=(Product("gate_up_proj", ("ffn", "ffn")),),
    ),
    "mixtral": _LLAMA,
    "qwen3_moe": _LLAMA,
    "gpt2": SplitFamily(
        base="transformer",
        layers="h",
        embedding="wte",
        norm="ln_f",
        attention="attn",
        inputs=(Product("c_attn", ("q", "kv", "kv")),),
        output="c_proj",
        ffn="mlp",
        up=(Product("c_fc", ("ffn",)),),
        down="c_proj",
        views_whole=True,
    ),
    "opt": SplitFamily(
        base="model.decoder",
        layers="layers",
        embedding="embed_tokens",
        norm="final_layer_norm",
        attention="self_attn",
        inputs=_SEPARATE,
        output="out_proj",
        ffn="",
        up=(Product("fc1", ("ffn",)),),
        down="fc2",
    ),
}


def split_family(model_type: str) -> SplitFamily:
    """Raise :class:`InputError` for a family without a table."""
    found = SPLIT_FAMILIES.get(model_type)
    if found is None:
        near = meant(model_type, {name: name for name in SPLIT_FAMILIES})
        raise InputError(
            f"model: {model_type!r} is no family that the runtime can split",
            field="model",
            value=model_type,
            legal=sorted(SPLIT_FAMILIES),
            nearest=near.pop() if len(near) == 1 else None,
        )
    return found


class Sizes(NamedTuple):
    """Heads and features of the whole model, and of this rank."""

    heads: int
    kv_heads: int
    head_dim: int
    ranks: int
    rank: int

    @property
    def local_heads(self) -> int:
        return self.heads // self.ranks

    @property
    def local_kv_heads(self) -> int:
        return max(self.kv_heads // self.ranks, 1)

    @property
    def sharing(self) -> int:
        """Ranks that hold the same KV head."""
        return max(self.ranks // self.kv_heads, 1)


def rank_sizes(config: Any, ranks: int, rank: int) -> Sizes:
    """Raise :class:`InputError` for a TP degree that the heads do not allow."""
    heads = config.num_attention_heads
    kv = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    legal = [n for n in range(1, heads + 1) if heads % n == 0 and (kv % n == 0 or n % kv == 0)]
    if ranks not in legal:
        what = f"{heads} attention heads" if heads % ranks else f"{kv} KV heads, nor they it"
        raise InputError(
            f"tp={ranks} does not divide {what}",
            field="tp",
            value=ranks,
            legal=legal,
            nearest=min(legal, key=lambda n: (abs(n - ranks), -n)),
        )
    return Sizes(heads, kv, head_dim, ranks, rank)


def part(kind: str, width: int, s: Sizes) -> tuple[int, int, int]:
    """(start, stop, size) of this rank's share of ``width`` features; size may exceed what is there."""
    if kind == "q":
        size = s.local_heads * s.head_dim
        return s.rank * size, (s.rank + 1) * size, size
    if kind == "kv":
        size = s.local_kv_heads * s.head_dim
        first = s.rank // s.sharing * size
        return first, first + size, size
    size = -(-width // s.ranks)
    return min(s.rank * size, width), min((s.rank + 1) * size, width), size


def features(
    parts: tuple[str, ...], whole: int, s: Sizes
) -> tuple[tuple[tuple[int, int], ...], int]:
    """(spans, local size) of a product's output features."""
    widths = {"q": s.heads * s.head_dim, "kv": s.kv_heads * s.head_dim}
    rest = whole - sum(widths.get(kind, 0) for kind in parts)
    shares = sum(kind == "ffn" for kind in parts)
    spans, size, begin = [], 0, 0
    for kind in parts:
        width = widths.get(kind) or rest // shares
        start, stop, local = part(kind, width, s)
        if len(parts) > 1 and stop - start != local:
            raise InputError(
                f"tp={s.ranks} does not divide the {width} features of a fused projection",
                field="tp",
                value=s.ranks,
                legal=[n for n in range(1, s.ranks + 1) if width % n == 0],
            )
        spans.append((begin + start, begin + stop))
        size += local
        begin += width
    return tuple(spans), size


def cuts(model: nn.Module, plan: SplitFamily, s: Sizes) -> dict[str, Cut]:
    """How every parameter of a (whole) model is cut for a rank; tied ones appear under each name."""
    found: dict[str, Cut] = {}
    whole = {n: tuple(p.shape) for n, p in model.named_parameters(remove_duplicate=False)}
    for name, shape in whole.items():
        found[name] = Cut.everything(shape)
    vocabulary = whole[f"{plan.base}.{plan.embedding}.weight"][0]
    rows = part("vocabulary", vocabulary, s)
    for name in (f"{plan.base}.{plan.embedding}.weight", "lm_head.weight"):
        if name in whole:
            found[name] = Cut(0, (rows[:2],), rows[2], whole[name])
    for i in range(len(model.get_submodule(f"{plan.base}.{plan.layers}"))):  # type: ignore[arg-type]
        layer = f"{plan.base}.{plan.layers}.{i}"
        attention = f"{layer}.{plan.attention}"
        ffn = f"{layer}.{plan.ffn}" if plan.ffn else layer
        for prefix, products, down in (
            (attention, plan.inputs, plan.output),
            (ffn, plan.up, plan.down),
        ):
            if f"{prefix}.{down}.weight" not in whole:
                continue  # experts
            transposed = _transposed(model.get_submodule(f"{prefix}.{down}"))
            for product in products:
                name = f"{prefix}.{product.path}.weight"
                dim = 1 if transposed else 0
                spans, size = features(product.parts, whole[name][dim], s)
                found[name] = Cut(dim, spans, size, whole[name])
                bias = f"{prefix}.{product.path}.bias"
                if bias in whole:
                    found[bias] = Cut(0, spans, size, whole[bias])
            name = f"{prefix}.{down}.weight"
            dim = 0 if transposed else 1
            kind = "q" if prefix == attention else "ffn"
            spans, size = features((kind,), whole[name][dim], s)
            found[name] = Cut(dim, spans, size, whole[name])
        up, down = f"{ffn}.experts.gate_up_proj", f"{ffn}.experts.down_proj"
        if up in whole:
            spans, size = features(("ffn", "ffn"), whole[up][1], s)
            found[up] = Cut(1, spans, size, whole[up])
            spans, size = features(("ffn",), whole[down][2], s)
            found[down] = Cut(2, spans, size, whole[down])
    return found


def _transposed(module: nn.Module) -> bool:
    """GPT-2's Conv1D keeps its weight as (in, out)."""
    return type(module).__name__ == "Conv1D"
