"""What several commands need before they can answer."""

from __future__ import annotations

from meshwise.cli.command import Need
from meshwise.cli.given import Given

NEEDS_MODEL = Need("model", "llama-3.1-70b")
NEEDS_CLUSTER = Need("cluster", "dgx-a100")
ABOUT_MODEL = "A preset, a config.json (or its folder), or a hub id with the [hub] extra."
# of a step of one phase
STEP = (
    NEEDS_MODEL,
    NEEDS_CLUSTER,
    Need(
        "seq",
        "2048",
        "required in training and prefill",
        lambda o: o["phase"] in ("train", "prefill"),
    ),
    Need(
        *("context", "4096", "required in decode"),
        lambda o: o["phase"] == "decode" and o["seq"] is None,
    ),
)


def phase_of(o: Given) -> str | None:
    """The phase that is asked for; None where it is no phase."""
    phase = o.text("phase")
    return phase if phase in ("train", "prefill", "decode") else None
