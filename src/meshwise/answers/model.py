"""``model``: what a model is made of, and which TP degrees it admits."""

from __future__ import annotations

from typing import TypedDict

import msgspec

from meshwise.answers.records import SCHEMA
from meshwise.answers.records.attributes import Key, Record
from meshwise.answers.records.checkpoint import CheckpointRecord, checkpoint_record
from meshwise.answers.records.result import Answer
from meshwise.answers.text import words
from meshwise.answers.text.checkpoint import checkpoint_tables, checkpoint_words
from meshwise.answers.text.sentences import sentence, wrap
from meshwise.answers.text.tables import Page, Table
from meshwise.layouts import tp_degrees as legality
from meshwise.models.parameters import mtp_parameters, parameters, parameters_with_towers
from meshwise.models.shapes import Model, Quantization
from meshwise.stacks.stack import Stack
from meshwise.units import format_bytes, format_count, format_memory


class RefusedTp(TypedDict):
    """A degree that the model does not admit, and why."""

    tp: int
    reasons: list[str]


class TpRemarks(TypedDict):
    """What a legal degree does to the model."""

    tp: int
    remarks: list[str]


class LayerKind(TypedDict):
    """A kind of layer, and how many are of it."""

    layers: int
    block: dict[str, object]


class ModelRecord(TypedDict):
    """The JSON of ``model``: counts, and bytes by number format."""

    schema: int
    name: str
    model_type: str
    parameters: int
    active_parameters: int
    parameters_with_towers: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_positions: int | None
    dtype: str
    quantization: dict[str, object] | None
    asked: str
    experts: int
    experts_per_token: int
    mtp_parameters: int
    mtp_weight_bytes: float | None
    kv_cache_bytes_per_token: float
    state_bytes_per_sequence: float
    weight_bytes: dict[str, float]
    towers: list[dict[str, object]]
    towers_not_counted: list[str]
    checkpoint: CheckpointRecord | None
    legal_tp: list[int]
    tp_dividing_heads: list[int]
    max_tp_without_kv_copies: int
    refused_tp: list[RefusedTp]
    remarks: list[TpRemarks]
    kinds: list[LayerKind]


class ModelResult(Answer):
    """What a model is made of and which TP degrees it admits."""

    ROWS = "kinds"
    model_type = Key[str]("As the ``config.json`` names the architecture.")
    hidden = Key[int]("Width of the residual stream.")
    heads = Key[int | None]("Query heads.")
    kv_heads = Key[int | None]("Key/value heads.")
    head_dim = Key[int | None]("Width of a query head.")
    vocab = Key[int]("Rows of the embedding table.")
    max_positions = Key[int | None]("Longest context it is made for [tokens].")
    dtype = Key[str]("Of the weights that are not quantised.")
    quantization = Key[Record | None]("How the checkpoint stores its weights.")
    asked = Key[str]("What a name was taken as, or whose the sizes are that a file leaves out.")
    experts = Key[int | None]("Routed experts of a layer.")
    experts_per_token = Key[int | None]("How many of them a token visits.")
    mtp_parameters = Key[int]("Of multi-token-prediction layers, which `parameters` leaves out.")
    mtp_weight_bytes = Key[float | None](
        "Of those layers, each matrix in its own format; `None` where a file does not say it [bytes]."
    )
    kv_cache_bytes_per_token = Key[float](
        "What the cache grows by with a token of a long context, all layers, unsplit [bytes]."
    )
    state_bytes_per_sequence = Key[float](
        "Of recurrent layers, however long the context is, unsplit [bytes]."
    )
    weight_bytes = Key[Record]("Of all weights, by number format [bytes].")
    towers = Key[list[Record]]("Encoders of images and sounds, and their projectors.")
    towers_not_counted = Key[list[str]]("Encoders whose weights are not counted.")
    checkpoint = Key[Record | None]("What the files beside the ``config.json`` hold.")
    tp_dividing_heads = Key[list[int]]("Degrees that divide the heads.")
    max_tp_without_kv_copies = Key[int | None]("From the next on, ranks hold copies of KV heads.")
    refused_tp = Key[list[Record]]("Degrees that are not legal: ``tp`` and ``reason``.")
    remarks = Key[list[str]]("What to know of the answer.")
    kinds = Key[list[Record]]("The distinct kinds of layer, and how many are of each.")

    def __init__(self, spec: Model) -> None:
        self.model = spec

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def layers(self) -> int:
        return self.model.layers

    @property
    def parameters(self) -> int:
        return int(parameters(self.model))

    @property
    def active_parameters(self) -> int:
        """Those that a token meets: of routed experts, its own."""
        return int(parameters(self.model, active=True))

    @property
    def parameters_with_towers(self) -> int:
        """With the encoders of images and sounds that are counted."""
        return int(parameters_with_towers(self.model))

    @property
    def legal_tp(self) -> list[int]:
        """Every TP degree that no rule refuses, ascending."""
        return legality.legal_tp(self.model, None)

    def to_dict(self) -> ModelRecord:
        from meshwise.program.stored import multi_token_bytes, weight_bytes

        return model_record(self.model, weight_bytes(self.model), multi_token_bytes(self.model))

    def page(self) -> Page:
        return model_page(self.to_dict(), self.model)


def model_record(
    model: Model, weight_bytes: dict[str, float], ahead_bytes: float | None
) -> ModelRecord:
    """The JSON of a model; ``weight_bytes`` by number format, ``ahead_bytes`` of multi-token prediction."""
    from meshwise.cost.memory.parts import model_cache_bytes

    per_token, states = model_cache_bytes(model, Stack(name="plain"))
    # kinds of layer, and degrees
    attentions = [b.attention for b in model.blocks if b.attention is not None]
    moes = [b.moe for b in model.blocks if b.moe is not None]
    top = legality.max_heads(model)
    legal = legality.legal_tp(model, None)
    shown = sorted(
        {tp for tp in (*legal, *_powers(top), *legality.head_divisors(model)) if tp <= top}
    )
    return {
        "schema": SCHEMA,
        "name": model.name,
        "model_type": model.model_type,
        "parameters": parameters(model),
        "active_parameters": parameters(model, active=True),
        "parameters_with_towers": parameters_with_towers(model),
        "layers": model.layers,
        "hidden": model.hidden,
        "heads": max((a.heads for a in attentions), default=0),
        "kv_heads": max((a.kv_heads for a in attentions), default=0),
        "head_dim": max((a.head_dim for a in attentions), default=0),
        "vocab": model.vocab,
        "max_positions": model.max_positions,
        # how it is stored
        "dtype": model.dtype,
        "quantization": msgspec.to_builtins(model.quantization),
        "asked": model.asked,
        "experts": max((m.experts for m in moes), default=0),
        "experts_per_token": max((m.top_k for m in moes), default=0),
        "mtp_parameters": mtp_parameters(model),
        "mtp_weight_bytes": ahead_bytes,
        "kv_cache_bytes_per_token": per_token,
        "state_bytes_per_sequence": states,
        "weight_bytes": weight_bytes,
        "towers": [msgspec.to_builtins(tower) for tower in model.towers],
        "towers_not_counted": list(model.towers_not_counted),
        "checkpoint": checkpoint_record(model.checkpoint),
        # degrees, and why others are not
        "legal_tp": legal,
        "tp_dividing_heads": legality.head_divisors(model),
        "max_tp_without_kv_copies": max(
            (tp for tp in legal if all(a.mla or a.kv_heads % tp == 0 for a in attentions)),
            default=1,
        ),
        "refused_tp": [
            {"tp": tp, "reasons": [f.text for f in legality.refusals(model, tp, None)]}
            for tp in shown
            if tp not in legal
        ],
        "remarks": [
            {"tp": tp, "remarks": found}
            for tp in legal
            if (found := legality.tp_remarks(model, tp, None))
        ],
        "kinds": [
            {"layers": n, "block": msgspec.to_builtins(b)}
            for b, n in zip(model.blocks, model.kind_counts(), strict=True)
        ],
    }


def _powers(top: int) -> list[int]:
    return [1 << i for i in range(top.bit_length())]


def model_line(d: ModelRecord, model: Model) -> str:
    """Parameters, bytes of weights, whether the files are as derived, legal TP degrees."""
    active = ""
    if d["active_parameters"] != d["parameters"]:
        active = f" ({format_count(d['active_parameters'])} active)"
    sizes: dict[str, float] = d["weight_bytes"]
    usual = next((k for k in sizes if k.endswith("checkpoint")), "bf16")
    weights = f"{format_memory(sizes[usual])} in {usual}" if usual in sizes else ""
    q = model.quantization
    if q is not None and q.weight_dtype == "unknown":
        weights = f"weights of {q.method}: bytes not known"
    degrees = ", ".join(map(str, d["legal_tp"][:12])) + (", …" if len(d["legal_tp"]) > 12 else "")
    node = next((r for r in d["refused_tp"] if r["tp"] == 8), None)
    refused = f"; not 8: {node['reasons'][0]}" if node else ""
    said = [f"{format_count(d['parameters'])} parameters{active}", weights]
    if model.checkpoint is not None:
        said.append(checkpoint_words(model.checkpoint))
    return words.first_line([*said, f"TP {degrees}{refused}"])


def model_page(d: ModelRecord, model: Model) -> Page:
    """Sizes, what the checkpoint's files hold, degrees, and what each degree does."""
    quantization = model.quantization
    sizes = Table(
        "",
        ("what", "value"),
        (
            ("model type", d["model_type"]),
            ("parameters", f"{d['parameters']:,} ({format_count(d['parameters'])})"),
            (
                "active per token",
                f"{d['active_parameters']:,} ({format_count(d['active_parameters'])})",
            ),
            *_tower_rows(d),
            ("layers", str(d["layers"])),
            ("hidden", str(d["hidden"])),
            ("query heads / KV heads", f"{d['heads']} / {d['kv_heads']}"),
            ("vocabulary", f"{d['vocab']:,}"),
            *(
                (("experts", f"{d['experts']}, {d['experts_per_token']} per token"),)
                if d["experts"]
                else ()
            ),
            *((("quantisation", _stored(quantization)),) if quantization else ()),
            *_weight_rows(d, model),
            *_held(d),
            ("legal TP degrees", " ".join(map(str, d["legal_tp"]))),
            ("most without KV copies", str(d["max_tp_without_kv_copies"])),
        ),
        frozenset({0, 1}),
        ("value",),
    )
    # a sentence per degree that needs one
    lines = [sentence(d["asked"])] if d["asked"] else []
    lines += [f"TP={r['tp']} refused: " + "; ".join(r["reasons"]) for r in d["refused_tp"]]
    lines += [f"TP={r['tp']}: " + "; ".join(r["remarks"]) for r in d["remarks"]]
    lines += _unstated_words(d["towers"])
    told = ("\n".join(wrap(line) for line in lines),) if lines else ()
    files = checkpoint_tables(model.checkpoint) if model.checkpoint is not None else ()
    return Page(d["name"], (sizes, *files, *told), model_line(d, model))


def _weight_rows(d: ModelRecord, model: Model) -> list[tuple[str, str]]:
    """Bytes of the weights by format; those of a method that is not known are not."""
    q = model.quantization
    unknown = q is not None and q.weight_dtype == "unknown"
    found = [(f"weights as {q.method}", "not known")] if q is not None and unknown else []
    return found + [(f"weights in {k}", format_memory(v)) for k, v in d["weight_bytes"].items()]


def _tower_rows(d: ModelRecord) -> list[tuple[str, str]]:
    """Encoders of images and sounds, each with its size, and the whole."""
    rows = [
        (f"  {tower['name']}", f"{tower['parameters']:,}{_tower_format(tower['stored'])}")
        for tower in d["towers"]
    ]
    rows += [(f"  {name}", "not counted") for name in d["towers_not_counted"]]
    if not d["towers"]:
        return rows
    total = d["parameters_with_towers"]
    return [("with towers", f"{total:,} ({format_count(total)})"), *rows]


def _tower_format(stored: object) -> str:
    """The format of a tower's matrices, where they are quantised."""
    return f" ({stored['dtype']})" if isinstance(stored, dict) else ""


def _unstated_words(towers: list[dict[str, object]]) -> list[str]:
    """Sizes of encoders that the file leaves to their classes."""
    return [
        f"{tower['block']}: {', '.join(map(str, unstated))} as its class {tower['name']} has by default"
        for tower in towers
        if isinstance(unstated := tower["unstated"], list | tuple) and unstated
    ]


def _held(d: ModelRecord) -> list[tuple[str, str]]:
    """What a request keeps on the device, and what the model has beside its own layers."""
    found = [("KV cache per token", format_bytes(d["kv_cache_bytes_per_token"]))]
    if d["state_bytes_per_sequence"]:
        found.append(("recurrent state per sequence", format_bytes(d["state_bytes_per_sequence"])))
    if d["mtp_parameters"]:
        size = d["mtp_weight_bytes"]
        stored = "" if size is None else f", {format_memory(size)} as stored"
        own = f"{format_count(d['mtp_parameters'])} parameters{stored}: not counted above"
        found.append(("multi-token prediction", own))
    return found


def _stored(q: Quantization) -> str:
    """How the weights are stored, in words."""
    if q.weight_dtype == "unknown":
        return f"{q.method}: not known"
    unit = f", blocks of {q.block[0]}x{q.block[1]}" if q.block else ""
    unit = unit or (f", groups of {q.group}" if q.group else "")
    return f"{q.method}, weights {q.weight_dtype}{unit}"
