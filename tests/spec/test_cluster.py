"""``nodes`` counts what the outermost level joins."""

from __future__ import annotations

import pytest

import meshwise as mw
from meshwise.errors import InputError
from meshwise.spec import catalog
from meshwise.spec.cluster import grown


def of_one_level(network: bool) -> list[mw.Cluster]:
    found = [mw.cluster(name) for name in catalog.names("clusters")]
    alone = [c for c in found if len(c.levels) == 1]
    return [c for c in alone if (c.levels[0].kind == "network") == network]


@pytest.mark.parametrize("nodes", [1, 2, 4, 31])
def test_nodes_of_single_devices_are_the_ranks_of_their_network(nodes: int) -> None:
    networks = of_one_level(network=True)
    assert "dgx-spark-2" in [c.name for c in networks]
    for cluster in networks:
        assert mw.cluster(cluster, nodes=nodes).devices == nodes
        assert grown(cluster, nodes).devices == max(nodes, cluster.devices)


def test_nothing_joins_the_nodes_of_a_cluster_without_a_network() -> None:
    boxes = of_one_level(network=False)
    assert boxes
    for cluster in boxes:
        assert mw.cluster(cluster, nodes=1) == cluster
        with pytest.raises(InputError, match="nothing joins its nodes"):
            mw.cluster(cluster, nodes=2)


def test_nodes_of_the_others_are_domains_of_the_outermost_level() -> None:
    assert mw.cluster("hgx-h100", nodes=3).devices == 24
