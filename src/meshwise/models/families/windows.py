"""Which layers see a window of keys, and how many: the rules of families by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshwise.models.families import keys as fr
from meshwise.models.families.keys import Reader, wrong

Windows = list[int | None]
WIDEST_WINDOW = fr.MOST_POSITIONS


def window_size(r: Reader, key: str = "sliding_window") -> int | None:
    """A window; null, 0 and -1 mean none."""
    size = r.optional(key, -1, WIDEST_WINDOW)
    return size if size is not None and size > 0 else None


def _by_type(r: Reader, types: list[Any]) -> Windows:
    sliding = window_size(r)
    chunk = window_size(r, "attention_chunk_size")
    sizes = {"sliding_attention": sliding, "local": sliding, "chunked_attention": chunk}
    return [sizes.get(t) if isinstance(t, str) else None for t in types]


def _where(r: Reader, layers: int, slides: Callable[[int], bool]) -> Windows:
    size = window_size(r)
    return [size if slides(i) else None for i in range(layers)]


def _pattern(r: Reader, layers: int) -> Windows:
    """Every p-th layer sees everything (Gemma 3, Cohere 2); or letters, L local, G global."""
    value = r.value("sliding_window_pattern")
    if isinstance(value, str) and value and set(value) <= {"L", "G"}:
        return _where(r, layers, lambda i: value[i % len(value)] == "L")
    period = r.optional("sliding_window_pattern", 0, fr.MOST_LAYERS)
    if not period:
        return [None] * layers
    return _where(r, layers, lambda i: (i + 1) % period != 0)


def _after(r: Reader, layers: int) -> Windows:
    """Layers from max_window_layers on slide (Qwen2)."""
    first = r.integer("max_window_layers", 0, 10**9)
    return _where(r, layers, lambda i: i >= first)


def _rope_layers(r: Reader, layers: int) -> list[bool]:
    """For each layer whether it has rotary positions (Llama 4, SmolLM3)."""
    stated = r.sequence("no_rope_layers")
    if stated:
        r.sequence("no_rope_layers", layers)
        if any(item not in (0, 1) for item in stated):
            raise wrong("no_rope_layers", stated, "a list of 0 and 1 per layer belongs here")
        return [bool(item) for item in stated]
    interval = r.integer("no_rope_layer_interval", 1, fr.MOST_LAYERS)
    return [(i + 1) % interval != 0 for i in range(layers)]


def _gpt_neo(r: Reader, layers: int) -> Windows:
    kinds: list[Any] = []
    for item in r.sequence("attention_types") or []:
        names, count = item if isinstance(item, list) and len(item) == 2 else (None, None)
        if not isinstance(names, list) or type(count) is not int or not 0 < count <= layers:
            raise wrong("attention_types", item, "pairs of a list of kinds and a count belong here")
        kinds += names * count
    if len(kinds) != layers:
        raise wrong(
            "attention_types",
            len(kinds),
            f"describes {len(kinds)} layers of {layers}",
            legal=f"{layers} layers in all",
        )
    size = window_size(r, "window_size")
    return [size if kind == "local" else None for kind in kinds]


def layer_windows(r: Reader, layers: int) -> Windows:
    """For each layer the keys that a query sees at most, None for all."""
    rule = r.family.window
    none: Windows = [None] * layers
    if not rule:
        return none
    if rule == "gpt_neo":
        return _gpt_neo(r, layers)
    if rule == "all":
        return [window_size(r)] * layers
    if rule.startswith("use") and not r.flag("use_sliding_window"):
        return none
    if rule == "use_all":
        return [window_size(r)] * layers
    types = r.sequence("layer_types", layers)
    if types is not None:
        return _by_type(r, types)
    if rule == "use_no_rope":
        ropes = _rope_layers(r, layers)
        return _where(r, layers, lambda i: not ropes[i])
    if rule == "chunk":
        chunk = window_size(r, "attention_chunk_size")
        return [chunk if rope else None for rope in _rope_layers(r, layers)]
    if rule == "use_odd":
        limit = r.integer("max_window_layers", 0, 10**9)
        return _where(r, layers, lambda i: i % 2 == 0 and i < limit)
    if rule in ("use_after", "after"):
        return _after(r, layers)
    if rule == "pattern":
        return _pattern(r, layers)
    if rule == "flint":  # whole contexts in the first two layers, every fourth and the last
        return _where(r, layers, lambda i: not (i < 2 or i % 4 == 1 or i == layers - 1))
    slides: dict[str, Callable[[int], bool]] = {
        "alternate": lambda i: i % 2 == 0,
        "three_of_four": lambda i: (i + 1) % 4 != 0,
        "but_first_of_four": lambda i: i % 4 != 0,
        "every": lambda i: True,
    }
    return _where(r, layers, slides[rule])
