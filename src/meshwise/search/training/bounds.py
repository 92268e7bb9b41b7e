"""What a placement can gain at most: every group as near together as any placement puts it."""

from __future__ import annotations

import numpy as np

from meshwise.clusters.load import Cluster
from meshwise.layouts.layout import Layouts
from meshwise.layouts.placement import Group, place


def nearest(layout: Layouts, cluster: Cluster) -> dict[str, Group]:
    """The groups of all axes as if each were alone on the fabric: innermost, and no other group beside
    it on the links. A step priced with them is no longer than that of any placement."""
    one, inner = np.int64(1), np.int64(0)
    sizes = {
        "tp": layout.tp,
        "cp": layout.cp,
        "dp": layout.dp,
        "pp": layout.pp,
        "etp": layout.expert_tp(),
        "ep": layout.ep,
        "expert_dp": layout.expert_dp(),
        "dp_cp": layout.dp * layout.cp,
        "dcp": layout.dcp,
    }
    return {
        axis: group._replace(active=tuple(one for _ in group.active))
        for axis, group in ((a, place(a, n, one, inner, cluster)) for a, n in sizes.items())
    }
