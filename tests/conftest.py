"""What all tests have in common: nobody's own defaults, no network, and the shipped tables' rows are
predicted once in a process."""

import os
from collections.abc import Iterator

import pytest

os.environ["MESHWISE_CONFIG"] = ""  # of the processes that tests start, too
os.environ["HF_HUB_OFFLINE"] = "1"  # a hub that cannot be reached takes seconds to say so


@pytest.fixture(scope="session", autouse=True)
def _shipped_rows() -> Iterator[None]:
    """Of a table of 700 runs 13 s; a dozen tests ask for them."""
    from meshwise.evidence import validate

    predict, known = validate.row_results, {}

    def once(table, folder, named=None, anchors=None):
        if folder != validate.PUBLISHED_FOLDER or named is not None or anchors is not None:
            return predict(table, folder, named, anchors)
        if table.kind not in known:
            known[table.kind] = predict(table, folder)
        return list(known[table.kind])

    validate.row_results = once
    yield
    validate.row_results = predict
