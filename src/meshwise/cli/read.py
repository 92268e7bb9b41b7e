"""``meshwise read``: logs, results and topologies of other tools, as rows of measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import click

from meshwise.cli import output, values
from meshwise.cli.command import CliCommand, Need
from meshwise.cli.given import Given
from meshwise.errors import InputError

_FACTS = (
    ("model", values.MODEL_TYPE, "Runs: the model, where the file names no known one."),
    ("device", None, "The device that ran it, such as h100-80gb-sxm."),
    ("gpus", values.NUMBER_TYPE, "Runs: on how many devices."),
    ("gpus-per-node", values.NUMBER_TYPE, "Devices of a node."),
    ("nodes", values.NUMBER_TYPE, "On how many nodes."),
    ("intra-node", None, "The fabric inside a node, such as nvlink4 or pcie4."),
    ("inter-node", None, "The network in words: 'RoCE 8x400 Gb/s per node'."),
    ("op", values.OP_TYPE, "Collectives: the operation, where neither the log nor its columns say it."),
    ("ranks", values.NUMBER_TYPE, "Collectives: how many took part."),
    ("library", None, "Collectives: such as nccl-2.27."),
    ("tp", values.NUMBER_TYPE, "Runs: tensor parallel degree; --pp, --dp, --cp and --ep are the others."),
    ("pp", values.NUMBER_TYPE, "Runs: pipeline stages."),
    ("dp", values.NUMBER_TYPE, "Runs: replicas."),
    ("cp", values.NUMBER_TYPE, "Training: context parallel degree."),
    ("ep", values.NUMBER_TYPE, "Runs: expert parallel degree."),
    ("shard", values.SHARD_TYPE, "Training: what is divided over the replicas."),
    ("recompute", values.RECOMPUTE_TYPE, "Training: what is computed again."),
    ("micro-batch", values.NUMBER_TYPE, "Training: sequences of a microbatch."),
    ("global-batch", values.NUMBER_TYPE, "Training: sequences of a step."),
    ("seq", values.NUMBER_TYPE, "Training: tokens of a sequence."),
    ("dtype", values.DTYPE_TYPE, "Runs: format of the products."),
    ("stack", values.STACK_TYPE, "Training: the software, with its version."),
    ("engine", None, "Serving: the engine: vllm, sglang, trtllm."),
    ("isl", values.NUMBER_TYPE, "Serving: tokens of a prompt."),
    ("osl", values.NUMBER_TYPE, "Serving: tokens of an answer."),
    ("concurrency", values.NUMBER_TYPE, "Serving: requests in flight."),
)


def _fact_options(command: Callable[..., None]) -> Callable[..., None]:
    """An option for each fact that a file may leave out."""
    for name, kind, text in reversed(_FACTS):
        metavar = None if kind is not None else "TEXT"
        command = click.option(f"--{name}", type=kind, metavar=metavar, help=text)(command)
    return command


@click.command(
    "read",
    cls=CliCommand,
    needs=(Need("files", "all_reduce.log"),),
    about={"files": "Files of any of the kinds, gzip too; - for stdin."},
    examples=(
        "meshwise read all_reduce.log",
        "meshwise read topo.txt --json",
        "meshwise read all_reduce.log alltoall.log --inter-node 'RoCE 8x400 Gb/s per node' --csv -o rows.csv",
    ),
)
@click.argument("files", metavar="FILE", nargs=-1, callback=lambda _c, _p, words: words or None)
@_fact_options
@click.option(
    "--skip-bad",
    is_flag=True,
    help="Use what is good of a file, and list the lines that are left out.",
)
@output.output_options
def command(files: tuple[str, ...], **said: object) -> None:
    """Read measurements out of FILEs of other tools, told apart by their structure, into rows that `validate`
    takes (--json or --csv).

    Collectives: output of nccl-tests and rccl-tests; JSON of nccl-tests (-J).

    Topologies: nvidia-smi topo -m; rocm-smi --showtopo; NCCL's topology XML.

    A line that cannot be used is refused with its number and what was expected there. What a file does not
    say and its rows need is asked for, all at once.
    """
    from meshwise.answers.read import ReadResult
    from meshwise.evidence.readers.complete import FACTS, NamedFound, completed
    from meshwise.evidence.readers.reading import first_refusal, read_file

    o = Given(said)
    given = {k: o.word(k) for k in FACTS if o.has(k)}
    skip = o.flag("skip_bad")
    found: list[NamedFound] = []
    for name in dict.fromkeys(files):
        own = read_file(name)
        refused = [r for f in own for r in f.refused]
        error = first_refusal(name, refused, "skip_bad")
        if error is not None and (not skip or not any(f.rows for f in own)):
            raise error
        found += [NamedFound(name, f) for f in own]
    result = ReadResult(completed(found, given))

    def record() -> Mapping[str, object]:
        if not (o.flag("as_csv") or o.flag("as_parquet")):
            return result.to_dict()
        if len(result.kinds) > 1:
            raise InputError(
                f"--csv: rows of {' and '.join(result.kinds)} are no one table",
                field="--csv",
                legal="files of one kind, or --json",
            )
        return {"rows": result.rows()}

    output.write_answer(o, record, result.page, "rows")
