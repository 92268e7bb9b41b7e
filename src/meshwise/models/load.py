"""Find a model: a preset, a ``config.json`` or its folder, or a hub id with the ``[hub]`` extra."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from meshwise import catalog
from meshwise.checks import name_of
from meshwise.errors import InputError
from meshwise.models.config_file import find_config, load_model_file
from meshwise.models.families.config import model_from_config
from meshwise.models.families.refused import NESTED_BLOCKS
from meshwise.models.names import HUB_ID, NamedModel, config_of, named_model
from meshwise.models.shapes import Model

_PER_LAYER = ("layer_types", "attention_layers", "mlp_layer_types")


def load_model(name: str | os.PathLike[str] | Model, field: str = "model") -> Model:
    """The model that ``name`` stands for; a :class:`Model` as it is.

    An existing path wins over a preset only if it is written as a path (``./gpt2``, ``x/config.json``).
    Raises :class:`~meshwise.errors.UnknownName` with the nearest preset, and what the reader of
    ``config.json`` refuses.
    """
    if isinstance(name, Model):
        return name
    found = _find(name, field)
    if isinstance(found, ConfigFile):
        return load_model_file(found.path, checkpoint=found.local)
    model = model_from_config(config_of(found), name=found.name, source=_source(found))
    return msgspec.structs.replace(model, asked=found.words) if found.words else model


def _source(found: NamedModel) -> str:
    own = str(catalog.load("models", found.preset, "model")[1].get("_source", ""))
    return f"{own}; {found.format['source']}" if found.format else own


def load_config(name: str | os.PathLike[str], field: str = "model") -> tuple[str, dict[str, Any]]:
    """(name, content of the ``config.json``) of the model that ``name`` stands for, as it is written."""
    load_model(name, field)  # whatever is wrong with it is said here
    found = _find(name, field)
    if isinstance(found, ConfigFile):
        return str(name), find_config(found.path)[1]
    return found.name, config_of(found)


def first_layers(config: dict[str, Any], layers: int | None) -> dict[str, Any]:
    """The ``config.json`` of the model's first layers, at full width."""
    if layers is None:
        return config
    block = next((k for k in NESTED_BLOCKS if isinstance(config.get(k), dict)), None)
    key = next((k for k in ("num_hidden_layers", "n_layer", "num_layers") if k in config), None)
    if key is None and block is not None:
        return {**config, block: first_layers(config[block], layers)}
    most = config[key] if key else 0
    if key is None or not 1 <= layers <= most:
        raise InputError(
            f"layers={layers}: the model has {most}",
            field="layers",
            value=layers,
            legal=f"1 to {most}",
            nearest=min(max(layers, 1), most),
        )
    cut = {k: v[:layers] for k, v in config.items() if k in _PER_LAYER and isinstance(v, list)}
    return {**config, key: layers, **cut}


class ConfigFile(NamedTuple):
    """The path of a ``config.json`` or its folder; not ``local``: of the hub, the one file alone."""

    path: str
    local: bool = True


def _find(given: str | os.PathLike[str], field: str) -> NamedModel | ConfigFile:
    """What a name stands for: a preset in a format, or the path of a file or folder."""
    name = name_of(
        given, field, "a model's name, the path of a config.json or its folder, or a Model"
    )
    if not name.strip():
        raise _unknown(field, name)
    as_path = name.endswith(".json") or name.startswith((".", os.sep, "~"))
    if not as_path:
        key = catalog.canonical("models", name)
        if key is not None:
            return NamedModel(key, None, name)
    try:
        path = str(Path(name).expanduser())
        exists = os.path.lexists(path)
    except (ValueError, RuntimeError):  # an embedded NUL; a home folder that nobody has
        path, exists = name, False
    if as_path or exists:
        return ConfigFile(path)
    # the preset of the same architecture, where there is one: no download for what is known already
    found = named_model(name, field)
    if found is not None:
        return found
    if HUB_ID.fullmatch(name):
        from meshwise.models.hub import from_hub  # threads and a client: for a hub id only

        return ConfigFile(from_hub(name, field), local=False)
    raise _unknown(field, name)


def _unknown(field: str, name: str) -> InputError:
    from meshwise.models.served.nearest import unknown_model  # only for an error

    return unknown_model(field, name)
