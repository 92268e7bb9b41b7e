"""``serve`` of two pools, prefill and decode on GPUs of their own: what differs from one layout's answer."""

from __future__ import annotations

from typing import cast

from meshwise.answers.records.attributes import Key, Record
from meshwise.answers.records.layout import goodput_keys, token_price
from meshwise.answers.serve import ServeFigures, ServeRecord, ServeResult
from meshwise.answers.simulated import run_record
from meshwise.answers.text.sentences import wrap
from meshwise.answers.text.serving import serving_mesh_words
from meshwise.answers.text.tables import Page
from meshwise.clusters.load import Cluster
from meshwise.models.shapes import Model
from meshwise.search.serving.pools import ServedPools
from meshwise.search.serving.runs.lengths import with_lengths
from meshwise.search.serving.runs.room import ServerRoom
from meshwise.search.serving.runs.trial import good_shares
from meshwise.stacks.stack import Stack
from meshwise.units import format_gpus, format_memory, format_time
from meshwise.workloads.limits import LatencyLimit
from meshwise.workloads.serving import Serving


class PoolsResult(ServeResult):
    """Two pools under a load: what requests see of both, the decode pool's layout and memory."""

    disaggregated = Key[Record]("Both pools' layouts and numbers, the transfer between them.")

    def __init__(
        self,
        model: Model,
        cluster: Cluster,
        stack: Stack,
        w: Serving,
        found: ServedPools,
        room: ServerRoom,
        limits: tuple[LatencyLimit, ...] = (),
        price_per_device_hour: float | None = None,
    ) -> None:
        w = with_lengths(w, found.run.arrivals)
        super().__init__(
            *(model, cluster, stack, found.apart.decode, w, found.decode, found.run),
            *(room, limits, price_per_device_hour),
        )
        self.found = found

    @property
    def devices(self) -> int:
        """GPUs of all instances."""
        return self.found.apart.devices

    @property
    def prefill_s(self) -> float:
        """One prompt alone on a prefill instance [s]."""
        return float(self.found.prefill.prefill_s)

    @property
    def max_concurrency(self) -> int:
        """Requests whose keys and values the decode pool's memory holds."""
        return int(self.found.decode.max_concurrency) * self.found.apart.decode_instances

    def to_dict(self) -> ServeRecord:
        record, found, apart = super().to_dict(), self.found, self.found.apart
        own: ServeFigures = {
            "tokens_per_s_per_device": self.tokens_per_s_per_device,
            "prefill_s": self.prefill_s,
            "running": record["running"] * apart.decode_instances,
            "max_concurrency": self.max_concurrency,
        }
        figures, limits, price = (
            found.run.steady,
            self.served.limits,
            self.served.price_per_device_hour,
        )
        rates = figures.requests_per_s, figures.tokens_per_s, apart.devices
        good = good_shares(figures, limits) if limits else None
        costs = {**goodput_keys(good, *rates), **token_price(price, apart.devices, rates[1])}
        own = cast("ServeFigures", {**own, **costs})
        rows = [{**row, **own, "devices": apart.devices} for row in record["points"]]
        pools = {
            "devices": apart.devices,
            "run": run_record(found.run, apart.devices),
            "averages": found.averages._asdict(),
            "disaggregated": _pools(found),
            "points": rows,
        }
        return cast("ServeRecord", {**record, **own, **pools})

    def page(self) -> Page:
        page, apart, t = super().page(), self.found.apart, self.found.transfers
        words = (
            f"Disaggregated: {apart.prefill_instances} × prefill ({serving_mesh_words(apart.prefill)}) and "
            f"{apart.decode_instances} × decode ({serving_mesh_words(apart.decode)}), "
            f"{format_gpus(apart.devices)} in all; memory is that of a decode instance. Keys and values of a "
            f"prompt, {format_memory(self.found.transfer_bytes)} of the longest, take "
            f"{format_time(t.moved_s.mean)} to the decode pool ({format_time(self.found.transfer_s)} where no "
            f"other is under way), of its TTFT; then a request waits {format_time(t.waited_s.mean)} for its place."
        )
        tables, rest = page.parts[:1], page.parts[1:]
        return page._replace(parts=(*tables, wrap(words), *rest))


def _pools(found: ServedPools) -> dict[str, object]:
    apart, t = found.apart, found.transfers
    return {
        "prefill": apart.prefill.record() | {"devices": apart.prefill.devices},
        "decode": apart.decode.record() | {"devices": apart.decode.devices},
        "prefill_instances": apart.prefill_instances,
        "decode_instances": apart.decode_instances,
        "devices": apart.devices,
        "transfer_bytes": found.transfer_bytes,
        "transfer_s": found.transfer_s,
        "moved_s": t.moved_s.mean,
        "moved_p99_s": t.moved_s.p99,
        "decode_queue_s": t.waited_s.mean,
        "decode_queue_p99_s": t.waited_s.p99,
    }
