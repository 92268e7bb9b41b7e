"""``estimate``: one layout in full: times of a step, communication by axis, memory by part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshwise.answers.records import SCHEMA
from meshwise.answers.records.attributes import Key, Record
from meshwise.answers.records.cluster import cluster_record, stack_record
from meshwise.answers.records.evidence import PublishedMfu, evidence_record, published_mfu
from meshwise.answers.records.result import Placed
from meshwise.answers.records.step import EstimateRecord
from meshwise.answers.text import words
from meshwise.answers.text.evidence import evidence_lines, fits_words, mfu_words
from meshwise.answers.text.sentences import (
    cluster_words,
    remark_lines,
    training_words,
    workload_words,
    wrap,
)
from meshwise.answers.text.tables import Page, Table
from meshwise.answers.text.tp import shard_words, smallest_fit_words
from meshwise.answers.text.training import memory_table
from meshwise.search.one_layout import Report
from meshwise.search.tp_curve.remarks import degree_remarks
from meshwise.search.tp_curve.smallest_mesh import smallest_fit
from meshwise.units import format_bytes, format_gpus, format_memory, format_time
from meshwise.workloads.workload import to_dict as workload_dict

if TYPE_CHECKING:
    from meshwise.answers.explain import ExplainRecord


class EstimateResult(Placed):
    """One layout in full: times of one step [s], memory of the fullest device [bytes]."""

    ROWS = "communication"
    formats = Key[Record]("Number formats of weights, activations, gradients, cache.")
    layout = Key[Record]("The layout's degrees and switches.")
    wire_bytes = Key[tuple[float, ...]]("Sent by one device, per fabric level [bytes].")
    payload_bytes = Key[float]("Sizes of the collectives, as NCCL counts them [bytes].")
    ccr = Key[float | None]("Compute over communication.")
    memory = Key[Record]("Of the fullest device, by part [bytes].")
    loss_bytes = Key[float]("Of the loss, for a moment [bytes].")
    reserved_bytes = Key[float]("Training: what the framework's allocator reserves [bytes].")
    device_bytes = Key[float]("Training: what the device reports as used [bytes].")
    straggler_s = Key[float]("Waiting for the slowest rank [s].")
    launch_s = Key[float]("Kernels that the host starts late [s].")
    communication = Key[list[Record]]("By axis: seconds, hidden and not, and bytes.")
    provenance = Key[Record]("What the step's seconds rest on, as shares.")
    extrapolated = Key[bool]("Whether any of it is of other hardware or beyond what was measured.")
    memory_low_bytes = Key[float]("Lower end of the memory's 90 % interval [bytes].")
    memory_high_bytes = Key[float]("Upper end [bytes].")
    evidence = Key[Record | None]("Which published runs are near: ``tier``, ``runs``, ``nearest``.")
    best_published_mfu = Key[Record | None](
        "``mfu`` and ``id`` of the device's best published row."
    )
    remarks = Key[list[str]]("What to know of the answer.")

    def __init__(self, full: Report) -> None:
        self.report = full

    @property
    def step_s(self) -> float:
        """Time of a step [s]."""
        return float(self.report.step_s)

    @property
    def step_low_s(self) -> float:
        """Lower end of the step's 90 % interval [s]."""
        return float(self.report.step_low_s)

    @property
    def step_high_s(self) -> float:
        """Upper end of the step's 90 % interval [s]."""
        return float(self.report.step_high_s)

    @property
    def compute_s(self) -> float:
        """Computing [s]."""
        return float(self.report.compute_s)

    @property
    def comm_s(self) -> float:
        """All communication, hidden or not [s]."""
        return float(self.report.comm_s)

    @property
    def exposed_comm_s(self) -> float:
        """Communication that nothing hides [s]."""
        return float(self.report.exposed_comm_s)

    @property
    def bubble_s(self) -> float:
        """Waiting in the pipeline [s]."""
        return float(self.report.bubble_s)

    @property
    def host_s(self) -> float:
        """What the host adds [s]."""
        return float(self.report.host_s)

    @property
    def comm_share(self) -> float:
        """Exposed communication over the step."""
        return float(self.report.comm_share)

    @property
    def mfu(self) -> float:
        """Model FLOPs over the peak (PaLM, arXiv 2204.02311, appendix B)."""
        return self.report.mfu

    @property
    def hfu(self) -> float:
        """Computed FLOPs, recomputation with them, over the peak."""
        return self.report.hfu

    @property
    def tokens_per_s_per_device(self) -> float:
        """Tokens per second of one device."""
        return float(self.report.tokens_per_s_per_device)

    @property
    def memory_bytes(self) -> float:
        """Of the fullest device [bytes]."""
        return float(self.report.memory_bytes)

    @property
    def memory_limit_bytes(self) -> float:
        """What a device has for it [bytes]."""
        return float(self.report.estimate.memory_limit_bytes)

    @property
    def fits(self) -> bool:
        """Whether the memory suffices."""
        return bool(self.report.fits)

    @property
    def tight(self) -> bool:
        """Whether the limit lies within the memory's error: ``fits`` may be wrong."""
        return bool(self.report.tight)

    @property
    def devices(self) -> int:
        """GPUs of the layout."""
        return int(self.report.devices)

    def to_dict(self) -> EstimateRecord:
        return estimate_record(self.report)

    def explain(self) -> ExplainRecord:
        """The program of operations, priced."""
        from meshwise.answers.explain import explain_record

        return explain_record(self.report, self.to_dict())

    def page(self) -> Page:
        return estimate_page(self.report)

    def explain_page(self) -> Page:
        """The same as a page."""
        from meshwise.answers.explain import explain_page

        return explain_page(self.report)


def estimate_record(r: Report) -> EstimateRecord:
    """The JSON of one layout."""
    e = r.estimate
    return {
        "schema": SCHEMA,
        "model": e.model.name,
        "cluster": cluster_record(e.cluster),
        "workload": workload_dict(e.workload),
        "formats": e.program.ctx.widths._asdict(),
        "stack": stack_record(e.stack),
        "layout": {
            **e.layout.at(0).record(e.stack.overlaps.overlap),
            "micro_batch": int(e.program.ctx.sequences),  # in inference all that are in flight
        },
        "devices": r.devices,
        # seconds
        "step_s": r.step_s,
        "step_low_s": r.step_low_s,
        "step_high_s": r.step_high_s,
        "compute_s": r.compute_s,
        "comm_s": r.comm_s,
        "exposed_comm_s": r.exposed_comm_s,
        "bubble_s": r.bubble_s,
        "host_s": r.host_s,
        # communication, and shares
        "wire_bytes": r.wire_bytes,
        "payload_bytes": r.payload_bytes,
        "comm_share": r.comm_share,
        "ccr": r.ccr,
        "mfu": r.mfu,
        "hfu": r.hfu,
        "tokens_per_s_per_device": r.tokens_per_s_per_device,
        # the fullest device
        "memory_bytes": r.memory_bytes,
        "memory_low_bytes": r.memory_low_bytes,
        "memory_high_bytes": r.memory_high_bytes,
        "fits": r.fits,
        "tight": r.tight,
        "memory": r.memory,
        "loss_bytes": r.loss_bytes,
        "reserved_bytes": r.reserved_bytes,
        "device_bytes": r.device_bytes,
        "straggler_s": float(e.straggler_s),
        "launch_s": float(e.launch_s),
        "memory_limit_bytes": float(e.memory_limit_bytes),
        # by axis, and what the seconds rest on
        "communication": [row._asdict() for row in r.communication],
        "provenance": {str(source): share for source, share in r.provenance.items()},
        "extrapolated": any(source.beyond_measurement for source in r.provenance),
        "evidence": evidence_record(r.question, e.stack),
        "best_published_mfu": estimate_published_mfu(r),
        "remarks": list(estimate_remarks(r)),
    }


def estimate_published_mfu(r: Report) -> PublishedMfu | None:
    """The best published utilisation of the device, of training steps."""
    if r.estimate.workload.phase != "train":
        return None
    return published_mfu(r.estimate.cluster.device.name, r.estimate.program.ctx.widths.dtype)


def estimate_remarks(r: Report) -> tuple[str, ...]:
    """Of an estimate: what its figures do not say."""
    e, lay = r.estimate, r.estimate.layout
    etp = int(lay.expert_tp())
    return (*degree_remarks(e.model, e.cluster, e.workload, e.stack, int(lay.tp), etp), *r.remarks)


def estimate_line(r: Report) -> str:
    """The step, whether it fits, and what communication takes of it."""
    e = r.estimate
    per = words.PER[e.workload.phase]
    said = [words.time_words(r.step_s, r.step_low_s, r.step_high_s, per)]
    said.append(words.memory_words(r.memory_bytes, e.memory_limit_bytes, r.fits, r.tight))
    if not r.fits:
        parallel = bool(e.layout.sequence_parallel)
        found = smallest_fit(e.model, e.cluster, e.workload, e.stack, parallel)
        said[-1] += (
            f"; for one replica {smallest_fit_words(found, e.cluster.devices, per == 'step')}"
        )
    said.append(words.communication_words(float(r.comm_share)))
    said += shard_words(e.model, e.stack, e.workload.phase, int(e.layout.tp))
    if e.workload.phase == "train":
        said.append(f"MFU {words.percent(r.mfu)}")
    return words.first_line(
        [*said, f"{words.rate_words(r.tokens_per_s_per_device)} tokens/s per GPU"]
    )


# -- the page --------------------------------------------------------------------------------------


def estimate_page(r: Report) -> Page:
    """Times and communication; memory where it decides, else as detail."""
    e = r.estimate
    lay = e.layout
    axes = " ".join(f"{k}={int(getattr(lay, k))}" for k in ("tp", "pp", "vp", "dp", "cp", "ep"))
    axes += f" dcp={int(lay.dcp)}" if int(lay.dcp) > 1 else ""
    axes += " sp" if bool(lay.sequence_parallel) else ""  # also where the software needs it
    heading = wrap(
        f"{e.model.name}: {workload_words(e.workload, int(lay.micro_batch))}\n{e.cluster.name}: {cluster_words(e.cluster)}; "
        f"stack {e.stack.name}{training_words(e.model, e.workload, e.stack)}\nlayout {axes} ({format_gpus(r.devices)})"
    )
    memory = memory_table(r)
    said = (
        *remark_lines(estimate_remarks(r)),
        *evidence_lines(evidence_record(r.question, e.stack)),
        *_mfu_lines(r),
    )
    # what decides: where it does not fit, and where the loss in chunks makes it fit
    held = (memory,) if not r.fits or e.stack.kernels.loss_chunks > 1 else ()
    rest = (*(() if held else (memory,)), _sources(r))
    return Page(heading, (_times(r), _communication(r), *held, *said), estimate_line(r), rest)


def _mfu_lines(r: Report) -> list[str]:
    """The best published utilisation of the device beside that of a training step."""
    if r.estimate.workload.phase != "train" or r.estimate.stack.ideal:
        return []
    return [mfu_words(r.mfu, estimate_published_mfu(r), r.estimate.cluster.device.title)]


def _times(r: Report) -> Table:
    """What a step is made of, on its slowest stage."""
    e = r.estimate
    return Table(
        "Per step, slowest stage",
        ("what", "value"),
        (
            ("step", format_time(r.step_s)),
            *words.interval_row(r.step_s, r.step_low_s, r.step_high_s),
            ("  compute", format_time(r.compute_s)),
            ("  exposed communication", format_time(r.exposed_comm_s)),
            ("  pipeline bubble", format_time(r.bubble_s)),
            ("  host and stragglers", format_time(r.host_s)),
            ("communication busy", format_time(r.comm_s)),
            ("comm share", words.percent(r.comm_share)),
            ("MFU / HFU", f"{words.percent(r.mfu)} / {words.percent(r.hfu)}"),
            ("tokens/s per GPU", f"{r.tokens_per_s_per_device:,.1f}"),
            ("memory per GPU, total", format_memory(r.memory_bytes)),
            ("  usable of the device", format_memory(e.memory_limit_bytes)),
            ("  fits", fits_words(r.fits, r.tight)),
        ),
    )


def _communication(r: Report) -> Table:
    """A row per axis that communicates."""
    return Table(
        "Communication by axis, per step and GPU",
        (
            "axis",
            "group",
            "ranks/level",
            "over",
            "flows/NIC",
            "collectives",
            "payload",
            "wire by level",
            "time",
            "exposed",
        ),
        tuple(
            (
                row.axis,
                str(row.group),
                "×".join(map(str, row.ranks_per_level)),
                row.outermost_level,
                f"{row.flows_per_nic:g}" if row.flows_per_nic is not None else "-",
                ", ".join(f"{n:g} {k}" for k, n in row.collectives.items()),
                format_bytes(row.payload_bytes),
                " + ".join(format_bytes(w) for w in row.wire_bytes),
                format_time(row.time_s),
                format_time(row.exposed_s),
            )
            for row in r.communication
        ),
        frozenset({0, 3, 5}),
        ("group", "time", "exposed"),
    )


def _sources(r: Report) -> Table:
    """What the seconds rest on."""
    return Table(
        "Where the seconds come from",
        ("source", "share"),
        tuple((str(k), words.percent(v)) for k, v in r.provenance.items()),
    )
