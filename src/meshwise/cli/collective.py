"""``meshwise collective``: a single question to the fabric."""

from __future__ import annotations

import click

from meshwise.cli import needs, options, output, values
from meshwise.cli.command import CliCommand, Need
from meshwise.cli.given import Given


@click.command(
    "collective",
    cls=CliCommand,
    needs=(Need("op", "all_reduce"), Need("size", "16MiB"), needs.NEEDS_CLUSTER),
    about={
        "op": f"{', '.join(values.COLLECTIVE_OPS[:-1])} or {values.COLLECTIVE_OPS[-1]}.",
        "size": "With its unit, such as 16MiB or 1.6GB; a number alone is bytes. Several: 1KiB:1GiB (each twice "
        "the one before; 1KiB:1GiB:4 four times), 64KiB,1MiB.",
    },
    examples=(
        "meshwise collective all_reduce 1.6GB --on dgx-a100 --ranks 8",
        "meshwise collective all_to_all 1KiB:1GiB --on hgx-h100 --ranks 64",
    ),
)
@click.argument("op", metavar="OP", type=values.OP_TYPE, required=False)
@click.argument("size", metavar="SIZE", required=False)
@click.option("--on", "cluster", type=values.CLUSTER_TYPE, help="Cluster: a preset or a TOML file.")
@click.option("--nodes", type=values.NUMBER_TYPE, help="Nodes of the cluster.")
@click.option("--nics", type=values.NUMBER_TYPE, help="NICs per node.")
@options.pcie_host_option
@click.option(
    "--ranks",
    type=values.NUMBER_TYPE,
    help="Ranks of the group (default: one node, or all nodes of one device each).",
)
@click.option("--ranks-per-node", type=values.NUMBER_TYPE, help="Spread the ranks over nodes.")
@click.option(
    "--stack",
    type=values.STACK_TYPE,
    help="Whose library: nccl or rccl (default: the device's), or an engine's kernels: vllm, sglang, trtllm.",
)
@click.option(
    "--measured",
    type=values.FILE_TYPE,
    metavar="FILE",
    help="Some sizes of OP measured on this system, which anchor the answer: a table of collectives or "
    "a log of nccl-tests.",
)
@click.option("--ideal", is_flag=True, help="Ring algorithms at wire bandwidth, no latency.")
@output.output_options
def command(
    op: str, size: str, cluster: str | None, nodes: str | None, nics: str | None, **said: object
) -> None:
    """Time of OP on SIZE bytes (as nccl-tests counts them), by every algorithm; of several sizes by the
    fastest."""
    from meshwise.collectives import collective, collective_sizes, several_sizes

    o = Given(said)
    where = options.read_cluster(cluster, nodes, nics, o.text("pcie_host"))
    ask = collective_sizes if several_sizes(size) else collective
    result = ask(
        op,
        size,
        where,
        o.number("ranks"),
        ranks_per_node=o.number("ranks_per_node"),
        stack=options.stack_name(o, "") or None,
        measured=o.text("measured"),
    )
    output.write_answer(o, result.to_dict, result.page, result.ROWS)
