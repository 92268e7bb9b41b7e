"""The sizes that every part of the program reads: tokens, widths and bytes per value."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meshwise import dtypes
from meshwise.arrays import Array
from meshwise.errors import UnsupportedModel
from meshwise.layouts.layout import Layouts
from meshwise.layouts.tp_degrees import vocabulary_rows
from meshwise.models.formats import model_as_run, products
from meshwise.models.shapes import Model, Stored
from meshwise.program.operations import Operands
from meshwise.stacks.stack import Stack
from meshwise.stacks.training_state import EVERY_LAYER
from meshwise.workloads.workload import Decode, Prefill, Training, Workload, drawn_skew


class Widths(NamedTuple):
    """Bytes per value, and the formats they come from."""

    dtype: str  # operands of the products
    weight_dtype: str  # of most of the linear layers' weights
    operand: float  # activations as a product reads them
    weight: float  # those weights, scales included
    plain_weight: float  # embedding, head, norms
    activation: float  # what flows between operations
    kv: float  # cached keys and values
    comm: float  # what TP collectives send
    activation_dtype: str
    kv_dtype: str
    comm_dtype: str
    gradient: float
    gradient_dtype: str  # in which gradients are added up and reduced


def widths(model: Model, workload: Workload, stack: Stack | None = None) -> Widths:
    """Formats of a run: what the workload says, else what the checkpoint (gradients: the stack) says.

    FP8, INT8 and NVFP4 checkpoints also multiply in that format, but for weight-only ones. FP8
    training (transformer engine) keeps 16-bit weights and casts them for the product.
    """
    f, stated = workload.formats, products(model, workload)
    model = model_as_run(model, workload)
    q = model.quantization
    # the products' operands, and what flows between them
    base = model.dtype if model.dtype in ("fp16", "bf16") else "bf16"
    narrow = q.weight_dtype if q and not q.weight_only and q.weight_dtype in dtypes.NARROW else base
    dtype = dtypes.canonical_dtype(stated or narrow, "dtype", dtypes.COMPUTE)
    between = dtypes.canonical_dtype(f.dtype or dtype, "dtype", dtypes.COMPUTE)
    activation = dtypes.activation_dtype(between)
    # what collectives and gradients are sent in
    comm = dtypes.canonical_dtype(f.comm or activation, "comm", dtypes.COMM)
    own = stack.memory.gradient_dtype if stack is not None else None
    gradients = dtypes.canonical_dtype(
        f.gradients or own or activation, "gradients", dtypes.GRADIENT
    )
    # how the weights are stored: as stated, in the activations' format, or as the checkpoint says
    wide = dtypes.known(f.weights)
    weight = wide if wide is not None and dtypes.ELEMENT_BYTES[wide] >= 2 else activation
    width = dtypes.ELEMENT_BYTES[weight]
    if q is not None:
        weight, width = q.weight_dtype, q.weights.element_bytes
    # the cache
    cached = f.kv_cache or (q.kv_cache_dtype if q else None) or activation
    kv = dtypes.canonical_dtype(cached, "kv_cache", dtypes.KV_CACHE)
    return Widths(
        dtype=dtype,
        weight_dtype=weight,
        operand=dtypes.ELEMENT_BYTES[dtype],
        weight=width,
        plain_weight=dtypes.ELEMENT_BYTES[activation],
        activation=dtypes.ELEMENT_BYTES[activation],
        kv=dtypes.ELEMENT_BYTES[kv],
        comm=dtypes.ELEMENT_BYTES[comm],
        activation_dtype=activation,
        kv_dtype=kv,
        comm_dtype=comm,
        gradient=dtypes.ELEMENT_BYTES[gradients],
        gradient_dtype=gradients,
    )


def stored_width(model: Model, w: Widths, stored: Stored | None) -> float:
    """Bytes per weight of a linear layer, the scales of its format included."""
    if model.quantization is None:
        return w.weight
    if stored is None or stored.dtype == "unknown":
        return w.plain_weight
    return stored.element_bytes


def _multiplies_as(stored: Stored) -> str:
    """Operands of a product with weights in this format, "" where they are widened for it."""
    return "" if stored.weight_only or stored.dtype not in dtypes.NARROW else stored.dtype


class Context(NamedTuple):
    """Everything an operation's shape depends on. Arrays broadcast over the layouts' axes."""

    model: Model
    stack: Stack
    layout: Layouts
    widths: Widths
    phase: str  # train | prefill | decode
    sequences: Array  # per microbatch
    queries: int  # tokens per sequence that are computed
    keys: int  # tokens per sequence that are attended to
    tokens: Array  # rows of the products per microbatch and rank: sequences · queries / cp
    microbatches: Array
    recompute: Array
    # tokens of the fullest expert rank over the mean; None: as the experts' popularity makes it
    expert_imbalance: float | None = None
    expert_skew: float = 0.0  # of the experts' popularity, see program.experts
    dtype_stated: bool = False  # the workload names the operands of all products

    @property
    def training(self) -> bool:
        return self.phase == "train"

    @property
    def token_split(self) -> Array:
        """What sequence parallelism divides the tokens by, outside the TP regions, or a sharded hidden
        dimension the width of each."""
        if self.training and self.stack.state.divides_residual and not self.stack.ideal:
            return self.layout.tp
        return np.where(self.layout.sequence_parallel, self.layout.tp, 1)

    @property
    def recomputed_layers_share(self) -> Array:
        """Share of a stage's layers that full recomputation works on; a plain 1 where it is all, so that a
        search broadcasts over no axis more."""
        if self.stack.state.recompute_layers == EVERY_LAYER:
            return 1.0
        held = np.maximum(self.model.layers / self.layout.pp, 1.0)
        return np.minimum(self.stack.state.recompute_layers / held, 1.0)

    def operands(self, stored: Stored | None = None) -> Operands:
        """Formats of a linear layer's product; a layer that a quantised checkpoint leaves as it is
        works on 16-bit (or fp32) values whatever the others do."""
        w, stated = self.widths, self.dtype_stated
        width = stored_width(self.model, w, stored)
        if self.model.quantization is None:
            return Operands(w.dtype, w.operand, width, w.activation)
        if stored is None or stored.dtype == "unknown":
            return self.wide()._replace(weight=width)
        dtype = w.dtype if stated else _multiplies_as(stored)
        if dtype not in dtypes.NARROW:
            return self.wide()._replace(weight=width)
        # scales per block of weights and group of activations need kernels of their own
        name = "fp8_block" if dtype == "fp8" and stored.block is not None else dtype
        return Operands(name, dtypes.ELEMENT_BYTES[dtype], width, w.activation)

    def wide(self, stored: Stored | None = None) -> Operands:
        """Formats of a product that is never narrow: a router, the head."""
        w = self.widths
        dtype = w.dtype if w.dtype in ("fp32", "tf32", "fp16", "bf16") else w.activation_dtype
        width = w.plain_weight if stored is None else stored_width(self.model, w, stored)
        return Operands(dtype, w.activation, width, w.activation)

    @property
    def loss_chunks(self) -> Array:
        """Parts of a microbatch's tokens that the loss takes one by one: a token each at most."""
        return np.minimum(self.stack.kernels.loss_chunks, np.maximum(self.tokens, 1.0))

    @property
    def vocabulary(self) -> Array:
        """Rows of the vocabulary on a TP rank, padded as the stack pads it."""
        return vocabulary_rows(self.model, self.stack, self.layout.tp)

    def split(self, width: int) -> Array:
        """``width`` over the TP ranks, padded up."""
        return -(-width // self.layout.tp)


def context(
    model: Model, stack: Stack, workload: Workload, layout: Layouts, batch: Array | None = None
) -> Context:
    """The context of a workload under layouts, whose axes broadcast; for inference one microbatch holds the
    batch.

    ``batch`` is an array of sequences in place of the workload's batch, for sweeps over it.

    :raises UnsupportedModel: for training of a model whose layers share their weights (Zamba).
    """
    if isinstance(workload, Training) and any(block.shared for block in model.blocks):
        raise UnsupportedModel(
            f"model: {model.name} has layers that share their weights, whose training is not priced",
            field="model",
            value=model.name,
            legal="prefill, decode, serving",
        )
    model = model_as_run(model, workload)
    batch = np.int64(workload.batch) if batch is None else batch
    if isinstance(workload, Decode):
        sequences: Array = batch
        queries, keys = workload.queries, workload.context
        microbatches: Array = np.int64(1)
        recompute: Array = np.int64(0)
    else:
        queries = workload.seq
        keys = queries + (workload.cached if isinstance(workload, Prefill) else 0)
        training = isinstance(workload, Training)
        sequences = layout.micro_batch if training else batch
        microbatches = batch // (layout.micro_batch * layout.dp) if training else np.int64(1)
        recompute = layout.recompute if training else np.int64(0)
    split = layout.cp if queries > 1 and not isinstance(workload, Decode) else np.int64(1)
    return Context(
        model=model,
        stack=stack,
        layout=layout,
        widths=widths(model, workload, stack),
        phase=workload.phase,
        sequences=sequences,
        queries=queries,
        keys=keys,
        tokens=sequences * queries / split,
        microbatches=microbatches,
        recompute=recompute,
        expert_imbalance=workload.expert_imbalance,
        expert_skew=drawn_skew(workload.expert_skew),
        dtype_stated=products(model, workload) is not None,
    )
