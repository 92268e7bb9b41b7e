"""The rule that the cluster imposes."""

from __future__ import annotations

import numpy as np

from meshwise.arrays import Array
from meshwise.layouts.layout import Layout, product_words
from meshwise.layouts.rules.case import Case
from meshwise.layouts.rules.rule import Refusal, Rule


def _has_devices(c: Case) -> Array:
    return np.bool_(True) if c.cluster is None else c.layout.devices <= c.cluster.devices


def _devices(layout: Layout, c: Case) -> Refusal:
    assert c.cluster is not None
    n = c.cluster.devices
    field = "tp" if layout.tp > n else "dp" if layout.dp > 1 else "pp"
    why = f"{product_words(layout)} GPUs, but {c.cluster.name} has {n}"
    legal = f"at most {n} GPUs (`nodes` changes the cluster)"
    return Refusal(field, getattr(layout, field), why, legal)


DEVICES = Rule("cluster", _has_devices, _devices)
