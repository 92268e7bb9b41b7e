"""Find a model: a preset, a ``config.json`` or its folder, or a hub id with the ``[hub]`` extra."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from meshwise.errors import InputError, shorten, unknown_name
from meshwise.spec import catalog
from meshwise.spec.config_file import load_model_file
from meshwise.spec.families import model_from_config
from meshwise.spec.model import Model

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_model(name: str, field: str = "MODEL") -> Model:
    """The model that ``name`` stands for.

    An existing path wins over a preset only if it is written as a path (``./gpt2``, ``x/config.json``).
    Raises :class:`~meshwise.errors.UnknownName` with the nearest preset, and what the reader of
    ``config.json`` refuses.
    """
    if not name.strip():
        raise unknown_name(field, name, catalog.names("models"), "preset, folder or config.json")
    as_path = name.endswith(".json") or name.startswith((".", os.sep, "~"))
    if not as_path and catalog.canonical("models", name) is not None:
        key, config = catalog.load("models", name, field)
        return model_from_config(
            {k: v for k, v in config.items() if not k.startswith("_")},
            name=key,
            source=str(config.get("_source", "")),
        )
    try:
        path = str(Path(name).expanduser())
        exists = os.path.lexists(path)
    except (ValueError, RuntimeError):  # an embedded NUL; a home folder that nobody has
        path, exists = name, False
    if as_path or exists:
        return load_model_file(path)
    # the preset of the same name, where a hub id has one: no download for what is known already
    if _HUB_ID.fullmatch(name):
        short = catalog.canonical("models", name.split("/")[1])
        if short is not None:
            return load_model(short, field)
        return _from_hub(name, field)
    raise unknown_name(field, name, catalog.names("models"), "preset, folder or config.json")


def _from_hub(name: str, field: str) -> Model:
    """Download one small file, ``config.json`` (and ``hf_quant_config.json`` if there is one)."""
    try:
        import huggingface_hub as hub
    except ImportError:
        raise InputError(
            f"{field}: {shorten(name)} looks like a hub id; reading it takes the [hub] extra",
            field=field,
            value=name,
            legal="a preset, a path to a config.json, or a hub id after `pip install 'meshwise[hub]'`",
            nearest=unknown_name(
                field, name.split("/")[1], catalog.names("models"), "preset"
            ).nearest,
        ) from None
    hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # its retries are not the user's one line
    try:
        path = hub.hf_hub_download(name, "config.json", etag_timeout=5)
    except Exception as error:  # the client raises many kinds; the user needs the one line
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{field}: {shorten(name)} cannot be read from the hub: {shorten(first)}",
            field=field,
            value=name,
            legal="a hub id with a readable config.json, a preset, or a path",
        ) from None
    with contextlib.suppress(Exception):  # most have none; the reader looks beside config.json
        hub.hf_hub_download(name, "hf_quant_config.json", etag_timeout=5)
    return load_model_file(path)
