"""The tensors of a checkpoint by layer and part of the model, counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from meshwise.models.checkpoint.expected import (
    Expected,
    ExpectedMatrix,
    expected_ends,
    expected_layer,
)
from meshwise.models.checkpoint.headers import StoredEntry
from meshwise.models.checkpoint.modules import (
    APART_GROUPS,
    ModuleName,
    ModuleNames,
    as_recurrent,
    modules_of,
)
from meshwise.models.checkpoint.packing import FLOATS, Hint, Packed, unpacked
from meshwise.models.layers.hub_names import MIXER_OUTPUTS
from meshwise.models.shapes import LayerFormats, Model, Stored

_FEED_FORWARD = {"feed_forward": "", "shared_experts": "shared_", "experts": "expert_"}


def role_of(group: str, slot: str) -> str:
    """The field of :class:`LayerFormats` that says how a matrix is stored; "" for what has none."""
    if group == "attention":
        return "output" if slot in ("output", "output_down") else "attention"
    if group == "recurrent":
        return "recurrent_output" if slot == "output" else "recurrent"
    if group in _FEED_FORWARD:
        return _FEED_FORWARD[group] + ("down" if slot == "down" else "up")
    return ""


class CountedModule(NamedTuple):
    """Modules of one layer that differ by the number of an expert only."""

    name: ModuleName
    number: int  # of modules
    weights: int  # of all of them, biases left out
    biases: int
    bytes: int  # the bias left out
    bias_bytes: int
    stored: Stored | None  # None: not quantised
    dtype: str  # of an unquantised one
    shape: tuple[int, ...]
    input_scales: bool

    @property
    def role(self) -> str:
        """Which format of a layer is this module's, "" for what is no matrix."""
        group, slots = self.name.group, self.name.slots
        if group == "recurrent" and (slots or self.stored is not None):
            last = self.name.label.rpartition(".")[2]
            return role_of(group, "output" if last in MIXER_OUTPUTS else "")
        return role_of(group, slots[0]) if slots else ""


LayerModules = dict[tuple[str, str], CountedModule]  # by group and label


class Tally:
    """A checkpoint's modules: of each layer, of the ends, and what is apart from the language model."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.kinds = [expected_layer(block, model.hidden) for block in model.blocks]
        self.ends_expected = expected_ends(model)
        self.layers: dict[int, LayerModules] = {}
        self.ends: LayerModules = {}
        self.apart: dict[str, list[int]] = {
            what: [0, 0, 0] for what in APART_GROUPS
        }  # tensors, weights, bytes
        self.mtp_layers: set[int] = set()
        self._unpacked: dict[object, Packed] = {}
        self.corrections: list[tuple[ModuleName, Mapping[str, StoredEntry]]] = []

    def expected(self, layer: int) -> Expected:
        return self.kinds[self.model.pattern[layer]]

    def hint(self, name: ModuleName) -> Hint:
        """The matrices that a module should hold, and how the config says that they are stored."""
        group, slots = name.group, name.slots
        if name.layer is None or name.layer >= self.model.layers:
            table = self.ends_expected.matrices.get((group, "table"))
            return Hint(table.inputs, table.weights) if table is not None else Hint()
        found = self.matrices(name)
        if not found:
            return Hint()
        formats: LayerFormats = self.model.blocks[self.model.pattern[name.layer]].stored
        stored = getattr(formats, role_of(group, slots[0]))
        return Hint(found[0].inputs, sum(m.weights * m.copies for m in found), stored)

    def matrices(self, name: ModuleName) -> list[ExpectedMatrix]:
        """The matrices that a layer's module should hold, each with how many of it are in this one
        module: of those that its name says, what the derived layer has."""
        assert name.layer is not None
        known = self.expected(name.layer).matrices
        found = [known[name.group, slot] for slot in name.slots if (name.group, slot) in known]
        return [m._replace(copies=1) for m in found] if "*" in name.label else found

    # -- filling ---------------------------------------------------------------------------------

    def add_apart(self, what: str, module: Mapping[str, StoredEntry], weights: int) -> None:
        row = self.apart[what]
        row[0] += len(module)
        row[1] += weights
        row[2] += sum(entry.bytes for entry in module.values())

    def placed(self, name: ModuleName) -> ModuleName:
        """The name as the derived layer's parts have it."""
        if name.layer is None or name.layer >= self.model.layers:
            return name
        block = self.model.blocks[self.model.pattern[name.layer]]
        mixes = block.attention is None and block.recurrent is not None
        return as_recurrent(name) if mixes else name

    def add(self, name: ModuleName, module: Mapping[str, StoredEntry]) -> None:
        name = self.placed(name)
        if all(entry.dtype in ("I64", "BOOL") for entry in module.values()):
            name = name._replace(group="buffers")
        elif name.layer is not None and name.layer < self.model.layers:
            # a router's correction: some families count it as a weight, others keep it as a buffer
            if name.group == "buffers" and "bias" in name.label:
                self.corrections.append((name, module))
                return
            if name.group == "router" and "bias" in module and len(module) > 1:
                one = name._replace(label=f"{name.label}.bias", slots=())
                self.corrections.append((one, {"weight": module["bias"]}))
                module = {kind: entry for kind, entry in module.items() if kind != "bias"}
        self._add(name, module)

    def settle(self) -> None:
        """Corrections of routers: weights where the derived router has weights left, else buffers."""
        for name, module in sorted(self.corrections, key=lambda c: "correction" in c[0].label):
            assert name.layer is not None
            rows = self.layers.get(name.layer, {}).values()
            there = sum(r.weights + r.biases for r in rows if r.name.group == "router")
            left = self.expected(name.layer).weights.get("router", 0) - there
            number = sum(entry.elements for entry in module.values())
            self._add(name._replace(group="router" if number <= left else "buffers"), module)

    def _add(self, name: ModuleName, module: Mapping[str, StoredEntry]) -> None:
        hint = self.hint(name)
        # experts are alike: what their shapes say is read once
        alike = (hint, tuple((kind, e.dtype, e.shape) for kind, e in module.items()))
        packed = self._unpacked.get(alike)
        if packed is None:
            packed = self._unpacked[alike] = unpacked(dict(module), hint)
        bias = module.get("bias")
        biases = bias.elements if bias is not None and len(module) > 1 else 0
        bias_bytes = bias.bytes if bias is not None and len(module) > 1 else 0
        if bias is not None and len(module) == 1:
            packed = packed._replace(weights=bias.elements)
        weights = packed.weights or 0
        if self._goes_apart(name, module, weights + biases, hint):
            return
        main = module.get("weight") or next(iter(module.values()))
        row = CountedModule(
            name, 1, weights, biases,
            sum(entry.bytes for entry in module.values()) - bias_bytes, bias_bytes, packed.stored,
            FLOATS.get(main.dtype, main.dtype), main.shape,
            any(kind.startswith(("input_", "activation_")) for kind in module),
        )  # fmt: skip
        layer = self.ends if name.layer is None else self.layers.setdefault(name.layer, {})
        key = (name.group, name.label)
        before = layer.get(key)
        if before is not None:
            row = before._replace(
                number=before.number + 1,
                weights=before.weights + weights,
                biases=before.biases + biases,
                bytes=before.bytes + row.bytes,
                bias_bytes=before.bias_bytes + bias_bytes,
                input_scales=before.input_scales or row.input_scales,
            )
        layer[key] = row

    def _goes_apart(
        self, name: ModuleName, module: Mapping[str, StoredEntry], weights: int, hint: Hint
    ) -> bool:
        m, what = self.model, name.group
        if what not in APART_GROUPS:
            main = module.get("weight")
            if name.layer is not None and name.layer >= m.layers and name.layer in self.mtp_layers:
                what = "mtp"
            elif name.group == "head" and m.tied and len(main.shape if main else ()) == 2 and (
                weights == m.vocab * (m.embedding_dim or m.hidden)
            ):  # fmt: skip
                what = "tied_copies"
            elif (
                name.group == "attention"
                and len(module["bias"].shape if "bias" in module else ()) > 2
            ):
                what = "buffers"  # GPT-2's mask of causality is called attn.bias
            else:
                return False
        self.add_apart(what, module, weights)
        return True


def tally(model: Model, tensors: Mapping[str, StoredEntry]) -> Tally:
    """The tensors counted, module by module."""
    names, found = ModuleNames(), Tally(model)
    modules = modules_of(tensors)
    read = {path: names(path) for path in modules}
    found.mtp_layers = {n.layer for n in read.values() if n.is_mtp and n.layer is not None}
    for path, module in modules.items():
        found.add(read[path], module)
    found.settle()
    return found


def retold(stored: Stored, stated: Stored | None, input_scales: bool, only: bool | None) -> Stored:
    """A format that the files have, with what only the config can say of it."""
    if stated is not None and stated.dtype == stored.dtype:
        changes = {"group": stored.group or stated.group, "block": stored.block or stated.block}
        return msgspec.structs.replace(stated, **changes)
    if only is None:
        only = stored.dtype not in ("fp8", "mxfp8", "int8") and not (
            stored.dtype == "nvfp4" and input_scales
        )
    return msgspec.structs.replace(stored, weight_only=only)
