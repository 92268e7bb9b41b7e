"""Logs of nccl-tests as they meet a reader: versions, tags, other lines, cut short."""

from __future__ import annotations

import pytest

from meshwise.errors import InputError
from meshwise.evidence.readers.collectives.nccl_log import Log, read_log
from meshwise.evidence.tables import is_log

NEW = """\
# nccl-tests version 2.17.9 nccl-headers=22903 nccl-library=22903
# Collective test starting: all_reduce_perf
# nThread 1 nGpus 1 minBytes 8 maxBytes 8589934592 step: 2(factor) warmup iters: 5 iters: 20
# Using devices
#  Rank  0 Group  0 Pid   2574 on node-0 device  0 [0000:0f:00] NVIDIA H100 80GB HBM3
#  Rank  1 Group  0 Pid   2575 on node-1 device  0 [0000:0f:00] NVIDIA H100 80GB HBM3
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw  #wrong     time   algbw   busbw  #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)             (us)  (GB/s)  (GB/s)
           0             0     float     sum      -1     1.63    0.00    0.00       0     1.38    0.00    0.00       0
        8192          2048     float     sum      -1    35.15    0.23    0.23       0    30.33    0.27    0.27       0
  1073741824     268435456     float     sum      -1  10887.4   98.62   98.62       0  10867.5   98.80   98.80       0
     1310
# Out of bounds values : 0 OK
"""
# before 2022: no root, an error in place of #wrong; validation off
OLD = """\
# nThread 1 nGpus 8 minBytes 1 maxBytes 8589934592 step: 2(factor) warmup iters: 5 iters: 20 validation: 0
#   Rank  0 Pid 167261 on localhost device  0 [0x00] A100-SXM4-40GB
#   Rank  1 Pid 167261 on localhost device  1 [0x00] A100-SXM4-40GB
#       size         count    type   redop     time   algbw   busbw  error     time   algbw   busbw  error
        1024            32   float            88.17    0.01    0.01    N/A    88.98    0.01    0.01    N/A
     1048576        262144   float     sum   6857.6    0.15    0.29  5e-07   5065.8    0.21    0.39  5e-07
"""
ROOT = """\
#       size         count    type    root     time   algbw   busbw  error     time   algbw   busbw  error
           8             2   float       0    45.82    0.00    0.00    N/A    38.17    0.00    0.00    N/A
    67108864      16777216   float       0   1000.0   67.11   67.11    N/A    998.0   67.24   67.24    N/A
"""
SHORT = """\
size count type time algbw busbw
67108864 16777216 half 1000.0 67.11 117.4
"""


def read(text: str) -> Log:
    assert is_log(text)
    return read_log(text, "a.log", "measured")


def test_a_new_log() -> None:
    log = read(NEW)
    assert (log.ranks, log.hosts, log.device) == (2, 2, "h100-80gb-sxm")
    assert [(r.bytes, r.op, r.dtype) for r in log.rows] == [
        (8192.0, "all_reduce", "float"),
        (1073741824.0, "all_reduce", "float"),
    ]
    assert [r.time_s for r in log.rows] == pytest.approx([35.15e-6, 10887.4e-6])
    assert log.rows[0].bus_factor is None  # two decimals of 0.23 tell nothing
    assert log.rows[1].bus_factor == pytest.approx(1.0)


@pytest.mark.parametrize(
    "tag", ["", "[1,0]<stdout>:", "0: ", "    ", "2024-04-29T18:41:24.123456Z "]
)
def test_tags_before_the_lines(tag: str) -> None:
    tagged = "".join(f"{tag}{line}\n" for line in NEW.splitlines())
    tagged = tagged.replace(
        "\n", "\nnode-0:21:21 [0] NCCL INFO Bootstrap : Using eth0:192.0.2.1<0>\n"
    )
    assert [r[1:] for r in read(tagged).rows] == [r[1:] for r in read(NEW).rows]


def test_an_old_log() -> None:
    log = read(OLD)
    assert (log.ranks, log.hosts, log.device) == (2, 1, "a100-40gb-sxm")
    assert [r.time_s for r in log.rows] == pytest.approx([88.17e-6, 6857.6e-6])
    assert {r.op for r in log.rows} == {None}


def test_the_root_is_no_time() -> None:
    log = read(ROOT)
    assert [r.time_s for r in log.rows] == pytest.approx([45.82e-6, 1e-3])
    assert (log.ranks, log.hosts, log.device) == (None, None, None)


def test_eight_columns_will_do() -> None:
    log = read(SHORT)
    assert [(r.bytes, r.dtype) for r in log.rows] == [(67108864.0, "half")]
    assert log.rows[0].bus_factor == pytest.approx(1.75, rel=1e-3)


def test_several_operations_in_one_log() -> None:
    log = read(NEW + NEW.replace("all_reduce_perf", "alltoall_perf").replace("sum", "none"))
    assert [r.op for r in log.rows] == ["all_reduce"] * 2 + ["all_to_all"] * 2


@pytest.mark.parametrize(
    "text, why",
    [
        ("", "no line of figures"),
        (OLD.split("     1048576")[0].split("        1024")[0], "no line of figures"),
        (NEW.replace("node-1", "node-0"), "several ranks ran on one device"),
    ],
)
def test_what_is_no_system(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why) as caught:
        read_log(text, "a.log", "measured")
    assert caught.value.field == "measured"


def test_hosts_of_one_name_are_told_apart_by_their_processes() -> None:
    """Names that somebody shortened: a launcher's ranks on one host have process ids near each other."""
    one_name = NEW.replace("node-1", "node-0").replace("Pid   2575", "Pid 181511")
    log = read(one_name)
    assert (log.ranks, log.hosts) == (2, 2)
    more = one_name.replace(
        "# Using devices",
        "# Using devices\n#  Rank  2 Group  0 Pid   2576 on node-0 device  1 [0000:1f:00] NVIDIA H100 80GB HBM3",
    )
    assert (read(more).ranks, read(more).hosts) == (3, 2)


def test_figures_that_do_not_agree_are_not_read() -> None:
    wrong = NEW.replace("98.62   98.62", "12.00   12.00")
    assert [r.bytes for r in read(wrong).rows] == [8192.0]
