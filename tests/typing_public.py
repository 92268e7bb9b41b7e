"""What a type checker says of code that uses meshwise: checked by test_typing, not run."""

from typing import reveal_type

import meshwise as mw

model, cluster = mw.model("gpt2"), mw.cluster("dgx-a100")
training, serving = mw.Training(batch=8, seq=512), mw.Serving(isl=128, osl=16, concurrency=4)

# plan: what it answers follows from its workload
planned = mw.plan(model, cluster, training, gpus=2, tp=[1, 2], recompute="full", free=["dtype"])
reveal_type(planned)  # R: meshwise.answers.plan.PlanResult
reveal_type(planned.best)  # R: meshwise.answers.records.attributes.Record | None
served = mw.plan(model, cluster, serving, gpus=2, tp=1, tpot_s=0.05, objective="latency")
reveal_type(served)  # R: meshwise.answers.plan_serving.ServingPlanResult
apart = mw.plan(model, cluster, serving, gpus=2, tpot_s=0.05, ttft_s=1.0, disaggregated=True)
reveal_type(apart.disaggregated)  # R: meshwise.answers.records.attributes.Record | None
mw.plan(model, cluster, training, tpot_s=0.05)  # E: call-overload
mw.plan(model, cluster, serving, recompute="full")  # E: call-overload
mw.plan(model, cluster, serving, objective="mfu")  # E: call-overload

# one layout: its axes are typed
priced = mw.estimate("gpt2", "dgx-a100", training, tp=2, dp=4, shard="zero1", micro_batch=1)
reveal_type(priced.step_s)  # R: float
reveal_type(priced.fits)  # R: bool
reveal_type(priced.layout)  # R: meshwise.answers.records.attributes.Record
reveal_type(priced.remarks)  # R: list[str]
reveal_type(priced.rows())  # R: list[dict[str, object]]
print(priced.step_ms)  # E: attr-defined
mw.estimate("gpt2", "dgx-a100", training, tp="2")  # E: arg-type
mw.estimate("gpt2", "dgx-a100", training, tpp=2)  # E: call-arg
mw.estimate("gpt2", "dgx-a100", training, shard="zero4")  # E: arg-type
mw.serve("gpt2", "dgx-a100", serving, micro_batch=1)  # E: call-arg
reveal_type(mw.serve("gpt2", "dgx-a100", serving, tp=2).tpot_s)  # R: float

# curves
curve = mw.scale(model, cluster, training, tp=[1, 2])
reveal_type(curve.limit.tp)  # R: int
reveal_type(curve.points[0].layer.comm_s)  # R: float
if curve.fastest is not None:
    reveal_type(curve.fastest.tp)  # R: int
reveal_type(mw.grow(model, cluster, training, [1, 2], tp=1).mode)  # R: str
mw.scale(model, cluster, serving)  # E: arg-type
mw.scale(model, cluster, training, objective="fast")  # E: arg-type

# parts
dense = mw.Model.dense(layers=2, hidden=64, heads=4, ffn=256, vocab=100)
reveal_type(dense)  # R: meshwise.models.shapes.Model
mw.Model.dense(layers=2, hidden=64, heads=4, vocab=100)  # E: call-arg
mw.Model.moe(layers=2, hidden=64, heads=4, vocab=100, experts="8")  # E: call-arg, arg-type
reveal_type(mw.Device.of("mine", like="h100-80gb-sxm"))  # R: meshwise.clusters.cluster.Device
reveal_type(mw.Level.of(8, fabric="ib-ndr"))  # R: meshwise.clusters.cluster.Level
reveal_type(mw.describe("gpt2").parameters)  # R: int
sent = mw.collective("all_reduce", "1MB", "dgx-a100", 8)
reveal_type(sent.time_s)  # R: float
reveal_type(sent.candidates)  # R: list[meshwise.answers.records.attributes.Record]
