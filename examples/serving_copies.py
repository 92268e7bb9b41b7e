"""Which TP degree to serve with: the most tokens/s of eight GPUs at a latency target.

The eight run as 8/TP copies. For each TP degree the batch per copy grows until the step takes longer
than the target or the KV cache does not fit any more.
"""

import meshwise as mw

CONTEXT, GPUS = 4096, 8
model, cluster = mw.model("llama-3.1-8b"), mw.cluster("hgx-h100", nodes=1)


def step(tp: int, batch: int) -> mw.Point:
    return mw.scale(model, cluster, mw.Decode(batch=batch, context=CONTEXT), tp=[tp]).points[0]


print("target      layout     batch/copy  time/token   tokens/s")
for target_s in (0.004, 0.006, 0.010, 0.020, 0.030):
    best = None
    for tp in (1, 2, 4, 8):
        for batch in (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384):
            p = step(tp, batch)
            if not p.fits or p.step_s > target_s:
                break
            copies = GPUS // tp
            rate = copies * p.tokens_per_s
            if best is None or rate > best[0]:
                best = rate, f"{copies} × TP={tp}", batch, p.step_s
    if best is None:
        print(f"{target_s * 1e3:3.0f} ms      none")
        continue
    rate, layout, batch, seconds = best
    print(
        f"{target_s * 1e3:3.0f} ms      {layout:9} {batch:>11} {seconds * 1e3:8.1f} ms {rate:10,.0f}"
    )
