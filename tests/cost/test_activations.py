"""What backward keeps, held against autograd itself: a layer written out in torch, its saved tensors
counted storage by storage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from meshwise.cost.memory.activations import layer_activation_bytes, mlp_activation_bytes
from meshwise.layouts.layout import Layouts
from meshwise.models.layers.attention import Attention
from meshwise.models.shapes import Block, Mlp, Model
from meshwise.program.context import Context, context
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Formats, Training

torch = pytest.importorskip("torch", reason="the oracle needs torch")
F = torch.nn.functional

B, S, H, HEADS, KV, WIDTH = 2, 16, 128, 4, 2, 160
D = H // HEADS
MODEL = Model(
    name="small", model_type="llama", hidden=H, vocab=128,
    blocks=(
        Block(
            attention=Attention(heads=HEADS, kv_heads=KV, head_dim=D, value_head_dim=D),
            mlp=Mlp(width=WIDTH, gated=True),
            norm_parameters=2 * H,
        ),
    ),
    pattern=(0, 0), tied=False, final_norm_parameters=H,
)  # fmt: skip
EAGER = Stack(name="eager", fused_elementwise=False, fused_norm=False)
BF16 = torch.bfloat16


def ctx(stack: Stack, **axes: Any) -> Context:
    layout = Layouts(**{k: np.asarray(v) for k, v in ({"tp": 1, "micro_batch": B} | axes).items()})
    return context(MODEL, stack, Training(batch=B, seq=S), layout)


def saved_bytes(run: Callable[[Any], Any], weights: list[Any]) -> int:
    """Bytes of the storages that autograd saves, without weights and without a value per row (norms'
    scales) or per head and row (the attention's log-sum-exp)."""
    kept: dict[int, tuple[int, Any]] = {}
    known = {w.untyped_storage().data_ptr() for w in weights}

    def pack(t: Any) -> Any:
        storage = t.untyped_storage()
        if storage.data_ptr() not in known and storage.nbytes() > 4 * B * S * HEADS:
            kept[storage.data_ptr()] = (storage.nbytes(), t)
        return t

    x = torch.randn(B, S, H, dtype=BF16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        # what comes before the layer in a model: its input is no leaf
        out = run(x + 0)
    assert out.requires_grad
    return sum(n for n, _ in kept.values())


def weight(rows: int, columns: int) -> Any:
    return torch.nn.Parameter(torch.randn(rows, columns, dtype=BF16))


def written_out_norm(scale: Any) -> Callable[[Any], Any]:
    def norm(x: Any) -> Any:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)
        return wide.type_as(x) * scale

    return norm


def rotate(x: Any, angles: Any) -> Any:
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * angles).flatten(3).type_as(x)


def test_a_gated_activation_in_two_operations_keeps_four_tensors() -> None:
    gate_up, down = weight(2 * WIDTH, H), weight(H, WIDTH)

    def mlp(x: Any) -> Any:
        gate, up = F.linear(x, gate_up).chunk(2, -1)
        return F.linear(F.silu(gate) * up, down)

    inputs = 2 * B * S * H
    one = MODEL.blocks[0].mlp
    assert one is not None
    kept = saved_bytes(mlp, [gate_up, down]) - inputs
    assert kept == B * S * float(mlp_activation_bytes(ctx(EAGER), one, np.int64(1)))
    fused = float(mlp_activation_bytes(ctx(Stack(name="fused")), one, np.int64(1)))
    assert fused == 2 * 3 * WIDTH


def test_an_eager_layer_keeps_what_is_counted() -> None:
    """RMSNorm and rotary embedding in fp32, flash attention, SwiGLU in two operations."""
    wq, wk, wv, wo = weight(H, H), weight(KV * D, H), weight(KV * D, H), weight(H, H)
    gate, up, down = weight(WIDTH, H), weight(WIDTH, H), weight(H, WIDTH)
    norms = [torch.nn.Parameter(torch.ones(H, dtype=BF16)) for _ in range(2)]
    angles = torch.polar(torch.ones(S, 1, D // 2), torch.randn(S, 1, D // 2))

    def layer(x: Any) -> Any:
        y = written_out_norm(norms[0])(x)
        q = rotate(F.linear(y, wq).view(B, S, HEADS, D), angles).transpose(1, 2)
        k = rotate(F.linear(y, wk).view(B, S, KV, D), angles).transpose(1, 2)
        v = F.linear(y, wv).view(B, S, KV, D).transpose(1, 2)
        core = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + F.linear(core.transpose(1, 2).reshape(B, S, H), wo)
        y = written_out_norm(norms[1])(x)
        return x + F.linear(F.silu(F.linear(y, gate)) * F.linear(y, up), down)

    weights = [wq, wk, wv, wo, gate, up, down, *norms, angles]
    assert saved_bytes(layer, weights) == float(layer_activation_bytes(ctx(EAGER), MODEL.blocks[0]))


def test_operation_wise_checkpointing_keeps_every_second_product() -> None:
    """Input, query, value, attention, gate and down outputs (of q, k, v, o, gate, up, down)."""
    stack = Stack(name="titan", selective_recompute="products")
    found = float(layer_activation_bytes(ctx(stack, recompute=1), MODEL.blocks[0]))
    assert found == 2 * B * S * (H + H + KV * D + H + WIDTH + H)
    # over four ranks with sequence parallelism: reductions are kept too
    found = float(
        layer_activation_bytes(
            ctx(stack, recompute=1, tp=2, sequence_parallel=True), MODEL.blocks[0]
        )
    )
    inside = H + KV * D + WIDTH + H  # query, value, gate, attention
    assert found == 2 * B * S * (inside / 2 + H + H / 2 + 2 * H / 2)


def test_checkpointing_of_passes_keeps_what_products_make() -> None:
    """The layer's input, query, key and value, attention, its projection, gate and up; TP divides all of
    them where it divides the hidden dimension between layers, as sequence parallelism does the tokens."""
    stack = Stack(name="jax", selective_recompute="passes")
    found = float(layer_activation_bytes(ctx(stack, recompute=1), MODEL.blocks[0]))
    whole = 2 * B * S * (H + (H + 2 * KV * D) + H + H + 2 * WIDTH)
    assert found == whole
    divided = Stack(name="xla", selective_recompute="passes", divides_residual=True)
    for axes in ({"sequence_parallel": True}, {}):
        part = layer_activation_bytes(ctx(divided, recompute=1, tp=2, **axes), MODEL.blocks[0])
        assert float(part) == whole / 2
    assert layer_activation_bytes(ctx(stack, recompute=1, tp=2), MODEL.blocks[0]) > whole / 2


def test_kept_gathered_inputs_are_whole() -> None:
    """Two inputs of column-parallel products per layer: kept whole, or a share of them."""
    axes: dict[str, Any] = {"tp": 4, "sequence_parallel": True}
    plain = ctx(Stack(name="plain"), **axes)
    keeps = ctx(Stack(name="keeps", keeps_gathered_inputs=True), **axes)
    more = layer_activation_bytes(keeps, MODEL.blocks[0]) - layer_activation_bytes(
        plain, MODEL.blocks[0]
    )
    assert float(more) == 2 * 2 * B * S * H * (1 - 1 / 4)
    one = {"tp": 1}
    assert layer_activation_bytes(
        ctx(keeps.stack, **one), MODEL.blocks[0]
    ) == layer_activation_bytes(ctx(plain.stack, **one), MODEL.blocks[0])


def test_narrow_products_keep_narrow_inputs() -> None:
    """Three of a layer's four inputs of products shrink to a byte; attention keeps its 16-bit output for
    itself, so that the projection's copy is one more. Products of 16 bits keep what they kept."""
    block, narrow = MODEL.blocks[0], Stack(name="narrow", keeps_narrow_inputs=True)
    layout = Layouts(tp=np.int64(1), micro_batch=np.int64(B))

    def kept(stack: Stack, dtype: str, **axes: Any) -> float:
        work = Training(batch=B, seq=S, formats=Formats(dtype=dtype))
        own = layout._replace(**{k: np.asarray(v) for k, v in axes.items()})
        return float(layer_activation_bytes(context(MODEL, stack, work, own), block))

    plain = Stack(name="plain")
    assert kept(plain, "fp8") == kept(plain, "bf16") == kept(narrow, "bf16")
    assert kept(plain, "fp8") - kept(narrow, "fp8") == B * S * (2 * H + WIDTH - H)
    assert kept(narrow, "nvfp4") < kept(narrow, "mxfp8") <= kept(plain, "fp8")
    assert kept(plain, "fp8", recompute=2) == kept(narrow, "fp8", recompute=2)


def test_packed_projection_and_copied_heads() -> None:
    block = MODEL.blocks[0]
    assert block.attention is not None
    plain = float(layer_activation_bytes(ctx(Stack(name="plain")), block))
    copied = float(layer_activation_bytes(ctx(Stack(name="x", expands_kv_heads=True)), block))
    assert copied - plain == 2 * B * S * 2 * (HEADS - KV) * D
    # the packed projection matters without grouped queries only
    packed = Stack(name="x", packed_qkv=True)
    assert float(layer_activation_bytes(ctx(packed), block)) == plain
    full = msgspec.structs.replace(
        block, attention=msgspec.structs.replace(block.attention, kv_heads=HEADS)
    )
    more = layer_activation_bytes(ctx(packed), full) - layer_activation_bytes(
        ctx(Stack(name="x")), full
    )
    assert float(more) == 2 * B * S * 2 * H


@pytest.mark.parametrize("stack", [EAGER, Stack(name="x", attention="unfused")])
@pytest.mark.parametrize("sp", [False, True])
def test_stronger_recomputation_keeps_less(stack: Stack, sp: bool) -> None:
    for tp in (1, 2, 4):
        kept = [
            float(
                layer_activation_bytes(
                    ctx(stack, tp=tp, sequence_parallel=sp, recompute=mode), MODEL.blocks[0]
                )
            )
            for mode in (0, 1, 2)
        ]
        assert kept[0] >= kept[1] >= kept[2] > 0
