"""Rows as tables have them, and what comes of them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from meshwise.evidence.tables import parse_table
from meshwise.evidence.validate import row_results

TRAINING = {
    "id": "mine/1",
    "model": "gpt3-175b",
    "device": "a100-80gb-sxm",
    "devices": "64",
    "devices_per_node": "8",
    "intra_node": "nvlink3",
    "inter_node_gbytes_per_s": "25",
    "tp": "8",
    "pp": "8",
    "dp": "1",
    "micro_batch": "1",
    "global_batch": "64",
    "seq": "2048",
    "dtype": "fp16",
    "recompute": "full",
    "attention": "unfused",
    "stack": "megatron-2022",
    "step_s": "18.13",
    "colour": "blue",
}
SERVING = {
    "id": "mine/2",
    "model": "llama-3.1-8b",
    "device": "h100-80gb-sxm",
    "devices": "2",
    "tp": "2",
    "pp": "1",
    "dp": "1",
    "engine": "vllm",
    "isl": "1024",
    "osl": "128",
    "concurrency": "8",
    "tpot_ms": "6",
}
COLLECTIVE = {
    "id": "mine/3",
    "op": "all_reduce",
    "device": "h100-80gb-sxm",
    "intra_node": "nvlink4",
    "nodes": "1",
    "devices_per_node": "8",
    "ranks": "8",
    "bytes": "1048576",
    "library": "nccl-2.29.2",
    "time_us": "25",
}
LAYER = {
    "id": "mine/4",
    "model": "gpt3-175b",
    "device": "a100-80gb-sxm",
    "devices": "8",
    "tp": "8",
    "layers": "1",
    "micro_batch": "1",
    "seq": "2048",
    "dtype": "fp16",
    "attention": "unfused",
    "stack": "megatron-2022",
    "forward_ms": "9",
    "backward_ms": "",
}
EXAMPLES = {
    "training": TRAINING,
    "layers": LAYER,
    "serving": SERVING,
    "collectives": COLLECTIVE,
}


def text(*rows: dict[str, str]) -> str:
    """A table of the rows; those of one id get ids of their own."""
    ids = [row.get("id") for row in rows]
    if len(set(ids)) < len(ids):
        rows = tuple(row | {"id": f"{row['id']}-{i}"} for i, row in enumerate(rows))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def outcome(*rows: dict[str, str]):  # type: ignore[no-untyped-def]
    return row_results(parse_table(text(*rows), "mine.csv"), Path("/nonexistent"))


DATA_PARALLEL = TRAINING | {
    "model": "llama-2-7b",
    "devices": "16",
    "tp": "4",
    "pp": "1",
    "dp": "4",
    "dtype": "bf16",
    "attention": "flash",
    "sequence_parallel": "true",
    "stack": "megatron-core-2025",
    "overlap": "",
    "grad_overlap": "",
    "grad_dtype": "",
    "schedule": "",
}
