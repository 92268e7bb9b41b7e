"""The sizes that every part of the program reads: tokens, widths and bytes per value."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from meshwise.program.ops import Operands
from meshwise.spec import dtypes
from meshwise.spec.layout import Layouts
from meshwise.spec.legality import vocabulary_rows
from meshwise.spec.model import Model
from meshwise.spec.stack import Stack
from meshwise.spec.workload import Decode, Prefill, Training, Workload

Array = Any


class Widths(NamedTuple):
    """Bytes per value, and the formats they come from."""

    dtype: str  # operands of the products
    weight_dtype: str  # of the linear layers' weights
    operand: float  # activations as a product reads them
    weight: float  # weights of linear layers, scales included
    plain_weight: float  # embedding, head, norms: never quantised
    activation: float  # what flows between operations
    kv: float  # cached keys and values
    comm: float  # what TP collectives send
    gradient: float


def widths(model: Model, workload: Workload) -> Widths:
    """Formats of a run: what the workload says, else what the checkpoint says.

    A quantised checkpoint keeps its narrow weights in inference; FP8 and INT8 checkpoints also
    multiply in that format. Training works on unquantised weights.
    """
    f = workload.formats
    base = model.dtype if model.dtype in ("fp16", "bf16") else "bf16"
    quantised = model.quantization.weight_dtype if model.quantization else None
    training = isinstance(workload, Training)
    known = quantised if quantised in dtypes.BYTES and not training else None
    dtype = f.dtype or (known if known in ("fp8", "int8", "nvfp4") else base)
    dtype = dtypes.canonical(dtype, "dtype", dtypes.COMPUTE)
    activation = dtypes.activation_dtype(dtype)
    if f.weights is not None:
        weight = dtypes.canonical(f.weights, "weight_dtype", dtypes.WEIGHT)
    elif known is not None and f.dtype is None:
        weight = known
    else:
        # FP8 training (transformer engine) keeps 16-bit weights and casts them for the product.
        weight = activation if training or dtype == "tf32" else dtype
    group = model.quantization.group if model.quantization and weight == known else None
    checkpoint_kv = model.quantization.kv_cache_dtype if model.quantization else None
    kv = f.kv_cache or (checkpoint_kv if not training else None) or activation
    return Widths(
        dtype=dtype,
        weight_dtype=weight,
        operand=dtypes.BYTES[dtype],
        weight=dtypes.stored_bytes(weight, group),
        plain_weight=dtypes.BYTES[activation],
        activation=dtypes.BYTES[activation],
        kv=dtypes.BYTES[dtypes.canonical(kv, "kv_dtype", dtypes.KV_CACHE)],
        comm=dtypes.BYTES[dtypes.canonical(f.comm or activation, "comm_dtype", dtypes.COMM)],
        gradient=dtypes.BYTES[
            dtypes.canonical(f.gradients or activation, "grad_dtype", dtypes.GRADIENT)
        ],
    )


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
    expert_imbalance: float = 1.0  # tokens of the fullest expert rank over the mean

    @property
    def training(self) -> bool:
        return self.phase == "train"

    @property
    def token_split(self) -> Array:
        """What sequence parallelism divides the tokens by, outside the TP regions."""
        return np.where(self.layout.sequence_parallel, self.layout.tp, 1)

    def operands(self, *, quantised: bool = True) -> Operands:
        """Formats of a linear layer's product; a layer that the checkpoint leaves unquantised works
        on 16-bit (or fp32) values whatever the others do."""
        w = self.widths
        if quantised:
            # scales per block of weights and group of activations need kernels of their own
            q = self.model.quantization
            block = w.dtype == "fp8" and q is not None and q.block is not None
            name = "fp8_block" if block and not self.training else w.dtype
            return Operands(name, w.operand, w.weight, w.activation)
        dtype = w.dtype if w.dtype in ("fp32", "tf32", "fp16", "bf16") else "bf16"
        return Operands(dtype, w.activation, w.plain_weight, w.activation)

    @property
    def attention_quantised(self) -> bool:
        q = self.model.quantization
        return q is None or (q.attention and not q.experts_only)

    @property
    def dense_quantised(self) -> bool:
        """Whether FFNs outside the routed experts follow the narrow format."""
        return self.model.quantization is None or not self.model.quantization.experts_only

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
    """The context of a workload under layouts; for inference one microbatch holds the batch.

    ``batch`` is an array in place of the workload's batch, for sweeps over it.
    """
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
        widths=widths(model, workload),
        phase=workload.phase,
        sequences=sequences,
        queries=queries,
        keys=keys,
        tokens=sequences * queries / split,
        microbatches=microbatches,
        recompute=recompute,
        expert_imbalance=workload.expert_imbalance,
    )
