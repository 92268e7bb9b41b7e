"""What a target says of a layout when it starts, or too late."""

from __future__ import annotations

from typing import Any, NamedTuple

SEVERITIES = ("refused", "fails", "slow", "ignored")


class LaunchWarning(NamedTuple):
    """``severity``: the target does not start with it (refused), stops later (fails), runs slower than it
    might (slow), or leaves the flag aside (ignored). ``rule`` is a code."""

    severity: str
    rule: str
    message: str
    fields: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        lead = {
            "refused": "the target refuses this launch",
            "fails": "it starts and fails",
            "slow": "slow",
            "ignored": "left aside by the target",
        }
        return f"{lead[self.severity].capitalize()}: {self.message}."

    def to_dict(self) -> dict[str, Any]:
        return {
            "severity": self.severity,
            "rule": self.rule,
            "message": self.message,
            "fields": list(self.fields),
        }
