"""What a model's name says, as people, hubs and commands write it: one rule for every command.

A name is a preset's, or one of the same architecture: an organisation before it, ``-Instruct`` or
``-it`` in it, a date, another spelling, an alias that the catalog states. The format of the checkpoint
is part of the name, wherever it stands: ``Qwen/Qwen2.5-72B-Instruct-AWQ`` and
``Mistral-Nemo-Instruct-FP8-2407`` have the shapes of a preset and weights in int4 and FP8. No other word
is left out: a name that is no known architecture has only a nearest one (``served.nearest``).
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any, NamedTuple

from meshwise import catalog
from meshwise.errors import InputError, shorten
from meshwise.models.served.formats import format_entry, format_parts, says

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SAME = {  # trained further, same shapes
    "instruct", "chat", "it", "hf", "base", "pt", "sft", "qat", "thinking", "reasoning", "preview",
}  # fmt: skip
_DATE = re.compile(r"\d{4}")  # 2507, 0324: another training of the same shapes


_DESCRIBED = "one of `meshwise catalog formats` at the end, or the checkpoint's config.json"
_WITH_TYPE = "the file's type behind it (…-GGUF:Q4_K_M), of `meshwise catalog formats`"


class NamedModel(NamedTuple):
    """A preset, and the format that the name adds to it (an entry of the catalog's table)."""

    preset: str
    format: dict[str, Any] | None
    asked: str

    @property
    def name(self) -> str:
        """Preset and format as one name, which stands for the same again: with the publisher, where a
        format of that name is another's."""
        if self.format is None:
            return self.preset
        own, publisher = self.format["name"], self.asked.strip().lower().rpartition("/")[0]
        short = f"{self.preset}-{own}"
        plain = format_entry(own.replace("_", "-"), self.preset, "") or {}
        same = not publisher or all(
            plain.get(k) == self.format.get(k) for k in ("config", "shapes", "dtype")
        )
        return short if same else f"{publisher}/{short}"

    @property
    def words(self) -> str:
        """What the name was taken as; "" where it is the preset's own, in whatever spelling."""
        same = _plain(self.asked) == _plain(self.name)
        if same and not self.format:
            return ""
        how = f", weights {says(self.format)}" if self.format else ""
        shapes = f"preset {self.preset}" if same else f"preset {self.preset}, the same architecture"
        return f"{shorten(self.asked)}: {shapes}{how}"


@functools.cache
def hub_ids() -> dict[str, str]:
    """Hub id → preset, in lower case; the base model's where there are several."""
    text = (catalog.ROOT / "hub_ids.json").read_text(encoding="utf-8")
    return {hub.lower(): preset for preset, hub in json.loads(text).items()}


@functools.cache
def _owners() -> frozenset[str]:
    """Who publishes the presets' models."""
    return frozenset(hub.partition("/")[0] for hub in hub_ids())


def hub_id(name: str) -> str | None:
    """The hub's id of the checkpoint that a preset describes; None where the name is no preset's, is in
    a format of its own, or has no public checkpoint."""
    try:
        found = named_model(name) if name and HUB_ID.fullmatch(name) is None else None
    except InputError:  # in a format that no name describes
        return None
    if found is None or found.format is not None:
        return None
    text = (catalog.ROOT / "hub_ids.json").read_text(encoding="utf-8")
    known: str | None = json.loads(text).get(found.preset)
    return known


def _plain(name: str) -> str:
    """Letters and digits alone: spellings differ in what stands between them. Two numbers stay two."""
    parted = re.sub(r"(?<=\d)[^a-z0-9]+(?=\d)", ".", name.lower())
    return re.sub(r"[^a-z0-9.]|(?<!\d)\.|\.(?!\d)", "", parted)


@functools.cache
def _spellings() -> dict[str, str]:
    known = {_plain(alias): name for alias, name in catalog.aliases("models").items()}
    return known | {_plain(name): name for name in catalog.names("models")}


def _architecture(key: str) -> str | None:
    """The preset of the same architecture as a name without a format."""
    words = key.removeprefix("meta-").split("-")
    trained = [w for w in words if w not in _SAME]
    undated = [w for w in trained if not _DATE.fullmatch(w)]
    for tried in (words, trained, undated):
        name = "-".join(tried)
        found = catalog.canonical("models", name) or _spellings().get(_plain(name))
        if found is not None:
            return found
    return _sized(key)


def _sized(key: str) -> str | None:
    """The preset of a name that states its size too, as it is rounded, such as deepseek-r1:671b."""
    found = re.fullmatch(r"(.+)[-:](\d+(?:\.(\d+))?)b", key)
    preset = found and (catalog.canonical("models", found[1]) or _spellings().get(_plain(found[1])))
    if not found or not preset:
        return None
    table = catalog.load("models", preset, "model")[1]
    published, decimals = table.get("_published_parameters_billion"), len(found[3] or "")
    return preset if published and round(published, decimals) == float(found[2]) else None


def untrained_names(key: str) -> tuple[str, ...]:
    """A name as it is, without the words that say how it was trained, and without a date."""
    first, *more = key.removeprefix("meta-").split("-")
    words = [first, *(w for w in more if w not in _SAME)]
    return key, "-".join(words), "-".join(w for w in words if not _DATE.fullmatch(w))


def named_model(name: str, field: str = "model") -> NamedModel | None:
    """The preset and format that a name stands for; None where it is no known architecture.

    A format that is known and not priced is refused: it is never left out.
    """
    publisher, _, base = name.strip().rstrip("/").lower().rpartition("/")
    owner, _, rest = base.partition("_")  # whose model it is, in front of a quantiser's name for it
    base = rest if rest and owner in _owners() else base
    key = base.replace("_", "-").replace(" ", "-")
    if len(key) > 100 or key.endswith(".json"):  # a file says itself what it is
        return None
    whole = hub_ids().get(name.strip().lower()) or _architecture(key)
    if whole is not None:
        return NamedModel(whole, None, name)
    for shape, said in format_parts(key):
        preset = _architecture(shape)
        if preset is None:
            continue
        entry = format_entry(said, preset, publisher, shape)
        if entry is None:
            raise InputError(
                f"{field}: {shorten(name)} is preset {preset}, in a format that a name does not "
                f"describe ({shorten(said)})",
                field=field,
                value=name,
                legal=_WITH_TYPE if said == "gguf" else _DESCRIBED,
            )
        return NamedModel(preset, entry, name)
    return None


def config_of(found: NamedModel) -> dict[str, Any]:
    """The ``config.json`` of the preset in the format of the name."""
    _, table = catalog.load("models", found.preset, "model")
    config = {k: v for k, v in table.items() if not k.startswith("_")}
    entry = found.format
    if entry is None:
        return config
    own = config.pop("quantization_config", None)
    if "dtype" in entry:
        key = "dtype" if "dtype" in config else "torch_dtype"
        return config | {key: entry["dtype"]}
    method = own.get("quant_method") if own else None
    own_format = entry["name"] == method and not entry.get("another")
    if own is not None and own_format:  # the publisher's own
        return config | {"quantization_config": own}
    text = json.dumps(entry["config"])
    if "{last}" in text:
        text = text.replace("{last}", str(_layers(config) - 1))
    shapes: dict[str, Any] = entry.get("shapes", {})
    return config | shapes | {"quantization_config": json.loads(text)}


def _layers(config: dict[str, Any]) -> int:
    """Layers of a ``config.json``, whose sizes may stand in the block of its language model."""
    keys = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
    blocks = (config, config.get("text_config", {}))
    return int(next(block[k] for block in blocks for k in keys if k in block))
