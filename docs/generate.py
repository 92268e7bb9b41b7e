"""Write what the documentation takes from the tool, and say whether it is current.

Four kinds of text in README*.md, AGENTS.md and docs/**/*.md are made here, never typed:

* the output below each ``$ meshwise …`` or ``$ python …`` line of a ``console`` block;
* the output below each ``>>>`` line of a ``pycon`` block (``python`` blocks only have to run);
* what stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``: a function of SECTIONS;
* a figure between ``<!--=NAME:FORMAT-->`` and ``<!--/-->``: a value of figures().

and docs/picture.svg. A ``...`` line in a console block stands for any lines and is kept.

    python docs/generate.py            writes
    python docs/generate.py --check    lists the files that are not current; exit code 1 if any
"""

from __future__ import annotations

import ast
import contextlib
import csv
import doctest
import functools
import importlib.util
import io
import json
import os
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PICTURE = DOCS / "picture.svg"
UNTRIED = ("make ", "pip ", "python -m venv", "python tools/", "python benchmarks/")
WIDTH = "80"


def pages() -> list[Path]:
    """Every Markdown page whose blocks are run."""
    top = [ROOT / name for name in ("README.md", "README.zh-CN.md", "AGENTS.md")]
    return [p for p in top if p.exists()] + sorted(DOCS.rglob("*.md"))


# -- running what a reader would run -------------------------------------------------------------


@contextlib.contextmanager
def _as_a_reader() -> Iterator[io.StringIO]:
    """In the repository's root, 80 columns wide, stdout and stderr together."""
    os.environ["MESHWISE_CONFIG"] = ""  # nobody's own defaults
    out, before = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDTH
    try:
        with (
            contextlib.chdir(ROOT),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(out),
        ):
            yield out
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


@functools.cache
def _run(command: tuple[str, ...]) -> tuple[str, int]:
    """What one program prints, and its exit code; in this process."""
    from meshwise.cli import main

    with _as_a_reader() as out:
        if command[0] == "meshwise":
            code = main(list(command[1:]))
        elif command[0] == "python":
            code, argv = 0, sys.argv
            sys.argv = list(command[1:])
            try:
                runpy.run_path(command[1], run_name="__main__")
            finally:
                sys.argv = argv
        elif command[0] == "cat":
            code = 0
            out.write(Path(command[1]).read_text(encoding="utf-8"))
        else:
            raise ValueError(
                f"a console block runs {command[0]!r}, which docs/generate.py does not"
            )
    return out.getvalue(), code


_last_code = 0


def run_line(line: str) -> str | None:
    """The output of a console line with its pipes; None for what is not run here."""
    global _last_code
    if line.startswith(UNTRIED):
        return None
    if line == "echo $?":
        return f"{_last_code}\n"
    first, *filters = programs(line)
    text, _last_code = _run(tuple(first))
    for command, *arguments in filters:
        lines = text.splitlines(keepends=True)
        if command == "head":
            lines = lines[: int(arguments[-1].lstrip("-"))]
        elif command == "tail":
            lines = lines[-int(arguments[-1].lstrip("-")) :]
        elif command == "grep":
            context = int(arguments[0][2:]) if arguments[0].startswith("-A") else 0
            hits = [i for i, text_ in enumerate(lines) if arguments[-1] in text_]
            kept = sorted({j for i in hits for j in range(i, min(i + context + 1, len(lines)))})
            lines = [lines[i] for i in kept]
        else:
            raise ValueError(f"a console block pipes into {command!r}")
        text = "".join(lines)
    return text


def programs(line: str) -> list[list[str]]:
    """The words of a line's programs, those that it is piped into after the first."""
    groups: list[list[str]] = [[]]
    for word in shlex.split(line, comments=True):
        if word == "|":
            groups.append([])
        else:
            groups[-1].append(word)
    return groups


def console(block: str) -> str:
    """A console block with its outputs as they are now."""
    out: list[str] = []
    for command, line, written in _commands(block):
        now = run_line(line)
        out += command
        if now is None or _elided(written, now):
            out += written
        else:
            out += now.rstrip("\n").splitlines()
    return "\n".join(out) + "\n"


def _commands(block: str) -> Iterator[tuple[list[str], str, list[str]]]:
    """Of each command of a console block: its lines, the one line that they are, its written output."""
    lines = block.splitlines()
    i = 0
    while i < len(lines):
        if not lines[i].startswith("$ "):
            raise ValueError(f"a console block begins with output: {lines[i]!r}")
        command = [lines[i]]
        while command[-1].endswith("\\"):
            i += 1
            command.append(lines[i])
        i += 1
        written = []
        while i < len(lines) and not lines[i].startswith("$ "):
            written.append(lines[i])
            i += 1
        yield command, " ".join(part.rstrip("\\").strip() for part in command)[2:], written


def console_lines() -> Iterator[str]:
    """Every command line of the pages' console blocks, in a reader's order."""
    for path in pages():
        for kind, body in _FENCE.findall(path.read_text(encoding="utf-8")):
            if kind == "console":
                yield from (line for _, line, _ in _commands(body))


def _elided(written: list[str], now: str) -> bool:
    """Whether the written output has a ``...`` line and is the present one but for that."""
    if "..." not in (line.strip() for line in written):
        return False
    rest = _plain(now)
    for part in re.split(r"(?m)^\s*\.\.\.\s*$", "\n".join(written)):
        wanted = _plain(part)
        at = rest.find(wanted)
        if at < 0:
            raise ValueError(f"not in the output any more: {part.strip()!r}")
        rest = rest[at + len(wanted) :]
    return True


def _plain(text: str) -> str:
    return " ".join(text.split())


def session(block: str, names: dict[str, Any]) -> str:
    """A pycon block with its outputs as they are now."""
    out: list[str] = []
    for example in doctest.DocTestParser().get_examples(block):
        source = example.source.rstrip("\n").split("\n")
        out += [
            (">>> " if i == 0 else "... ") + line if line or i == 0 else "..."
            for i, line in enumerate(source)
        ]
        with _as_a_reader() as printed:
            exec(compile(example.source, "<page>", "single"), names)
        out += printed.getvalue().rstrip("\n").splitlines()
    return "\n".join(out) + "\n"


# -- sections ------------------------------------------------------------------------------------


def table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    def cell(value: Any) -> str:
        return str(value).replace("|", "\\|").replace("\n", " ")

    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(map(cell, row)) + " |" for row in rows])


def cli_section() -> str:
    from meshwise.cli import COMMANDS

    parts = []
    for name in ("", *COMMANDS):
        words = ("meshwise", name, "--help") if name else ("meshwise", "--help")
        text, _ = _run(words)
        parts.append(f"## {' '.join(words[:-1])}\n\n```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts)


def switches_section() -> str:
    """A table of each group, in the words of its fields."""
    from meshwise.stacks.fields import switches_of
    from meshwise.stacks.switches import GROUPS

    parts = []
    for group, struct in GROUPS.items():
        rows = [
            (f"`{name}`", f"`{_toml(s.default)}`", s.legal, s.meaning)
            for name, s in switches_of(struct).items()
        ]
        head = f"### {group}\n\n{struct.__doc__}"
        parts.append(head + "\n\n" + table(("switch", "default", "legal", "meaning"), rows))
    return "\n\n".join(parts)


def _toml(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')


def stacks_section() -> str:
    from meshwise import catalog
    from meshwise.stacks.load import described, load_stack
    from meshwise.stacks.stack import DEFAULT, NAMES, Stack, switch_values

    parts = []
    plain = switch_values(Stack(name="plain"))
    for name in catalog.names("stacks"):
        stack, found = load_stack(name), described(name)
        phases = [phase for phase, chosen in DEFAULT.items() if chosen == name]
        head = f"### {name}\n\n{stack.title}."
        head += f" The default for {' and '.join(phases)}." if phases else ""
        head += (
            f" Like [{found.like}](#{found.like}), but for what it states." if found.like else ""
        )
        values = switch_values(stack)
        rows = [
            (f"`{switch}`", f"`{_toml(values[switch])}`", stack.sources.get(switch, ""))
            for switch in NAMES
            if values[switch] != plain[switch] or switch in stack.sources
        ]
        if stack.ideal:
            rows.insert(0, ("`ideal`", "`true`", stack.sources["ideal"]))
        parts.append(head + "\n\n" + table(("switch", "value", "source"), rows))
        if releases := _releases(found.table):
            parts.append(table(("release", "differs by", "because", "source"), releases))
    return "\n\n".join(parts)


def _releases(data: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Versions and variants of a stack's file."""
    from meshwise.stacks.switches import HOME

    rows = []
    for entry in (*data.get("version", ()), *data.get("variant", ())):
        which = " ".join(f"{k} {entry[k]}" for k in ("from", "before") if k in entry)
        which = which or ", ".join(f"`{name}`" for name in entry["named"])
        changed = ", ".join(f"`{k} = {_toml(v)}`" for k, v in entry.items() if k in HOME)
        rows.append((which, changed, entry.get("note", ""), entry.get("source", "")))
    return rows


def families_section() -> str:
    from meshwise.models.families.registry import FAMILIES

    by_words: dict[str, list[str]] = {}
    for model_type, family in FAMILIES.items():
        by_words.setdefault(family.words, []).append(f"`{model_type}`")
    rows = [(words, ", ".join(types)) for words, types in sorted(by_words.items(), key=_lower)]
    return table(("family", "`model_type`"), rows)


def _lower(item: tuple[str, Any]) -> str:
    return item[0].lower()


def wrappers_section() -> str:
    from meshwise.models.families.refused import WRAPPER_TYPES
    from meshwise.models.families.towers.wrappers import TOWER_PARTS, is_counted

    def towers(name: str) -> str:
        parts = [part for part in TOWER_PARTS.get(name, ()) if is_counted(part.usual)]
        return ", ".join(f"`{p.usual}` under `{p.key}`" for p in parts) or "not counted"

    rows = [
        (f"`{name}`", ", ".join(f"`{key}`" for key in w.keys), f"`{w.inner}`", towers(name))
        for name, w in sorted(WRAPPER_TYPES.items())
    ]
    return table(
        ("`model_type`", "language model under", "its type where the file is silent", "encoders"),
        rows,
    )


def refused_section() -> str:
    from meshwise.models.families.refused import REFUSED_TYPES

    by_reason: dict[str, list[str]] = {}
    for model_type, reason in REFUSED_TYPES.items():
        by_reason.setdefault(reason, []).append(f"`{model_type}`")
    rows = [(reason, ", ".join(types)) for reason, types in by_reason.items()]
    return table(("reason", "`model_type`"), rows)


def catalog_section(kind: str) -> str:
    from meshwise import catalog
    from meshwise.answers import catalog as answers

    spellings: dict[str, list[str]] = {}
    for alias, name in catalog.aliases(kind).items():
        spellings.setdefault(name, []).append(alias)
    records = answers.kind_entries(kind)["entries"]
    header = {
        "models": ("name", "model_type", "parameters", "active_parameters", "layers", "hidden"),
        "devices": ("name", "title", "memory", "memory_bandwidth", "bf16"),
        "fabrics": ("name", "title", "kind", "bandwidth", "latency"),
        "clusters": ("name", "title", "device", "levels"),
    }[kind]
    rows = []
    for record in records:
        cells = [record[key] for key in header]
        shown = [f"{c:,}" if isinstance(c, int) else c for c in cells]
        others = ", ".join(sorted(spellings.get(record["name"], []))) if kind != "models" else ""
        rows.append((f"`{shown[0]}`", *shown[1:], *([others] if kind != "models" else [])))
    names = tuple("bf16 peak" if h == "bf16" else h.replace("_", " ") for h in header)
    return table((*names, *(["also called"] if kind != "models" else [])), rows)


def _fits(folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    from meshwise import catalog

    for name in catalog.names(folder):
        yield name, catalog.load(folder, name, folder)[1]


_ERRORS = ("points", "median error", "mean error", "90th percentile", "bias")


def kernel_fits_section() -> str:
    rows = []
    for name, data in _fits("kernels"):
        experts = {
            f"{part} {engine}": fit
            for engine, parts in data.get("moe", {}).items()
            for part, fit in parts.items()
        }
        recurrences = {
            f"{rule} {phase} {engine}": fit
            for engine, rules in data.get("recurrence", {}).items()
            for rule, phases in rules.items()
            for phase, fit in phases.items()
        }
        sparse = {
            f"{part} {kind}": fit
            for part, kinds in data.get("sparse", {}).items()
            for kind, fit in kinds.items()
        }
        for group, parts in (
            ("gemm", data["gemm"]),
            ("weight_only", data.get("weight_only", {}).get("trtllm", {})),
            ("moe", experts),
            ("attention", data["attention"]),
            ("recurrence", recurrences),
            ("sparse", sparse),
        ):
            for part, fit in parts.items():
                if "points" not in fit:
                    continue  # a roofline, which no table was fitted to
                share = fit["kv_efficiency" if group == "attention" else "memory_efficiency"]
                rows.append(
                    (
                        f"`{name}`",
                        f"{group} {part}",
                        f"{share:.2f}",
                        f"{fit['launch_s'] * 1e6:.1f}",
                        f"{fit['points']:,}",
                        *(f"{fit[k]:.1%}" for k in ("median_error", "mean_error", "p90_error")),
                        f"{fit['bias']:+.1%}",
                    )
                )
    return table(("device", "kernel", "share of memory bandwidth", "launch [µs]", *_ERRORS), rows)


def collective_fits_section() -> str:
    rows = []
    for name, data in _fits("collectives"):
        for library, ops in data.items():
            if not isinstance(ops, dict):
                continue
            for op, entry in ops.items():
                if not isinstance(entry, dict) or "fit" not in entry:
                    continue  # what several collectives share
                fit = entry["fit"]
                low, high = fit["bytes_range"]
                rows.append(
                    (
                        f"`{name}`",
                        library,
                        op,
                        f"{low:,} to {high:,}",
                        f"{fit['points']:,}",
                        *(f"{fit[k]:.1%}" for k in ("median_error", "mean_error", "p90_error")),
                        f"{fit['bias']:+.1%}",
                    )
                )
    return table(("fabric", "library", "collective", "bytes", *_ERRORS), rows)


def algorithms_section() -> str:
    from meshwise.cost.collectives.algorithms import COLLECTIVE_ALGORITHMS

    lines = COLLECTIVE_ALGORITHMS.values()
    rows = [(what, seconds, a.legal) for a in lines for what, seconds in a.times]
    return table(("algorithm", "time", "legal"), rows)


def sources_section() -> str:
    rows = [
        (f"`{folder}/{name}`", data["source"], f"`{data['command']}`")
        for folder in ("kernels", "collectives")
        for name, data in _fits(folder)
    ]
    return table(("file", "measurements", "made by"), rows)


def inherited_section() -> str:
    from meshwise import catalog
    from meshwise.clusters.load import cluster_from_table, device
    from meshwise.cost.collectives.fits import constants
    from meshwise.cost.kernels.compute import compute
    from meshwise.stacks.load import load_stack

    stack = load_stack("vllm")
    devices = {n: compute(device(n), stack).fits.source for n in catalog.names("devices")}
    fabrics = {}
    for name in catalog.names("fabrics"):
        entry = {"device": "h100", "level": [{"ranks": 2, "fabric": name}]}
        level = cluster_from_table(entry, "one level").levels[0]
        fabrics[name] = constants(level, "all_reduce", "nccl", False).source
    rows = []
    for own, sources in (
        ("own fit", devices),
        ("own fit, or the same transport at another rate", fabrics),
    ):
        by_fit: dict[str, list[str]] = {}
        for name, source in sources.items():
            kind = f"inherit `{source.file}`" if source.inherited_by else own
            by_fit.setdefault(kind, []).append(f"`{name}`")
        rows.append((own, ", ".join(by_fit.pop(own))))
        rows += [(fit, ", ".join(names)) for fit, names in sorted(by_fit.items())]
    return table(("constants", "devices or fabrics"), rows)


@functools.cache
def note() -> Any:
    """examples/the_note.py as a module."""
    spec = importlib.util.spec_from_file_location("the_note", ROOT / "examples" / "the_note.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def note_section() -> str:
    return str(note().markdown())


def example(name: str) -> str:
    """A file of examples/ as a block."""
    kind = {"py": "python"}.get(name.rpartition(".")[2], name.rpartition(".")[2])
    return f"```{kind}\n{(ROOT / 'examples' / name).read_text(encoding='utf-8').rstrip()}\n```"


@functools.cache
def _validated(kind: str) -> dict[str, Any]:
    from meshwise import api

    return api.validate_published(kind).summary


def validation(kind: str) -> str:
    """Errors of the shipped table of a kind, by quantity and by source."""
    rows = []
    for quantity, found in _validated(kind).items():
        if quantity == "decisions":
            continue
        if quantity == "fits":
            for measured, called in found["matrix"].items():
                n, said = sum(called.values()), measured.replace("_", " ")
                wrong = called["called_out_of_memory" if measured == "ran" else "called_fitting"]
                rows.append((said, "all", str(n), f"{wrong} wrong", *[""] * 4))
            continue
        rows.append(
            (
                f"`{quantity}`",
                "**all**",
                str(found["n"]),
                *(f"{100 * found[k]:.1f} %" for k in ("median_abs_error", "p90_abs_error")),
                f"{100 * found['bias']:+.1f} %",
                f"{100 * found['coverage']:.0f} %",
                f"{100 * found['median_width']:.0f} %",
            )
        )
        for source, part in found["by_source"].items():
            median, bias = part["median_abs_error"], part["bias"]
            rows.append(
                (
                    "",
                    source,
                    str(part["n"]),
                    f"{100 * median:.1f} %",
                    "",
                    f"{100 * bias:+.1f} %",
                    "",
                    "",
                )
            )
    heads = ("quantity", "source", "rows", "median |error|", "p90", "bias", "in interval", "width")
    return table(heads, rows)


def decisions_section() -> str:
    """What following the predictions would cost, by source of the shipped training rows."""
    found = _validated("training")["decisions"]
    rows = []
    for name, s in (("**all**", found), *found["by_source"].items()):
        tau, rule = s["median_kendall_tau"], s["rule_of_thumb"]["mean_regret"]
        rows.append(
            (
                *(name, str(s["groups"]), str(s["rows"])),
                *(f"{100 * s[k]:.1f} %" for k in ("median_regret", "mean_regret")),
                "-" if tau is None else f"{tau:.2f}",
                "-" if rule is None else f"{100 * rule:.1f} %",
            )
        )
    heads = (
        "source",
        "groups",
        "rows",
        "median regret",
        "mean regret",
        "median τ",
        "rule of thumb, mean",
    )
    return table(heads, rows)


LEFT_OUT = DOCS / "left-out.json"


def left_out_section() -> str:
    """What ``tools/cross_validate.py`` found, as it wrote it."""
    sys.path.insert(0, str(ROOT / "tools"))
    tool = runpy.run_path(str(ROOT / "tools/cross_validate.py"))
    return str(tool["markdown"](json.loads(LEFT_OUT.read_text(encoding="utf-8"))))


SECTIONS: dict[str, Callable[[], str]] = {
    "validation-training": lambda: validation("training"),
    "validation-layers": lambda: validation("layers"),
    "validation-serving": lambda: validation("serving"),
    "validation-collectives": lambda: validation("collectives"),
    "decisions": decisions_section,
    "left-out": left_out_section,
    "cli": cli_section,
    "switches": switches_section,
    "stacks": stacks_section,
    "families": families_section,
    "wrappers": wrappers_section,
    "refused": refused_section,
    **{
        kind: functools.partial(catalog_section, kind)
        for kind in ("models", "devices", "fabrics", "clusters")
    },
    "kernel-fits": kernel_fits_section,
    "algorithms": algorithms_section,
    "collective-fits": collective_fits_section,
    "fit-sources": sources_section,
    "inherited": inherited_section,
    "note": note_section,
    "my-cluster": functools.partial(example, "my_cluster.toml"),
    "serving-copies": functools.partial(example, "serving_copies.py"),
}


# -- figures in prose ----------------------------------------------------------------------------


@functools.cache
def figures() -> dict[str, float]:
    """Figures that prose may quote: ``C8.right.ideal_ms``, ``count.devices``, ``fit.kernels.median``."""
    from meshwise import catalog
    from meshwise.models.families.config import known_types
    from meshwise.models.families.registry import FAMILIES

    found: dict[str, float] = {}
    for name, build in note().ROWS.items():
        row = build()
        for side in ("note", "right"):
            for key, value in getattr(row, side).items():
                found[f"{name}.{side}.{key}"] = float(value)
    for kind in ("models", "devices", "fabrics", "clusters", "stacks"):
        found[f"count.{kind}"] = len(catalog.names(kind))
    found["count.types"] = len(known_types())
    found["count.families"] = len({f.words for f in FAMILIES.values()})
    index = ROOT / "tests" / "data" / "configs" / "index.csv"
    rows = list(csv.DictReader(index.read_text(encoding="utf-8").splitlines()))
    found["count.configs_ok"] = sum(r["expected"] == "ok" for r in rows)
    found["count.configs_refused"] = sum(r["expected"] != "ok" for r in rows)
    errors: dict[str, list[float]] = {}
    for _, data in _fits("kernels"):
        for group in ("gemm", "attention"):
            for part, fit in data[group].items():
                if "points" not in fit:
                    continue
                key = part.split("_")[0] if group == "attention" else group
                errors.setdefault(f"kernels.{key}", []).append(fit["median_error"])
    for name, data in _fits("collectives"):
        for ops in data.values():
            for entry in ops.values() if isinstance(ops, dict) else ():
                where = "inside" if name.startswith(("nvlink", "pcie")) else "between"
                if isinstance(entry, dict) and "fit" in entry:
                    errors.setdefault(f"collectives.{where}", []).append(
                        entry["fit"]["median_error"]
                    )
    for kind in ("training", "serving", "collectives"):
        for quantity, part in _validated(kind).items():
            if quantity == "decisions":
                continue
            if quantity == "fits":
                called = part["matrix"]["out_of_memory"]
                found["validate.oom.right"] = called["called_out_of_memory"]
                found["validate.oom.rows"] = sum(called.values())
                continue
            found[f"validate.{quantity}.rows"] = part["n"]
            if quantity == "tpot_s":  # of first tokens there are doublings too
                steps = part["tp_doubling"]
                flat = steps["baselines"]["constant_factor"]
                found["validate.doubling.mean"] = 100 * steps["mean_abs_error"]
                found["validate.doubling.constant"] = 100 * flat["mean_abs_error"]
            for key in ("median", "mean", "p90"):
                found[f"validate.{quantity}.{key}"] = 100 * part[f"{key}_abs_error"]
            for source, one in part["by_source"].items():
                found[f"validate.{quantity}.{source}.median"] = 100 * one["median_abs_error"]
                found[f"validate.{quantity}.{source}.rows"] = one["n"]
    for key, values in errors.items():
        found[f"fit.{key}.least"] = 100 * min(values)
        found[f"fit.{key}.most"] = 100 * max(values)
        found[f"fit.{key}.sets"] = len(values)
    return found


# -- pages ---------------------------------------------------------------------------------------

_FENCE = re.compile(r"^```(console|pycon|python)\n(.*?)^```$", re.M | re.S)
_SECTION = re.compile(r"(<!-- begin ([\w-]+) -->\n).*?(<!-- end \2 -->)", re.S)
_FIGURE = re.compile(r"<!--=([\w.-]+):([^>]*?)-->(.*?)<!--/-->")


def _fill(found: re.Match[str]) -> str:
    name, form, _ = found.groups()
    return f"<!--={name}:{form}-->{figures()[name]:{form}}<!--/-->"


def render(text: str) -> str:
    """A page with everything that is made as it is now."""
    names: dict[str, Any] = {}

    def block(found: re.Match[str]) -> str:
        kind, body = found.groups()
        if kind == "console":
            body = console(body)
        elif kind == "pycon":
            body = session(body, names)
        else:
            ast.parse(body)
            with _as_a_reader():
                exec(compile(body, "<page>", "exec"), names)
        return f"```{kind}\n{body}```"

    def section(found: re.Match[str]) -> str:
        return f"{found[1]}{SECTIONS[found[2]]()}\n{found[3]}"

    return _FENCE.sub(block, _FIGURE.sub(_fill, _SECTION.sub(section, text)))


def same(a: str, b: str) -> bool:
    """Equal but for spaces."""
    return _plain(a) == _plain(b)


def picture() -> str:
    return str(runpy.run_path(str(DOCS / "picture.py"))["picture"]())


def stale() -> Iterator[tuple[Path, str]]:
    """(file, its present text) of everything that is not as the tool says it now."""
    for path in pages():
        text = path.read_text(encoding="utf-8")
        now = render(text)
        if not same(text, now):
            yield path, now
    now = picture()
    if not PICTURE.exists() or not same(PICTURE.read_text(encoding="utf-8"), now):
        yield PICTURE, now


def main() -> int:
    check = "--check" in sys.argv
    found = 0
    for path, now in stale():
        found += 1
        print(f"{'not current' if check else 'written'}: {path.relative_to(ROOT)}")
        if not check:
            path.write_text(now, encoding="utf-8")
    return int(check and found > 0)


if __name__ == "__main__":
    sys.exit(main())
