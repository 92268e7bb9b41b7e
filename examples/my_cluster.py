"""A cluster of your own in a TOML file: what its fabric carries, and how far TP goes on it."""

from pathlib import Path

import meshwise as mw

cluster = mw.cluster(str(Path(__file__).with_name("my_cluster.toml")))
print(f"{cluster.title}: {cluster.devices} × {cluster.device.title}")

below = 1
for level in cluster.levels:
    rate = level.per_device_bytes_per_s(below)
    print(
        f"  {level.name:7} {level.ranks} × {level.fabric}: {rate / 1e9:.2f} GB/s per device and direction"
    )
    below *= level.ranks

answer = mw.scale(mw.model("llama-3.1-8b"), cluster, mw.Decode(batch=16, context=4096))
for p in answer.points:
    print(f"  TP={p.tp}: {p.step_s * 1e3:6.2f} ms per token, {p.comm_share:4.0%} communication")
print(answer.verdict)
