"""Bytes of quantised checkpoints against their published sizes (tests/data/quantised_checkpoints.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshwise.layouts.layout import Layouts
from meshwise.models.families.config import model_from_config
from meshwise.models.names import config_of, named_model
from meshwise.models.shapes import Model
from meshwise.program.context import widths
from meshwise.program.stored import multi_token_bytes, tower_bytes, weight_bytes
from meshwise.workloads.workload import Prefill

TABLE = Path(__file__).parents[2] / "data" / "quantised_checkpoints.json"
ROWS: list[dict[str, Any]] = json.loads(TABLE.read_text(encoding="utf-8"))["rows"]


def checkpoint(row: dict[str, Any]) -> Model:
    named = named_model(row["preset"])
    assert named is not None
    config = {**config_of(named), **row.get("shapes", {})}
    if "quantization" in row:
        config["quantization_config"] = row["quantization"]
    return model_from_config(config, name=row["name"])


def prediction_bytes(model: Model, mtp: str) -> float:
    """Layers of multi-token prediction; DeepSeek-V3's layer 61 with its copies of embedding and head in 16
    bit."""
    tables = 2 * 2.0 * model.vocab * model.hidden if mtp == "with tables" else 0.0
    return float(multi_token_bytes(model) or 0.0) + tables


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r["name"])
def test_within_one_per_cent(row: dict[str, Any]) -> None:
    model = checkpoint(row)
    found = next(iter(weight_bytes(model).values()))
    if row.get("mtp"):
        found += prediction_bytes(model, row["mtp"])
    assert found == pytest.approx(row["bytes"], rel=0.01)


@pytest.mark.parametrize("row", [r for r in ROWS if r["of"] == "tensors"], ids=lambda r: r["name"])
def test_sizes_of_tensors_alone_are_met(row: dict[str, Any]) -> None:
    found = next(iter(weight_bytes(checkpoint(row)).values()))
    assert found == pytest.approx(row["bytes"], rel=2e-6)


def test_files_hold_no_less_than_their_weights() -> None:
    """What a file has beside them (a header, a vocabulary) adds to its size; an importance matrix
    changes the mixture of two IQ types."""
    for row in ROWS:
        mixed = "IQ" in row["name"] or row.get("mtp") or "FP8" in row["name"]
        if row["of"] not in ("tensors", "rounded") and not mixed:
            assert next(iter(weight_bytes(checkpoint(row)).values())) <= row["bytes"], row["name"]


def test_the_table_says_where_each_size_is_from() -> None:
    assert len(ROWS) >= 30 and all(row["source"] and row["bytes"] > 0 for row in ROWS)
    methods = {row.get("quantization", {}).get("quant_method", "mlx/preset") for row in ROWS}
    assert methods >= {
        "gptq",
        "awq",
        "bitsandbytes",
        "fp8",
        "modelopt",
        "compressed-tensors",
        "gguf",
    }


def test_a_hybrid_in_four_bits_with_its_encoder() -> None:
    """Qwen3.6-27B in W4A16 (github.com/fantasylord/Qwen36: config.json, and the size in model.safetensors' Git
    LFS pointer); the shapes are Qwen3.5-27B's."""
    config = json.loads((TABLE.parent / "configs" / "Qwen3.5-27B.json").read_text(encoding="utf-8"))
    linear = [
        i for i, k in enumerate(config["text_config"]["layer_types"]) if k == "linear_attention"
    ]
    blocks = ("attn.qkv", "attn.proj", "mlp.linear_fc1", "mlp.linear_fc2")
    left = [
        "lm_head",
        *(f"model.visual.blocks.{i}.{name}" for i in range(27) for name in blocks),
        *(f"model.visual.merger.linear_fc{i}" for i in (1, 2)),
        *(
            f"model.language_model.layers.{i}.linear_attn{name}"
            for i in linear
            for name in ("", ".norm", ".in_proj_b", ".in_proj_a")
        ),
    ]
    weights = {
        "num_bits": 4,
        "type": "int",
        "strategy": "group",
        "group_size": 128,
        "symmetric": False,
    }
    quantization = {
        "quant_method": "compressed-tensors",
        "ignore": left,
        "config_groups": {
            "group_0": {"targets": ["Linear"], "input_activations": None, "weights": weights},
            "group_mtp": {
                "targets": ["re:.*mtp\\..*proj$"],
                "weights": {**weights, "group_size": 32},
            },
        },
    }
    model = model_from_config({**config, "quantization_config": quantization}, name="Qwen3.6-27B")
    one = Layouts(tp=np.int64(1))
    towers = tower_bytes(model, one, widths(model, Prefill(batch=1, seq=1)), False)
    found = next(iter(weight_bytes(model).values())) + float(towers)
    assert found == pytest.approx(18_698_467_264, rel=1e-4)
