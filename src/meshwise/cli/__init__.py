"""The command line. This module imports click only; a command's module is imported when it runs."""

from __future__ import annotations

import gc
import os
import sys

import click

from meshwise import __version__
from meshwise.cli import terminal
from meshwise.errors import InputError, MeshwiseError, clean, quoted, shorten

# command → (module, one line of help). The help of the group needs no command's module.
COMMANDS: dict[str, tuple[str, str]] = {
    "scale": ("scale", "What tensor parallelism costs, and how far it scales here."),
    "plan": ("plan", "Every legal layout ranked: which mesh to run, and why."),
    "export": ("export", "The launch command of a layout, for the software that runs it."),
    "import": ("import_", "A launch command, priced beside the best layout."),
    "estimate": ("estimate", "One layout in full: time, memory, every axis' communication."),
    "serve": ("serve", "Continuous batching: TPOT, TTFT, throughput, requests that fit."),
    "explain": ("explain", "The program of operations of one device, priced."),
    "model": ("model", "Parameters, bytes and legal TP degrees of a model."),
    "collective": ("collective", "Time of one collective by every algorithm."),
    "run": ("run", "The model performed here, beside its prediction."),
    "read": ("read", "Logs, results and topologies of other tools, as rows."),
    "validate": ("validate", "A table of measurements, predicted row by row."),
    "catalog": ("catalog", "List, search and show models, devices, fabrics, clusters, stacks."),
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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if ctx.resilient_parsing:  # the shell completes: there is nobody to tell
            name = args[0] if args else ""
            return name, self.get_command(ctx, name) or click.Command(name), args[1:]
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from meshwise.errors import unknown_name

            raise unknown_name("COMMAND", args[0], COMMANDS, "command")
        found = super().resolve_command(ctx, args)
        if found[1] is not None:
            for option in found[1].params:
                _one_value(option, found[2])
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _one_value(option: click.Parameter, args: list[str]) -> None:
    """Raise where two spellings of one option disagree: click takes the last without a word."""
    spellings = [name for name in option.opts if name.startswith("--")]
    if (
        len(spellings) < 2
        or getattr(option, "is_flag", False)
        or getattr(option, "multiple", False)
    ):
        return
    said: dict[str, str] = {}
    for i, word in enumerate(args):
        name, equals, value = word.partition("=")
        if name in spellings and (equals or i + 1 < len(args)):
            said[name] = value if equals else args[i + 1]
    if len(set(said.values())) > 1:
        (first, one), (second, other) = list(said.items())[:2]
        raise InputError(
            f"{second}={shorten(other)}: {first} says {shorten(one)}, and both are the same option",
            field=second,
            value=other,
            legal="one of the two",
            nearest=f"{first} {one}",
        )


@click.command(
    cls=Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", prog_name="meshwise")
def cli() -> None:
    """What does tensor parallelism cost on this cluster, and how far does it scale?

    \b
    meshwise scale gpt3-175b --on dgx-a100 --batch 32 --seq 2048
    meshwise scale llama-3.1-70b --on hgx-h100 --phase decode --batch 32 --context 4096
    meshwise plan gpt3-175b --on dgx-a100 --gpus 1024 --global-batch 1536 --seq 2048
    meshwise estimate gpt3-175b --on dgx-a100 --tp 8 --pp 8 --batch 64 --micro-batch 1 --seq 2048
    meshwise serve llama-3.1-70b --on hgx-h100 --tp 4 --isl 2048 --osl 256 --concurrency 64
    meshwise collective all_reduce 1.6GB --on dgx-a100 --ranks 8

    Defaults (on, stack) are read from meshwise.toml. Completion in the shell: eval
    "$(_MESHWISE_COMPLETE=bash_source meshwise)", or zsh_source, fish_source.
    """


cli.params += [terminal.quiet_option(), terminal.color_option()]

# Objects that are made before cycles among them are looked for: an answer makes many, and few cycles.
_YOUNG = 100_000

# What is asked first, by people who call `meshwise` alone
FIRST_QUESTIONS = (
    ("How far does tensor parallelism scale here?", "scale llama-3.1-70b --on hgx-h100 --seq 4k"),
    (
        "Which mesh should I run?",
        "plan llama-3.1-70b --on hgx-h100 --gpus 64 --batch 256 --seq 4k",
    ),
    (
        "What will users of a model wait, and how many fit?",
        "serve llama-3.1-8b --on hgx-h100 --isl 2k --osl 256 --concurrency 64",
    ),
)


def first_questions() -> str:
    asked = "\n\n".join(
        f"{question}\n  meshwise {command}" for question, command in FIRST_QUESTIONS
    )
    more = "Models, clusters: meshwise catalog. All commands: meshwise --help."
    return f"{asked}\n\n{more}"


def _usage_error(error: click.ClickException, args: list[str]) -> MeshwiseError:
    """click's own complaints in our one line."""
    context = getattr(error, "ctx", None)
    path = f"meshwise {args[0]}" if args and args[0] in COMMANDS else "meshwise"
    if isinstance(error, click.NoSuchOption):
        return _no_such_option(error, args, path)
    usage = (
        context.get_usage().partition(": ")[2] if context is not None else f"see `{path} --help`"
    )
    parameter = getattr(error, "param", None)
    message = " ".join(error.format_message().rstrip(".").split())
    field = getattr(error, "option_name", None) or "ARGUMENT"
    if parameter is not None:
        field = parameter.opts[-1]
        if isinstance(parameter, click.Argument):
            field = (parameter.metavar or field.upper()).strip("[]")
    if isinstance(error, click.MissingParameter):
        message = f"{field}: missing"
    return InputError(
        message[:1].lower() + shorten(message[1:], 200) if parameter is None else message,
        field=field,
        legal=" ".join(usage.split()),
    )


def _no_such_option(error: click.NoSuchOption, args: list[str], path: str) -> MeshwiseError:
    """An option that a command lacks. click cuts ``-1GB`` to ``-1``: name what was written."""
    name = error.option_name
    if not name.startswith("--"):
        name = next((a for a in args if a.startswith(name)), name)
    legal = f"see `{path} --help`"
    close = next(iter(error.possibilities or ()), None)
    if name.lstrip("-")[:1].isdigit():
        legal, close = "a positive number or quantity", name.lstrip("-")
    elif path == "meshwise" and name in ("--json", "--csv"):
        legal, close = f"after the command: `meshwise COMMAND … {name}`", None
    return InputError(
        f"{quoted(name)}: no such option",
        field=shorten(name),
        value=name,
        legal=legal,
        nearest=close,
    )


def fail(error: MeshwiseError, as_json: bool) -> int:
    """Say what was wrong, in one line, and return the exit code."""
    if as_json:
        import json

        sys.stdout.write(json.dumps(error.to_dict(), default=str) + "\n")
    else:
        text = clean(" ".join(str(error).split()))
        sys.stderr.write(f"meshwise: {text}\n")
    return error.exit_code


def main(argv: list[str] | None = None) -> int:
    """Run a command line; the exit code is returned, nothing is raised."""
    args = sys.argv[1:] if argv is None else argv
    as_json = "--json" in args
    try:
        if "_MESHWISE_COMPLETE" in os.environ:  # the shell asks for completions
            cli.main(args=args, prog_name="meshwise")
        # not cli.main: it turns a closed pipe into exit code 1
        with cli.make_context("meshwise", list(args)) as context:
            cli.invoke(context)
    except MeshwiseError as error:
        return fail(error, as_json)
    except click.exceptions.Exit as done:
        return int(done.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        alone = not args and sys.stdout.isatty()
        sys.stdout.write((first_questions() if alone else error.format_message()) + "\n")
        return 0
    except click.ClickException as error:
        return fail(_usage_error(error, args), as_json)
    except (click.Abort, KeyboardInterrupt):
        return 130
    return 0


def entry() -> None:
    """The console script: what it cannot write is told in one line, or not at all (``| head``)."""
    gc.set_threshold(_YOUNG, 50, 50)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller (`>&-`)
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    try:
        code = main()
        sys.stdout.flush()
    except OSError as error:
        # whatever is left in the buffer must not be tried again when the interpreter ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
        if not isinstance(error, BrokenPipeError):  # the reader went away: not our failure
            sys.stderr.write(f"meshwise: cannot write the answer: {error.strerror or error}\n")
            code = 1
    sys.exit(code)
