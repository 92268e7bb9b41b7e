"""Read a model's ``config.json`` from the hub, in a few seconds or not at all."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

from meshwise.errors import InputError, shorten
from meshwise.models.served.nearest import nearest_preset

LIMIT_S = 5.0  # for all that is asked of the network: its client alone would try again for 24 s
AGAIN_S = 60.0  # after which a hub that did not answer is tried again: a table names many models
_silent_since: list[float] = []


class _TooSlow(Exception):
    """The network did not answer within the limit."""


class _NoNetwork(Exception):
    """No name server knows the hub: the client would ask it all the same, again and again."""


def _no_network() -> bool:
    """Whether the hub's name is not known here, which a machine without a network says at once; behind a
    proxy nobody asks for it."""
    endpoint = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    if endpoint.hostname is None or urllib.request.getproxies():
        return False
    try:
        socket.getaddrinfo(endpoint.hostname, endpoint.port or 443)
    except socket.gaierror:
        return True
    return False


def _silent() -> bool:
    """Whether the network did not answer a short while ago."""
    return bool(_silent_since) and time.monotonic() - _silent_since[-1] < AGAIN_S


def _within(limit_s: float, ask: Callable[[], str]) -> str:
    """What ``ask`` answers within the limit; it is left to itself where it takes longer."""
    answer: list[str] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(ask())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_s)
    if failed:
        raise failed[0]
    if not answer:
        raise _TooSlow
    return answer[0]


def _why(error: BaseException, name: str) -> str:
    """What went wrong, from the kind of the client's error: its sentences change with its versions."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return f"{name} is gated on the hub: it takes a token with access (HF_TOKEN)"
    if "RepositoryNotFoundError" in kinds:
        return f"the hub has no public model {name}"
    if "EntryNotFoundError" in kinds and "LocalEntryNotFoundError" not in kinds:
        return f"{name} has no config.json on the hub"
    if "OfflineModeIsEnabled" in kinds:
        return f"the hub was not asked for {name}: HF_HUB_OFFLINE is set, and no copy is here"
    how = "there is no network" if isinstance(error, _NoNetwork) else f"tried for {LIMIT_S:g} s"
    return f"the hub could not be reached for the config.json of {name} ({how})"


def _download(hub: Any, name: str) -> str:
    """Path of the one small file (and of ``hf_quant_config.json`` beside it, if there is one)."""
    with contextlib.suppress(Exception):  # what was read once takes no network
        return str(hub.hf_hub_download(name, "config.json", local_files_only=True))
    if _silent():
        raise _TooSlow
    if _no_network():
        raise _NoNetwork
    path = str(hub.hf_hub_download(name, "config.json", etag_timeout=3))
    with contextlib.suppress(Exception):  # most have none; the reader looks beside config.json
        hub.hf_hub_download(name, "hf_quant_config.json", etag_timeout=3)
    return path


def from_hub(name: str, field: str) -> str:
    """Path of the downloaded ``config.json`` of a hub id; one line, within seconds, if there is none."""
    try:
        import huggingface_hub as hub
    except ImportError:
        raise InputError(
            f"{field}: {shorten(name)} looks like a hub id; reading it takes the [hub] extra",
            field=field,
            value=name,
            legal="a preset, a path to a config.json, or a hub id after `pip install 'meshwise[hub]'`",
            nearest=nearest_preset(name),
        ) from None
    hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # its retries are not the user's one line
    try:
        return _within(LIMIT_S, lambda: _download(hub, name))
    except Exception as error:  # the client raises many kinds; the user needs the one line
        if isinstance(error, _TooSlow) and not _silent():
            _silent_since[:] = [time.monotonic()]
        raise InputError(
            f"{field}: no preset has the shapes of {shorten(name)}, and {_why(error, shorten(name))}",
            field=field,
            value=name,
            legal="a preset, the path of a config.json or its folder, a hub id that can be read",
            nearest=nearest_preset(name),
        ) from None
