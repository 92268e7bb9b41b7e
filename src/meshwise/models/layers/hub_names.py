"""What hubs call the products of a layer, and which of its matrices each of them holds.

One table for the names of tensors in checkpoints and for the patterns of quantisation that mean them. A name
that two parts of a layer use stands in both.
"""

from __future__ import annotations

MIXER_OUTPUTS = ("o_proj", "out_proj", "dense", "c_proj", "wo")
ATTENTION_NAMES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("q_proj", "wq", "query"), ("query",)),
    **dict.fromkeys(("k_proj", "wk", "key"), ("key",)),
    **dict.fromkeys(("v_proj", "wv", "value"), ("value",)),
    **dict.fromkeys(MIXER_OUTPUTS, ("output",)),
    **dict.fromkeys(
        ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "wqkv", "W_pack", "qkv"),
        ("query", "key", "value"),
    ),
    "kv_proj": ("key", "value"),
    **dict.fromkeys(("q_a_proj", "wq_a"), ("query_down",)),
    **dict.fromkeys(("q_b_proj", "wq_b"), ("query_up",)),
    **dict.fromkeys(("kv_a_proj_with_mqa", "wkv_a"), ("kv_down",)),
    **dict.fromkeys(("kv_b_proj", "wkv_b"), ("kv_up",)),
    "fused_qkv_a_proj_with_mqa": ("query_down", "kv_down"),
    "wkv": ("key",),
    "wo_a": ("output_down",),
    "wo_b": ("output",),
}
FEED_FORWARD_NAMES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("gate_proj", "w1", "c_fc_0", "linear"), ("gate",)),
    **dict.fromkeys(
        ("up_proj", "w3", "v1", "fc1", "c_fc", "c_fc_1", "fc_in", "linear_v"),
        ("up",),
    ),
    # the last one holds a gate where the model has one (ChatGLM)
    **dict.fromkeys(("gate_up_proj", "input_linear", "dense_h_to_4h"), ("gate", "up")),
    **dict.fromkeys(
        (
            "down_proj",
            "w2",
            "fc2",
            "c_proj",
            "dense_4h_to_h",
            "fc_out",
            "output_linear",
            "linear_1",
        ),
        ("down",),
    ),
}
# Of recurrent mixers, and of what newer attention has beside queries, keys and values.
RECURRENT_NAMES: dict[str, tuple[str, ...]] = {
    **ATTENTION_NAMES,
    "in_proj_qkvz": ("query", "key", "value", "gate"),
    "in_proj_qkv": ("query", "key", "value"),
    "in_proj_z": ("gate",),
    "in_proj_ba": ("beta", "decay"),
    "in_proj_b": ("beta",),
    "in_proj_a": ("decay",),
    "in_proj": ("query", "key", "value", "gate", "step", "before", "after"),
    "b_proj": ("beta",),
    "f_a_proj": ("decay_down",),
    "f_b_proj": ("decay_up",),
    "f_proj": ("decay",),
    "a_proj": ("decay",),
    "g_a_proj": ("gate_down",),
    "g_b_proj": ("gate_up",),
    **dict.fromkeys(("g_proj", "output_gate"), ("gate",)),
    "x_proj": ("selection",),
    "dt_proj": ("step",),
}
GATE_NAMES: dict[str, tuple[str, ...]] = {
    "g_proj": ("head_gate", "value_gate"),
    "gate_proj": ("head_gate", "value_gate"),
    "indexer.wq_b": ("indexer_query",),
    "indexer.wk": ("indexer_key",),
    # MiniMax-M3's, beside the projections of the heads
    "index_q_proj": ("indexer_query",),
    "index_k_proj": ("indexer_key",),
    "indexer.weights_proj": ("indexer_weight",),
}


def names_of(matrix: str, *tables: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Every name whose product holds a matrix."""
    return tuple(n for table in tables for n, held in table.items() if matrix in held)
