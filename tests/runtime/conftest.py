"""The runtime's tests need the ``runtime`` extra; ranks are started once for all modules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the runtime extra")
pytest.importorskip("transformers", reason="needs the runtime extra")


@pytest.fixture(scope="session")
def crew() -> Iterator[Any]:
    """Four ranks on gloo, one thread each."""
    from tests.runtime.crew import Crew

    four = Crew(4)
    yield four
    four.close()
