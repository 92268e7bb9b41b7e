"""Fit collectives over PCIe inside a host, with and without peer access, to ``collectives.csv``.

    pip install scipy && pip install -e .
    python tools/fit_hosts.py collectives.csv

Form of one collective, L the seconds of its steps and X those of its bytes::

    T = L + X + 2 k sqrt(L X)          pieces fill a pipeline
    all_reduce, all_gather, reduce_scatter, broadcast
        L = launch + hops a            X = bytes that a rank sends / (share · lane rate of one card)
    all_to_all
        L = launch' + (n-1) peer       X = (n-1)/n S / (e · share · lane rate)

``share`` is the host's: what n cards at once get of the lane rate of one of them, by what is between
the cards. One set of shares stands for all generations of PCIe.

Peer access: L40S (PCIe 4, cards under root ports, 8 of them over two sockets) and RTX PRO 6000 (PCIe 5,
cards under switches), NCCL on 2, 4 and 8 cards. All constants are fitted at once (soft L1 loss of the
logarithm, and a weak pull to the start). The published shares of a third machine, A100 (PCIe 4, four
cards as fast as two: under switches), have one vote beside theirs: a class's share is the geometric mean
of its machines, that of a host which is not known the mean of all three.
No peer access: rates that hosts reach by the lane rate of a card; launch and step by logs of small messages.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from meshwise.cost.uncertainty import INHERITED_HALF_WIDTH

Array = NDArray[np.float64]
CATALOG = Path(__file__).parents[1] / "src/meshwise/catalog/collectives"
COMMAND = "python tools/fit_hosts.py collectives.csv"
LANES = {"pcie3": 15.75e9, "pcie4": 31.5e9, "pcie5": 63e9}
ROUNDS = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1}
CARDS = (2, 4, 8)
# Whose cards hang under what.
SWITCH, ROOT = "aic-nccl-rtx", "aic-nccl-l40s"
# MooreThreads/SimuMax configs/system/a100_pcie.json: what all_reduce, all_gather and reduce_scatter reach
# on 2, 4 and 8 cards, of 30 GB/s.
A100_SHARES = {
    2: (0.6965, 0.6866, 0.6419),
    4: (0.6924, 0.6915, 0.6845),
    8: (0.4176, 0.4497, 0.3688),
}
A100_OF, A100_LANES = 30.0, 31.5
# Sources without peer access: bus bandwidth of the largest messages [GB/s] and lane rate of one card.
HOSTS = {
    "RTX 2080 Ti x 2, PCIe 3 (Anthony-Hoo/Anthony-Hoo.github.io)": [(4.0, 15.75)],
    "RTX 4090 x 2 and x 4, PCIe 4 (kalavai-net/kalavai-client)": [
        (2.24, 31.5),
        (3.85, 31.5),
        (2.59, 31.5),
        (2.59, 31.5),
    ],
    "RTX 2080 Ti, 4 in each of 8 nodes, PCIe 3 (dexhunter/allreduce-experiments)": [(5.51, 15.75)],
    "H100 x 4, PCIe 5, P2P disabled (eugenesiow/LLM-Insights)": [(24.27, 63.0)],
}
# Isotonic in the lane rate: the geometric means by source of PCIe 3 (4.0, 5.51) and PCIe 4 (2.74) come
# to one rate, 3.6 GB/s, told apart by a tenth power of the lane rate so that a faster slot is faster.
# One share of the lanes for all of them would give PCIe 4 twice as much: then four RTX 3090 and two A10G
# gain from TP what nobody saw there (vllm-project/vllm issue 6955, NVIDIA/TensorRT-LLM issue 1875).
MEMORY_RATES = [[15.75e9, 3.46e9], [31.5e9, 3.71e9], [63e9, 24.27e9]]
# What the one machine with all operations reaches in them, over its all_reduce (RTX 2080 Ti x 2).
HOST_OPS = {"all_to_all": 4.61 / 4.0, "broadcast": 11.09 / 4.0}
PULL, NOISE = 0.3, 0.1
START = {
    "launch_s": 4e-6,
    "step_s": 1.2e-6,
    "ramp": 0.3,
    "peers_launch_s": 6e-6,
    "peer_s": 0.6e-6,
    "peers": 1.0,
    "two": 0.62,
    "switch_4": 0.41,
    "switch_8": 0.38,
    "root_4": 0.165,
    "root_8": 0.055,
}


class Rows:
    """Columns of the rows of some logs."""

    def __init__(self, table: Sequence[dict[str, str]]) -> None:
        self.log = np.array([r["id"].rpartition("/")[0] for r in table])
        self.op = np.array([r["op"].replace("alltoall", "all_to_all") for r in table])
        self.ranks = np.array([int(r["ranks"]) for r in table])
        self.bytes = np.array([float(r["bytes"]) for r in table])
        self.seconds = np.array([float(r["time_us"]) * 1e-6 for r in table])
        self.lanes = np.array([LANES[r["intra_node"][:5]] for r in table])


def seconds(c: dict[str, float], rows: Rows, share: Array) -> Array:
    """The form, of rows whose hosts have that share."""
    n = rows.ranks
    rounds = np.array([ROUNDS.get(op, 0) for op in rows.op])
    apart = rows.op == "all_to_all"
    steps = np.where(
        apart,
        c["peers_launch_s"] + c["peer_s"] * (n - 1),
        c["launch_s"] + c["step_s"] * np.maximum(rounds, 1) * (n - 1),
    )
    sent = (
        np.where(rounds > 0, rounds * (n - 1) / n, np.where(apart, (n - 1) / n, 1.0)) * rows.bytes
    )
    wire = sent / (share * rows.lanes * np.where(apart, c["peers"], 1.0))
    return np.asarray(steps + wire + 2 * c["ramp"] * np.sqrt(steps * wire))


def shares(c: dict[str, float], rows: Rows) -> Array:
    """Of hosts with peer access."""
    by = {(kind, 2): c["two"] for kind in ("switch", "root")}
    by |= {(kind, n): c[f"{kind}_{n}"] for kind in ("switch", "root") for n in (4, 8)}
    kinds = np.where(rows.log == SWITCH, "switch", "root")
    return np.array([by[str(k), int(n)] for k, n in zip(kinds, rows.ranks, strict=True)])


def fit(
    model: Callable[[dict[str, float]], Array], start: dict[str, float], rows: Rows
) -> dict[str, float]:
    names, centre = list(start), np.log(list(start.values()))

    def residuals(x: Array) -> Array:
        found = model(dict(zip(names, np.exp(x), strict=True)))
        return np.concatenate([np.log(found / rows.seconds), PULL * (x - centre)])

    x = least_squares(residuals, centre, loss="soft_l1", f_scale=NOISE).x
    return {k: float(f"{v:.3g}") for k, v in zip(names, np.exp(x), strict=True)}


def quality(found: Array, rows: Rows) -> list[str]:
    error = found / rows.seconds - 1
    size = np.abs(error)
    return [
        f"points = {len(size)}",
        f"median_error = {np.median(size):.4g}",
        f"mean_error = {np.mean(size):.4g}",
        f"p90_error = {np.quantile(size, 0.9):.4g}",
        f"bias = {np.median(error):.4g}",
        f"bytes_range = [{int(rows.bytes.min())}, {int(rows.bytes.max())}]",
    ]


def fits_of(model: Callable[[Rows], Array], table: Sequence[dict[str, str]]) -> list[str]:
    lines: list[str] = []
    for op in dict.fromkeys(Rows(table).op):
        rows = Rows([r for r in table if r["op"].replace("alltoall", "all_to_all") == op])
        lines += ["", f"[nccl.{op}.fit]", *quality(model(rows), rows)]
    return lines


def head(fabric: str, source: str) -> list[str]:
    return [f'fabric = "{fabric}"', f'source = "{source}"', f'command = "{COMMAND}"']


def ring(c: dict[str, float]) -> list[str]:
    entry = (
        f'{{name = "", launch_s = {c["launch_s"]:.4g}, step_s = {c["step_s"]:.4g},'
        f" efficiency = 1.0, ramp = {c['ramp']:.4g}}}"
    )
    return ["", "[nccl.ring]", f"protocols = [{entry}]"]


def to_peers(c: dict[str, float]) -> list[str]:
    entry = (
        f'{{name = "", launch_s = {c["peers_launch_s"]:.4g}, peer_s = {c["peer_s"]:.4g},'
        f" efficiency = {c['peers']:.4g}, ramp = {c['ramp']:.4g}}}"
    )
    return ["", "[nccl.all_to_all.direct]", f"protocols = [{entry}]"]


def peer_access(table: Sequence[dict[str, str]]) -> tuple[list[str], float]:
    rows = [r for r in table if r["id"].rpartition("/")[0] in (SWITCH, ROOT)]
    every = Rows(rows)
    c = fit(lambda c: seconds(c, every, shares(c, every)), START, every)
    votes = {
        "switch": [
            [c["two"], c["switch_4"], c["switch_8"]],
            [float(np.mean(A100_SHARES[n])) * A100_OF / A100_LANES for n in CARDS],
        ],
        "root": [[c["two"], c["root_4"], c["root_8"]]],
    }
    machines = np.log([vote for own in votes.values() for vote in own])
    mean = machines.mean(axis=0)
    share = {kind: np.exp(np.log(own).mean(axis=0)) for kind, own in votes.items()}
    share["unknown"] = np.exp(mean)
    for own in share.values():
        own[0] = share["unknown"][0]  # two cards are alike in all
    # the furthest machine lies at the end of the interval
    apart = np.abs(machines - mean).max(axis=0)
    apart[0] = 0.0
    lines = head(
        "pcie",
        "NCCL on 2, 4 and 8 cards with peer access: aiconfigurator-core 0.12.0 (Apache-2.0),"
        " systems/data: RTX PRO 6000 Blackwell under PCIe switches (rtx_pro_6000_server, nccl 2.29.2),"
        " L40S under root ports of two sockets (l40s, nccl 2.27.3); shares of A100 too, under switches"
        " (MooreThreads/SimuMax configs/system/a100_pcie.json). A class, and a host that is not known: the"
        " geometric mean of its machines",
    )
    lines += ["", "# share of one card's lane rate that each of so many cards gets, by host"]
    lines += ["[hosts]", f"cards = {list(CARDS)}"]
    lines += [f"{k} = {[float(f'{v:.3g}') for v in own]}" for k, own in share.items()]
    units = [float(f"{v / INHERITED_HALF_WIDTH:.3g}") for v in apart]
    lines += [
        "# doubt, in units of what another fabric's constants have: of a host that is not known, the machine",
        "# furthest off lies at the end of its interval; of a known one, which rests on one or two",
        f"lent_unknown = {units}",
        f"lent_known = {[float(n > 2) for n in CARDS]}",
    ]
    lines += ring(c) + to_peers(c)
    lines += fits_of(lambda r: seconds(c, r, shares(c, r)), rows)
    for log, other in ((SWITCH, ROOT), (ROOT, SWITCH)):
        own = Rows([r for r in rows if r["id"].startswith(other)])
        left = Rows([r for r in rows if r["id"].startswith(log)])
        apart_c = fit(lambda c, own=own: seconds(c, own, shares(c, own)), START, own)
        mixed = {k: v for k, v in apart_c.items() if k in ("launch_s", "step_s", "ramp", "peers")}
        mixed |= {k: v for k, v in apart_c.items() if k.startswith("peer")}
        error = np.abs(seconds(c | mixed, left, shares(c, left)) / left.seconds - 1)
        print(f"{log}: latencies of the other machine: median {np.median(error):.3f}")
    return lines, c["ramp"]


def no_peer_access(table: Sequence[dict[str, str]], ramp: float) -> list[str]:
    """Shares by source; launch and step of logs whose rate is their own."""
    votes = np.array([np.mean([np.log(a / b) for a, b in runs]) for runs in HOSTS.values()])
    doubt = 1.645 * votes.std(ddof=1) * np.sqrt(1 + 1 / len(votes))
    rows = [r for r in table if "no P2P" in r["intra_node"] and int(r["nodes"] or 1) == 1]
    every = Rows(rows)
    series = np.array([f"{log}" for log in every.log])
    names = list(dict.fromkeys(series))
    start = {"launch_s": 4e-6, "step_s": 2.7e-6, "peers_launch_s": 6e-6, "peer_s": 2.7e-6}
    fixed = {"ramp": ramp, "peers": 1.0}

    def model(c: dict[str, float]) -> Array:
        own = np.array([c[f"share {s}"] for s in series])
        return seconds(c | fixed, every, own)

    c = fit(model, start | {f"share {s}": 0.2 for s in names}, every)
    machines = "; ".join(
        f"{name}: " + ", ".join(f"{a / b:.2f}" for a, b in runs) for name, runs in HOSTS.items()
    )
    lines = head(
        "pcie-no-p2p",
        f"bus bandwidth over the lane rate of one card, nccl-tests logs: {machines}. Up to PCIe 4 the"
        " logs do not rise with the lanes (isotonic fit of the geometric means by source: 3.6 GB/s), so"
        " rates take a tenth power of the lane rate there; the PCIe 5 server stands alone; between them"
        " rates follow a power of the lane rate, beyond them a share of it. Launch and step by the logs of"
        " one node",
    )
    lines += [f"lent = {doubt / INHERITED_HALF_WIDTH:.4g}"]
    lines += ["", "# lane rate of one card, bus bandwidth of all_reduce [bytes/s]", "[hosts]"]
    lines += [f"memory_rates = {MEMORY_RATES}"]
    found = c | fixed
    lines += ring(found) + to_peers(found | {"peers": HOST_OPS["all_to_all"]})
    entry = (
        f'{{name = "", launch_s = {c["launch_s"]:.4g}, step_s = {c["step_s"]:.4g},'
        f" efficiency = {HOST_OPS['broadcast']:.4g}, ramp = {ramp:.4g}}}"
    )
    lines += ["", "[nccl.broadcast.chain]", f"protocols = [{entry}]"]

    def shipped(r: Rows) -> Array:
        more = np.array(
            [HOST_OPS["broadcast"] if op in ("broadcast", "reduce") else 1.0 for op in r.op]
        )
        peers = found | {"peers": HOST_OPS["all_to_all"]}
        reached = {lanes: rate / lanes for lanes, rate in MEMORY_RATES}
        return seconds(peers, r, np.array([reached[lanes] for lanes in r.lanes]) * more)

    return lines + fits_of(shipped, [r for r in rows if r["op"] != "reduce"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit collectives over PCIe to measured tables.")
    parser.add_argument("table", type=Path, help="collectives.csv")
    with parser.parse_args().table.open(newline="", encoding="utf-8") as lines:
        table = list(csv.DictReader(lines))
    peers, ramp = peer_access(table)
    for name, text in (("pcie", peers), ("pcie-no-p2p", no_peer_access(table, ramp))):
        (CATALOG / f"{name}.toml").write_text("\n".join(text) + "\n")
        print(*text, "", sep="\n")


if __name__ == "__main__":
    main()
