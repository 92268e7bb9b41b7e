"""What a launcher leaves open of the GPUs that a job runs on."""

from __future__ import annotations

from meshwise.launch.account.origins import PlacedWords
from meshwise.launch.account.questions import OpenValue
from meshwise.launch.find import Launch
from meshwise.launch.settings.settings import Settings
from meshwise.launch.shell.commands import option, unset_names
from meshwise.launch.table import Target

NUMBER_OF_GPUS = OpenValue(
    *("the number of GPUs", "", "gpus"),
    example="N",
    said="the command does not say how many GPUs it runs on",
)
# options of launchers that say on how many GPUs a job runs
_COUNTED = (
    *("nnodes", "num_nodes", "nproc-per-node", "num_gpus", "num_accelerators", "np", "n"),
    *("ntasks", "ntasks-per-node", "gpus-per-node", "nodes", "N", "num_processes", "num_machines"),
)


def needs_world(chosen: Target, settings: Settings) -> bool:
    """Whether the number of GPUs decides the layout: replicas are what the other degrees leave."""
    stated = ("dp", "dp_shard", "dp_replicate", "processes")
    return (
        chosen.phase == "train"
        and chosen.world != "flags"
        and not any(settings.get(name) for name in stated)
    )


def unset_of_launcher(launch: Launch, world: int | None) -> list[OpenValue]:
    """Variables that the launcher's own numbers still have, where these are needed."""
    if world is not None or launch.target.phase != "train":
        return []
    found = []
    for name in _COUNTED:
        said = option(launch.before, name)
        for variable in unset_names(said) if said is not None else []:
            at = next((i for i, w in enumerate(launch.before) if f"${variable}" in w), 0)
            line = PlacedWords("", launch.lines).line(at)
            used = f"--{name}" if len(name) > 2 else f"-{name}"
            found.append(OpenValue(f"${variable}", used, line=line))
    return found
