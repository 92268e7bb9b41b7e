"""The memory of one layout, by part, and what tools show of it."""

from __future__ import annotations

from meshwise.answers.text.evidence import fits_words
from meshwise.answers.text.tables import Table
from meshwise.search.one_layout import Report
from meshwise.units import format_memory


def memory_table(r: Report) -> Table:
    """The fullest stage, by part."""
    e = r.estimate
    return Table(
        "Memory per GPU, fullest stage",
        ("part", "size"),
        (
            *(
                (k.removesuffix("_bytes").replace("_", " "), format_memory(v))
                for k, v in r.memory.items()
                if v
            ),
            *_loss_rows(r),
            ("total", format_memory(r.memory_bytes)),
            *_held_rows(r),
            ("usable of the device", format_memory(e.memory_limit_bytes)),
            ("fits", fits_words(r.fits, r.tight)),
        ),
    )


def _held_rows(r: Report) -> list[tuple[str, str]]:
    """What tools show of the same run, who do not show what is allocated."""
    if r.estimate.workload.phase != "train" or r.estimate.stack.ideal:
        return []
    return [
        ("  reserved by the allocator", format_memory(r.reserved_bytes)),
        ("  as the device reports it", format_memory(r.device_bytes)),
    ]


def _loss_rows(r: Report) -> list[tuple[str, str]]:
    """Logits and their gradient at the loss's peak, within the workspace; and without chunks."""
    if not r.loss_bytes:
        return []
    chunks = r.estimate.stack.kernels.loss_chunks
    if chunks == 1:
        return [("  of it at the loss (logits)", format_memory(r.loss_bytes))]
    return [
        (f"  of it at the loss, {chunks} chunks", format_memory(r.loss_bytes)),
        ("  the same in one", format_memory(r.whole_loss_bytes)),
    ]
