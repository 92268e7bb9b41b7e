"""The question in five lines: how far does tensor parallelism scale for this model on this cluster?"""

import meshwise as mw

answer = mw.scale(mw.model("gpt3-175b"), mw.cluster("dgx-a100"), mw.Training(batch=32, seq=2048))
for p in answer.points:
    print(f"TP={p.tp:<3} {p.comm_share:6.1%} communication {p.efficiency:6.1%} efficiency")
print(answer.verdict)
