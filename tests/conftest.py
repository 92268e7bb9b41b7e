"""What all tests have in common: nobody's own defaults, no network, and the shipped tables' rows are
predicted once in a run, whichever of its processes asks first."""

import fcntl
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["MESHWISE_CONFIG"] = ""  # of the processes that tests start, too
os.environ["HF_HUB_OFFLINE"] = "1"  # a hub that cannot be reached takes seconds to say so


def once_in_a_run(folder: Path, name: str, make: Callable[[], Any]) -> Any:
    """What ``make`` returns, made by the first process of a run that asks; the others wait for its file."""
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = folder / f"{name}.pickle"
        if file.exists():
            return pickle.loads(file.read_bytes())
        made = make()
        file.write_bytes(pickle.dumps(made))
        return made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those marked ``first`` where a process of several begins: each gets a part of the list to begin with."""
    first = [item for item in items if item.get_closest_marker("first") is not None]
    rest = [item for item in items if item.get_closest_marker("first") is None]
    for i, item in enumerate(first):
        rest.insert(i * (len(rest) + 1) // max(len(first), 1), item)
    items[:] = rest


@pytest.fixture(scope="session", autouse=True)
def _shipped_rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Of a table of 700 runs that are simulated a minute; a dozen tests ask for them."""
    from meshwise.evidence import validate

    predict, known = validate.row_results, {}
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base

    def once(table, folder, named=None, anchors=None):
        if folder != validate.PUBLISHED_FOLDER or named is not None or anchors is not None:
            return predict(table, folder, named, anchors)
        if table.kind not in known:
            rows = once_in_a_run(shared, table.kind, lambda: predict(table, folder))
            known[table.kind] = rows
        return list(known[table.kind])

    validate.row_results = once
    yield
    validate.row_results = predict
