"""A command: what it needs, said in one message; its help in groups; what all commands share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import click

from meshwise.cli import defaults, terminal, values
from meshwise.cli.given import Given
from meshwise.errors import InputError, MeshwiseError, list_in_words, shorten

# Parameter → the group of the help that it stands in; whatever is in none says how.
HELP_GROUPS = {
    "What": (
        *("model", "target", "op", "size", "launch", "table", "kind", "name", "published"),
        *("phase", "batch", "global_batch", "seq", "context", "isl", "osl", "concurrency"),
        *("layers", "new_tokens", "source", "row", "prefix_hit", "length_spread", "expert_skew"),
        *("expert_imbalance", "acceptance", "ttft", "tpot", "e2e", "objective", "price", "sweep"),
        *("weak", "limit_threshold", "compare", "which", "values", "files"),
    ),
    "Where": (
        *(
            "cluster",
            "on",
            "device",
            "nodes",
            "nics",
            "gpus",
            "gpus_per_node",
            "ranks",
            "ranks_per_node",
        ),
        *("backend", "threads"),
    ),
    "How": (),
    "Output": (
        *("top", "worst", "as_file", "brief", "detail", "as_json", "as_csv", "as_parquet"),
        *("as_html", "wide", "path", "quiet", "color"),
    ),
}
_GROUP = {name: group for group, names in HELP_GROUPS.items() for name in names}
_SHOWN = 160  # characters of a command line that an example repeats


def _always(_: Given) -> bool:
    return True


class Need(NamedTuple):
    """A parameter without which a command does not answer: a value that fits, and when it is needed."""

    name: str
    example: str
    words: str = "required"
    when: Callable[[Given], bool] = _always
    instead: str = ""  # what else would do


class _Callback(Protocol):
    def __call__(self, *arguments: object, **options: object) -> object: ...


class CliCommand(click.Command):
    """A command of meshwise: ``needs`` in the order in which they are asked for, ``about`` its
    arguments, ``examples`` of its use, ``phase`` what it asks of a stack; ``check`` refuses options that
    do not go together, before what is missing is asked for."""

    def __init__(
        self,
        name: str | None,
        *,
        callback: _Callback | None = None,
        params: list[click.Parameter] | None = None,
        help: str | None = None,
        needs: Sequence[Need] = (),
        about: Mapping[str, str] | None = None,
        examples: Sequence[str] = (),
        phase: Callable[[Given], str | None] | None = None,
        check: Callable[[Given], object] | None = None,
    ) -> None:
        super().__init__(name, callback=callback, params=params, help=help)
        self.needs, self.about, self.examples = needs, about or {}, examples
        self.phase, self.check = phase, check
        self.params += [terminal.quiet_option(), terminal.color_option()]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["meshwise.args"] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        needed = {need.name for need in self.needs}
        phase = self.phase(Given(ctx.params)) if self.phase is not None else None
        name, cluster = self.name or "", "cluster" in needed
        try:
            with defaults.filled_in(ctx, name=name, cluster=cluster, phase=phase):
                if self.check is not None:
                    self.check(Given(ctx.params))
                self._require(ctx)
                return super().invoke(ctx)
        except MeshwiseError as error:
            from meshwise.cli.spelling import Spelling

            Spelling(self.params).error(error)
            raise

    def _require(self, ctx: click.Context) -> None:
        """Raise for all that is missing, with a command line that has it."""
        said = Given(ctx.params)
        missing = [n for n in self.needs if not said.has(n.name) and n.when(said)]
        if not missing:
            return
        names = [_option(self._param(need.name)) for need in missing]
        instead = "".join(f", {need.instead}" for need in missing if need.instead)
        raise InputError(
            f"{list_in_words(names)}: missing",
            field=names[0],
            legal=f"for example `{self._completed(ctx, missing)}`{instead}",
        )

    def _completed(self, ctx: click.Context, missing: Sequence[Need]) -> str:
        """The command line as it was given, with examples of what it lacks."""
        import shlex

        given = shlex.join(ctx.meta["meshwise.args"])
        given = given if given == shorten(given, _SHOWN) else "…"
        words = {True: "", False: ""}  # arguments, options
        for need in missing:
            param = self._param(need.name)
            plain = isinstance(param, click.Argument)
            words[plain] += f" {need.example}" if plain else f" {_option(param)} {need.example}"
        mine = [p for p in self.params if isinstance(p, click.Argument)]
        first = all(ctx.params.get(p.name or "") is None for p in mine)
        parts = (words[True], given, words[False]) if first else (given, words[True], words[False])
        return " ".join(["meshwise", self.name or "", *(p.strip() for p in parts if p.strip())])

    def _param(self, name: str) -> click.Parameter:
        return next(p for p in self.params if p.name == name)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """What, where, how and output, each under its title; what is required is marked."""
        rows: dict[str, list[tuple[str, str]]] = {group: [] for group in HELP_GROUPS}
        for param in self.get_params(ctx):
            record = self._record(param, ctx)
            if record is not None:
                rows[_group(param)].append(record)
        for group, records in rows.items():
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)

    def _record(self, param: click.Parameter, ctx: click.Context) -> tuple[str, str] | None:
        if isinstance(param, click.Argument):
            record: tuple[str, str] | None = (param.make_metavar(ctx), self.about[param.name or ""])
        else:
            record = param.get_help_record(ctx)
        marks = [need.words for need in self.needs if need.name == param.name]
        return record and (record[0], "  ".join([record[1], *(f"[{mark}]" for mark in marks)]))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """How numbers are written, and examples."""
        kinds = [p.type for p in self.params if isinstance(p.type, values.CountType)]
        if kinds:
            several = any(kind.several for kind in kinds)
            formatter.write_paragraph()
            formatter.write_text(values.NUMBERS_HELP if several else values.SINGLE_NUMBERS_HELP)
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{example}\n")


def _group(param: click.Parameter) -> str:
    return "Output" if "--help" in param.opts else _GROUP.get(param.name or "", "How")


def _option(param: click.Parameter) -> str:
    """A parameter as a message names it."""
    if isinstance(param, click.Argument):
        return (param.metavar or "ARGUMENT").strip("[]")
    return param.opts[0]
