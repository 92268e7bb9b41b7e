"""A hub id that is no preset: read, or one line within seconds that says what could not be done."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meshwise.errors import InputError
from meshwise.models import hub
from meshwise.models.load import load_model

ID = "someone/Qwn3-32B"
CONFIG = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 32000,
}  # fmt: skip


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch) -> None:
    hub._silent_since.clear()
    monkeypatch.setattr(hub, "_no_network", lambda: False)


def client(monkeypatch: pytest.MonkeyPatch, download: Any) -> None:
    logging = SimpleNamespace(set_verbosity_error=lambda: None)
    fake = SimpleNamespace(logging=logging, hf_hub_download=download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)


def refusal(monkeypatch: pytest.MonkeyPatch, error: str) -> InputError:
    kind = type(error, (Exception,), {})

    def download(name: str, file: str, **how: Any) -> str:
        raise kind("a sentence of the client")

    client(monkeypatch, download)
    with pytest.raises(InputError) as caught:
        load_model(ID)
    return caught.value


def test_it_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    client(monkeypatch, lambda name, file, **how: str(tmp_path / file))
    assert load_model(ID).hidden == 512


def test_a_network_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def download(name: str, file: str, **how: Any) -> str:
        if how.get("local_files_only"):
            raise FileNotFoundError
        release.wait(30)
        return ""

    client(monkeypatch, download)
    monkeypatch.setattr(hub, "LIMIT_S", 0.2)
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        load_model(ID)
    assert time.monotonic() - began < 5.0
    assert "could not be reached" in caught.value.message and ID in caught.value.message
    assert caught.value.nearest == "qwen3-32b" and "\n" not in str(caught.value)
    monkeypatch.setattr(hub, "LIMIT_S", 30.0)  # not waited for again so soon: a table names many
    began = time.monotonic()
    with pytest.raises(InputError, match="could not be reached"):
        load_model("someone/Qwen3-Third-32B")
    assert time.monotonic() - began < 5.0
    release.set()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("ConnectError", "could not be reached"),
        ("LocalEntryNotFoundError", "could not be reached"),
        ("RepositoryNotFoundError", "has no public model"),
        ("GatedRepoError", "is gated"),
        ("EntryNotFoundError", "has no config.json"),
        ("OfflineModeIsEnabled", "HF_HUB_OFFLINE"),
    ],
)
def test_it_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch, error: str, says: str) -> None:
    found = refusal(monkeypatch, error)
    assert says in found.message and "a sentence" not in found.message
    assert found.nearest == "qwen3-32b"


def test_without_a_network_it_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is asked for a copy that is here, and for nothing else."""

    def download(name: str, file: str, **how: Any) -> str:
        assert how.get("local_files_only")
        raise FileNotFoundError

    client(monkeypatch, download)
    monkeypatch.setattr(hub, "_no_network", lambda: True)
    began = time.monotonic()
    with pytest.raises(InputError, match="there is no network") as caught:
        load_model(ID)
    assert time.monotonic() - began < 1.0
    assert caught.value.nearest == "qwen3-32b"


@pytest.mark.parametrize(
    ("endpoint", "proxies", "known", "none"),
    [("", {}, True, False), ("", {}, False, True), ("https://mirror.example:8443/x", {}, False, True),
     ("", {"https": "http://proxy:3128"}, False, False), ("nonsense", {}, False, False)],
)  # fmt: skip
def test_whether_there_is_a_network(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, proxies: dict[str, str], known: bool, none: bool
) -> None:
    """A name that no server knows is none; behind a proxy names need not be known."""
    monkeypatch.undo()
    asked = []

    def resolve(host: str, port: int) -> list[Any]:
        asked.append((host, port))
        if not known:
            raise hub.socket.gaierror(-2, "Name or service not known")
        return []

    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setattr(hub.urllib.request, "getproxies", lambda: proxies)
    monkeypatch.setattr(hub.socket, "getaddrinfo", resolve)
    assert hub._no_network() is none
    if "mirror" in endpoint:
        assert asked == [("mirror.example", 8443)]


def test_a_name_that_a_preset_knows_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    client(monkeypatch, lambda *a, **how: pytest.fail("the network was asked"))
    assert load_model("meta-llama/Llama-4-Scout-17B-16E-Instruct").name == "llama-4-scout"
