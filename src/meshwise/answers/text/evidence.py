"""How near published runs are to an answer, in words; and whether memory is tight."""

from __future__ import annotations

from meshwise.answers.records.evidence import EvidenceRecord, PublishedMfu
from meshwise.answers.text.sentences import wrap
from meshwise.answers.text.words import percent
from meshwise.cost.doubt.question import TRAITS

_NEW = {"device": "the device", "software": "the software", "fabric": "the fabric"}


def evidence_lines(e: EvidenceRecord | None) -> list[str]:
    """The tier and the runs that it rests on, a part of a page; none where there is no interval."""
    if e is None:
        return []
    named = ", ".join(e["nearest"])
    runs = f"{e['runs']:,} published run{'s' * (e['runs'] != 1)}"
    new = " and ".join(_NEW.get(name) or TRAITS[name] for name in e["new"])
    if e["tier"] == "measured":
        said = f"Evidence: measured ({runs} of this device, software and regime: {named})."
    elif e["tier"] == "none":
        said = "Evidence: none (datasheet figures; no published run is of this device)."
    else:
        said = f"Evidence: {e['tier']} (new: {new}; {runs} share the rest: {named})."
    if e["narrow_by"]:
        said += f" What would narrow the interval: {'; '.join(e['narrow_by'])}."
    return [wrap(said, ids=True)]


def fits_words(fits: bool, tight: bool) -> str:
    """Of a table: whether it fits, and whether that is within the memory's error."""
    return ("yes" if fits else "NO") + (", tight" if tight else "")


def mfu_words(promised: float, published: PublishedMfu | None, device: str) -> str:
    """The best published utilisation of the device beside a promise."""
    if published is None:
        return f"MFU {percent(promised)}; no published run of {device} says its own."
    return wrap(
        f"MFU {percent(promised)}; the best published on {device} (up to 8,192 tokens) is {percent(published['mfu'])} "
        f"({published['id']}).",
        ids=True,
    )
