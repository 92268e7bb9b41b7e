"""The command line. This module imports click only; a command's module is imported when it runs."""

from __future__ import annotations

import sys
from typing import Any

import click

from meshwise import __version__
from meshwise.errors import InputError, MeshwiseError

# command → (module, one line of help). The help of the group needs no command's module.
COMMANDS: dict[str, tuple[str, str]] = {
    "scale": ("scale", "What tensor parallelism costs, and how far it scales here."),
    "estimate": ("estimate", "One layout in full: time, memory, every axis' communication."),
    "explain": ("explain", "The program of operations of one device, priced."),
    "model": ("model", "Parameters, bytes and legal TP degrees of a model."),
    "collective": ("collective", "Time of one collective by every algorithm."),
    "catalog": ("catalog", "List and show models, devices, fabrics, clusters and stacks."),
}


class Lazy(click.Group):
    """A group that imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        import importlib

        module = importlib.import_module(f"meshwise.cli.{COMMANDS[name][0]}")
        command: click.Command = module.command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from meshwise.errors import unknown_name

            raise unknown_name("COMMAND", args[0], COMMANDS, "command")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(
    cls=Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="meshwise")
def cli() -> None:
    """What does tensor parallelism cost on this cluster, and how far does it scale?

    \b
    meshwise scale gpt3-175b --on dgx-a100 --batch 32 --seq 2048
    meshwise scale llama-3.1-70b --on hgx-h100 --phase decode --batch 32 --context 4096
    meshwise estimate gpt3-175b --on dgx-a100 --tp 8 --pp 8 --batch 64 --micro-batch 1 --seq 2048
    meshwise collective all_reduce 1.6GB --on dgx-a100 --ranks 8
    """


def _usage_error(error: click.ClickException) -> MeshwiseError:
    """click's own complaints in our one line."""
    message = error.format_message().rstrip(".").replace("\n", " ")
    if isinstance(error, click.NoSuchOption):
        close = error.possibilities[0] if error.possibilities else None
        return InputError(
            f"{error.option_name}: no such option",
            field=error.option_name,
            value=error.option_name,
            legal="see --help",
            nearest=close,
        )
    parameter = getattr(error, "param", None)
    field = parameter.opts[-1] if parameter is not None else ""
    return InputError(message[0].lower() + message[1:] if message else "bad usage", field=field)


def fail(error: MeshwiseError, as_json: bool) -> int:
    """Say what was wrong, in one line, and return the exit code."""
    if as_json:
        import json

        sys.stdout.write(json.dumps(error.to_dict(), default=str) + "\n")
    else:
        text = " ".join(str(error).split())
        sys.stderr.write(f"meshwise: {text}\n")
    return error.exit_code


def main(argv: list[str] | None = None) -> int:
    """Run a command line; the exit code is returned, nothing is raised."""
    args = sys.argv[1:] if argv is None else argv
    as_json = "--json" in args
    try:
        cli.main(args=args, prog_name="meshwise", standalone_mode=False)
    except MeshwiseError as error:
        return fail(error, as_json)
    except click.exceptions.Exit as done:
        return int(done.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        sys.stdout.write(error.format_message() + "\n")
        return 2
    except click.ClickException as error:
        return fail(_usage_error(error), as_json)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # the reader went away (`| head`): not our failure; keep the interpreter from complaining
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


def entry() -> None:
    """The console script."""
    code = main()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
