"""Which all_reduce algorithm wins at which size, inside a node and across two, as a table."""

import meshwise as mw

SIZES = [4 << 10, 64 << 10, 1 << 20, 16 << 20, 256 << 20]
cluster = mw.cluster("hgx-h100")

print(f"{'bytes':>11}  {'8 ranks, one node':32}  16 ranks, two nodes")
for size in SIZES:
    cells = []
    for ranks in (8, 16):
        r = mw.collective("all_reduce", size, cluster, ranks, stack="vllm").to_dict()
        busbw = r["busbw_bytes_per_s"] / 1e9
        cells.append(f"{r['algorithm']:13} {r['time_s'] * 1e6:8.1f} µs {busbw:6.1f} GB/s")
    print(f"{size:>11,}  {cells[0]:32}  {cells[1]}")
