"""The words of a configuration file that is no list of flags: which of its keys give a setting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from meshwise.launch.account.origins import Origin, key_lines
from meshwise.launch.table import Target

# keys of engines' files that no flag of theirs is called by
_KEYS = {
    "enable_attention_dp": "dp_attention",
    "moe_tensor_parallel_size": "etp",
    "kv_cache_config.dtype": "kv_dtype",
    "kv_cache_config.free_gpu_memory_fraction": "cache_share",
    "quant_config.quant_algo": "quantization",
    "quant_config.kv_cache_quant_algo": "kv_dtype",
    "speculative_config.max_draft_len": "draft_tokens",
    "speculative_config.num_nextn_predict_layers": "draft_tokens",
    "cuda_graph_config": "eager",
}


def file_words(
    table: Mapping[str, Any], chosen: Target, text: str = "", file: str = ""
) -> list[tuple[str, Origin]]:
    """(setting of the target, where it stands) of each key of a table that gives one, sections joined by
    dots; ``text``: what the table was read from, ``file`` its name."""
    known = chosen.by_spelling()
    found = []
    for path, value in _leaves(table):
        flag = known.get(path) or known.get(f"--{path}")
        setting = _KEYS.get(path, "") if flag is None else flag.name
        if setting and value != "auto":  # which is left to the script
            line = key_lines(text, [path])[0] if text else 0
            found.append((setting, Origin(f"{path}: {_shown(value)}", line, file)))
    return found


def _shown(value: Any) -> str:
    return (
        str(value).lower() if isinstance(value, bool) else "null" if value is None else f"{value}"
    )


def _leaves(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
