"""``meshwise read``: logs, results and topologies of other tools, as rows of measurements."""

from __future__ import annotations

from collections.abc import Mapping

import click

from meshwise.cli import options, output, values
from meshwise.cli.command import CliCommand, Need
from meshwise.cli.given import Given
from meshwise.errors import InputError

# what a file may leave out
_facts = options.stacked(
    click.option(
        "--model",
        type=values.MODEL_TYPE,
        help="Runs: the model, where the file names no known one.",
    ),
    click.option("--device", metavar="TEXT", help="The device that ran it, such as h100-80gb-sxm."),
    click.option("--gpus", type=values.NUMBER_TYPE, help="Runs: on how many devices."),
    click.option("--gpus-per-node", type=values.NUMBER_TYPE, help="Devices of a node."),
    click.option("--nodes", type=values.NUMBER_TYPE, help="On how many nodes."),
    click.option(
        "--intra-node", metavar="TEXT", help="The fabric inside a node, such as nvlink4 or pcie4."
    ),
    click.option(
        "--inter-node", metavar="TEXT", help="The network in words: 'RoCE 8x400 Gb/s per node'."
    ),
    click.option(
        "--op",
        type=values.OP_TYPE,
        help="Collectives: the operation, where neither the log nor its columns say it.",
    ),
    click.option("--ranks", type=values.NUMBER_TYPE, help="Collectives: how many took part."),
    click.option("--library", metavar="TEXT", help="Collectives: such as nccl-2.27."),
    click.option("--tp", type=values.NUMBER_TYPE, help="Runs: tensor parallel degree."),
    click.option("--pp", type=values.NUMBER_TYPE, help="Runs: pipeline stages."),
    click.option("--dp", type=values.NUMBER_TYPE, help="Runs: replicas."),
    click.option("--cp", type=values.NUMBER_TYPE, help="Training: context parallel degree."),
    click.option("--ep", type=values.NUMBER_TYPE, help="Runs: expert parallel degree."),
    click.option(
        "--shard", type=values.SHARD_TYPE, help="Training: what is divided over the replicas."
    ),
    click.option(
        "--recompute", type=values.RECOMPUTE_TYPE, help="Training: what is computed again."
    ),
    click.option(
        "--micro-batch", type=values.NUMBER_TYPE, help="Training: sequences of a microbatch."
    ),
    click.option("--global-batch", type=values.NUMBER_TYPE, help="Training: sequences of a step."),
    click.option("--seq", type=values.NUMBER_TYPE, help="Training: tokens of a sequence."),
    click.option(
        "--dtype", type=values.DTYPE_TYPE, help="Runs: format of the products, or of 4-bit weights."
    ),
    click.option(
        "--software",
        metavar="TEXT",
        help="Training: what ran it, with its version, such as megatron-core-0.12.",
    ),
    click.option("--engine", metavar="TEXT", help="Serving: the engine: vllm, sglang, trtllm."),
    click.option("--isl", type=values.NUMBER_TYPE, help="Serving: tokens of a prompt."),
    click.option("--osl", type=values.NUMBER_TYPE, help="Serving: tokens of an answer."),
    click.option("--concurrency", type=values.NUMBER_TYPE, help="Serving: requests in flight."),
)


@click.command(
    "read",
    cls=CliCommand,
    needs=(Need("files", "all_reduce.log"),),
    about={"files": "Files of any of the kinds, gzip too; - for stdin."},
    examples=(
        "meshwise read examples/read/all_reduce.log --json",
        "meshwise read examples/read/bench.jsonl --device h100-80gb-sxm --gpus 1",
    ),
)
@click.argument("files", metavar="FILE", nargs=-1, callback=lambda _c, _p, words: words or None)
@_facts
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

    Training: logs of Megatron-LM, Megatron-Bridge and NeMo; logs of torchtitan; logs of nanotron; logs of
    DeepSpeed; logs of the Hugging Face Trainer; trainer_state.json.

    Serving: JSON of vLLM's bench serve and SGLang's bench_serving; JSON of trtllm-bench; JSON of genai-perf and
    AIPerf; llama-bench as JSON; llama-bench as Markdown; start-up logs of vLLM, SGLang and TensorRT-LLM.

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
