"""What a model's name says, as people, hubs and commands write it: one rule for every command.

A name is a preset's, or one of the same architecture: an organisation before it, ``-Instruct`` or
``-it`` in it, a date, another spelling, an alias that the catalog states. The format of the checkpoint
is part of the name, wherever it stands: ``Qwen/Qwen2.5-72B-Instruct-AWQ`` and
``Mistral-Nemo-Instruct-FP8-2407`` have the shapes of a preset and weights in int4 and FP8. No other word
is left out: a name that is no known architecture has only the nearest one, by family, words, version
and size.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any, NamedTuple

from meshwise import catalog
from meshwise.errors import InputError, UnknownName, closest, meant, shorten, unknown_name

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SAME = {  # trained further, same shapes
    "instruct", "chat", "it", "hf", "base", "pt", "sft", "qat", "thinking", "reasoning",
}  # fmt: skip
_RELEASE = re.compile(r"v\d\.\d")  # of the further training, where a preset's name has none
_DATE = re.compile(r"\d{4}")  # 2507, 0324: another training of the same shapes
_SIZE = re.compile(r"(?<![a-z0-9.])(\d+x)?(\d+(?:\.\d+)?)([bmt])(?![a-z0-9])")
_BARE = re.compile(r"(?<![a-z0-9.])(\d{1,3}(?:\.\d+)?)(?![a-z0-9.])")
_SCALE = {"m": 1e-3, "b": 1.0, "t": 1e3}


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
        plain = _entry(own, self.preset, "") or {}
        same = all(plain.get(k) == self.format.get(k) for k in ("config", "shapes", "dtype"))
        return short if same else f"{publisher}/{short}"

    @property
    def words(self) -> str:
        """What the name was taken as; "" where it is the preset's own, in whatever spelling."""
        same = _plain(self.asked) == _plain(self.name)
        if same and not self.format:
            return ""
        how = f", weights {self.format['says']}" if self.format else ""
        shapes = f"preset {self.preset}" if same else f"preset {self.preset}, the same architecture"
        return f"{shorten(self.asked)}: {shapes}{how}"


@functools.cache
def _table() -> dict[str, Any]:
    text = (catalog.ROOT / "checkpoint_formats.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


@functools.cache
def _hub_ids() -> dict[str, str]:
    """Hub id → preset, in lower case; the base model's where there are several."""
    text = (catalog.ROOT / "hub_ids.json").read_text(encoding="utf-8")
    return {hub.lower(): preset for preset, hub in json.loads(text).items()}


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
    """Letters and digits alone: spellings differ in what stands between them."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


@functools.cache
def _spellings() -> dict[str, str]:
    known = {_plain(alias): name for alias, name in catalog.aliases("models").items()}
    return known | {_plain(name): name for name in catalog.names("models")}


def _architecture(key: str) -> str | None:
    """The preset of the same architecture as a name without a format."""
    words = key.removeprefix("meta-").split("-")
    trained = [w for w in words if w not in _SAME]
    undated = [w for w in trained if not _DATE.fullmatch(w)]
    released = undated if trained == words else [w for w in undated if not _RELEASE.fullmatch(w)]
    for tried in (words, trained, undated, released):
        name = "-".join(tried)
        found = catalog.canonical("models", name) or _spellings().get(_plain(name))
        if found is not None:
            return found
    return _sized(key)


def _sized(key: str) -> str | None:
    """The preset of a name that states its size too, such as deepseek-r1:671b; not that of another."""
    found = re.fullmatch(r"(.+)[-:](\d+(?:\.\d+)?b)", key)
    preset = found and (catalog.canonical("models", found[1]) or _spellings().get(_plain(found[1])))
    if not found or not preset:
        return None
    table = catalog.load("models", preset, "model")[1]
    published, size = table.get("_published_parameters_billion"), float(found[2][:-1])
    return preset if published and abs(published - size) < 0.05 * size else None


def _formats(key: str) -> list[tuple[str, str]]:
    """(name without it, format) for whatever may be a format, the longest first and the last first."""
    pieces = "|".join(f"(?:{e['pattern']})" for e in _table()["entries"])
    pattern = re.compile(f"(?:{pieces}|{_table()['not_priced']})")
    cuts = [m.start() for m in re.finditer(r"[-.@:]", key)]
    spans = [(at, end) for at in cuts for end in (*cuts, len(key)) if at < end]
    found = [(a, z) for a, z in spans if pattern.fullmatch(key[a + 1 : z])]
    found.sort(key=lambda span: (span[0] - span[1], -span[0]))
    return [(key[:a] + key[z:], key[a + 1 : z]) for a, z in found]


def _entry(said: str, preset: str, publisher: str) -> dict[str, Any] | None:
    for entry in _table()["entries"]:
        whose, only = entry.get("publishers"), entry.get("presets")
        if only is not None and (preset not in only or publisher not in ("", entry["of"])):
            continue
        if re.fullmatch(entry["pattern"], said) and (
            whose is None
            or any(publisher + "/" == w or publisher == w for w in whose)
            or (not _quantiser(publisher) and any(preset.startswith(w) for w in whose))
        ):
            found: dict[str, Any] = entry
            return found
    return None


def _quantiser(publisher: str) -> bool:
    """Whether an organisation publishes formats of its own for other people's models."""
    return any(
        publisher in e.get("publishers", ()) for e in _table()["entries"][:6] if publisher
    ) and (publisher in ("nvidia", "redhatai", "neuralmagic"))


def named_model(name: str, field: str = "model") -> NamedModel | None:
    """The preset and format that a name stands for; None where it is no known architecture.

    A format that is known and not priced is refused: it is never left out.
    """
    publisher, _, base = name.strip().rstrip("/").lower().rpartition("/")
    key = base.replace("_", "-").replace(" ", "-")
    if len(key) > 100:
        return None
    whole = _hub_ids().get(name.strip().lower()) or _architecture(key)
    if whole is not None:
        return NamedModel(whole, None, name)
    for shape, said in _formats(key):
        preset = _architecture(shape)
        if preset is None:
            continue
        entry = _entry(said, preset, publisher)
        if entry is None:
            raise InputError(
                f"{field}: {shorten(name)} is preset {preset}, in a format that a name does not "
                f"describe ({shorten(said)})",
                field=field,
                value=name,
                legal=", ".join(dict.fromkeys(e["name"] for e in _table()["entries"]))
                + " at the end, or the checkpoint's config.json",
                nearest=preset,
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
    if method is not None and method == entry["name"]:  # the publisher's own
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


class _Traits(NamedTuple):
    family: str
    version: float | None
    size: float | None  # billions of parameters


def _traits(key: str) -> _Traits:
    size = None
    found = None
    spaced = re.sub(r"([a-z])(?=\d)", r"\1-", key)  # llama70b
    for found in _SIZE.finditer(spaced):
        each = float(found[2]) * _SCALE[found[3]]
        size = each * (int(found[1][:-1]) if found[1] else 1)
        break
    rest = spaced.replace(found[0], "") if found else spaced
    bare = _BARE.findall(rest)
    if size is None and len(bare) > 1:  # llama-3.1-4: a size without its unit
        size = float(bare[-1])
    version = re.search(r"\d+(?:\.\d+)?", rest)
    family = re.match(r"[a-z]+", key)
    return _Traits(family[0] if family else "", float(version[0]) if version else None, size)


def _without_format(key: str) -> str:
    """A name without its format: two models are not alike because both are in FP8."""
    found = _formats(key)
    return found[0][0] if found else key


def _words(key: str) -> set[str]:
    """The words of a name that say which model it is: neither sizes nor how it was trained."""
    words = re.split(r"[^a-z0-9.]+", _SIZE.sub("", key))
    return {w for w in words if w.isalpha()} - _SAME


def _untrained(key: str) -> tuple[str, ...]:
    """A name as it is, without the words that say how it was trained, and without a date."""
    first, *more = key.split("-")
    words = [first, *(w for w in more if w not in _SAME)]
    return key, "-".join(words), "-".join(w for w in words if not _DATE.fullmatch(w))


def _alike(key: str, name: str) -> bool:
    """Whether letters alone say that one name was meant by the other."""
    import difflib

    return key in name or difflib.SequenceMatcher(None, key, name).ratio() >= 0.6


def nearest_preset(name: str) -> str | None:
    """The preset that an unknown name is nearest to: the one that it is but for a slip of the fingers,
    else by family and its words, size and version, then letters. A name that states its size has no
    nearest of another size or another version: that is another model, not another spelling."""
    key = _without_format(
        name.strip().rstrip("/").lower().rpartition("/")[2].replace("_", "-")[:100]
    )
    slipped = next(filter(None, (meant(k, _spelt()) for k in _untrained(key))), set[str]())
    if slipped:  # two that are as near: nobody can tell
        return slipped.pop() if len(slipped) == 1 else None
    presets = catalog.names("models")
    begun = [n for n in presets if key and n.startswith(key)]
    # typed in part; 4 is not the beginning of 405
    begun = [n for n in begun if not (key[-1].isdigit() and n[len(key) : len(key) + 1].isdigit())]
    if begun:
        return min(begun, key=lambda n: (len(n), n))
    asked, words = _traits(key), _words(key)
    publisher = name.strip().lower().rpartition("/")[0]
    alike = [n for n in presets if asked.family and _traits(n).family == asked.family] or [
        n for n in presets if publisher.startswith(_traits(n).family)
    ]
    versions = [_traits(n).version for n in alike]
    alike = [n for n in alike if _of_its_size(asked, _traits(n))]
    if not alike or (asked.size is None and asked.version is None and len(words) < 2):
        close = closest(key, [*presets, *catalog.aliases("models")])
        same = [n for n in close if _alike(key, n) and _of_its_size(asked, _traits(n))]
        return same[0] if same else None

    def far(n: str) -> tuple[float, ...]:
        t, common = _traits(n), len(words & _words(n))
        version = abs((t.version or 0.0) - asked.version) if asked.version is not None else 0.0
        # no version asked for: that of which most sizes are known, the latest of these
        return (-common, version, -versions.count(t.version), -(t.version or 0.0), len(n))

    return min(alike, key=far)


def _of_its_size(asked: _Traits, other: _Traits) -> bool:
    """Whether a name may be another's misspelt, by what it says of size and version: a stated size is
    that of the other, and so is a version beside it."""
    if asked.size is None:
        return True
    same = other.size is not None and abs(asked.size - other.size) <= 0.01 * other.size
    return same and asked.version in (None, other.version)


@functools.cache
def _spelt() -> dict[str, str]:
    """Every name and alias → the preset."""
    return catalog.aliases("models") | {name: name for name in catalog.names("models")}


def unknown_model(field: str, name: str) -> UnknownName:
    """The error for a name that is no known architecture."""
    error = unknown_name(field, name, catalog.names("models"), "preset, folder or config.json")
    error.nearest = nearest_preset(name)
    return error
