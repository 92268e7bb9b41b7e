"""What a virtual stage's messages cost where they run beside another stage's work."""

from __future__ import annotations

import meshwise as mw


def transfers(vp: int, stack: mw.Stack) -> float:
    """Exposed seconds of the transfers between stages over a step."""
    e = mw.estimate(
        mw.model("llama-2-7b"),
        mw.cluster("hgx-h100", nodes=1),
        mw.Training(batch=16, seq=2048),
        stack=stack,
        tp=4,
        pp=2,
        vp=vp,
        sequence_parallel=True,
        micro_batch=1,
    )
    rows = e.to_dict()["communication"]
    return sum(float(r["exposed_s"]) for r in rows if r["axis"] == "pp")


def test_each_chunk_pays_the_start_of_its_messages():
    exposed = {vp: transfers(vp, mw.stack("megatron-core")) for vp in (2, 4, 8, 16)}
    # per microbatch and chunk one message each way; NVLink's smallest takes microseconds
    for vp, seconds in exposed.items():
        each = seconds / (16 * 2 * vp)
        assert 1e-6 < each < 1e-4
    assert exposed[16] > 7.9 * exposed[2]


def test_overlap_hides_no_more_than_all_but_the_start():
    hidden, bare = (
        transfers(8, mw.stack("megatron-core", overlap_pipeline=on)) for on in (True, False)
    )
    assert 0.2 * bare < hidden < bare
