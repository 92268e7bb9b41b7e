"""The house rules of the design: which way imports go, what is heavy, how long a module may be."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from meshwise.cli import COMMANDS, cli

ROOT = Path(__file__).parents[1] / "src" / "meshwise"
MODULES = sorted(ROOT.rglob("*.py"))
# Rank of a part; a part imports parts of its own rank only if it is itself, and lower ranks.
ARROW = [
    ("units", "errors", "arrays", "axes"),
    ("strict_tables", "dtypes", "files"),
    ("checks",),
    ("catalog",),
    ("workloads",),
    ("models", "clusters"),
    ("stacks",),
    ("arguments", "layouts"),
    ("program",),
    ("cost",),
    ("simulate",),
    ("search",),
    ("evidence",),
    ("runtime", "launch"),
    ("answers",),  # also what launch writes and reads
    ("curves", "plans", "collectives", "serving"),
    ("api",),
    ("comparison",),
    ("commands", "runs"),
    ("cli",),
]
RANK = {part: i for i, parts in enumerate(ARROW) for part in parts}
PUBLIC = {"__init__.py", "__main__.py"}  # the package's own: they re-export the top


def part_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path):
    """(line, module) of every import of a module, those inside functions too, relative ones resolved."""
    package = ["meshwise", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield node.lineno, module
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    if path.relative_to(ROOT).as_posix() in PUBLIC:
        return
    own = part_of(path)
    assert own in RANK, f"{own} has no place in the design"
    for line, name in imports(path):
        parts = name.split(".")
        if parts[0] != "meshwise" or len(parts) < 2:
            continue
        other = parts[1]
        if other in RANK:
            allowed = other == own or RANK[other] < RANK[own] or {own, other} <= {"units", "errors"}
            assert allowed, f"{path}:{line}: {own} imports {other}"
        else:  # meshwise itself: only its version, and that from the top
            assert RANK[own] >= RANK["api"], f"{path}:{line}: {own} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_runtime_imports_torch(path):
    if part_of(path) == "runtime":
        return
    heavy = {name.split(".")[0] for _, name in imports(path)} & {
        "torch",
        "transformers",
        "safetensors",
    }
    assert not heavy


# Lists of one kind: a command, an answer, each; and the package's own front.
LISTS = {"", "cli", "answers", "models/families"}
FOLDERS = sorted({path.parent.relative_to(ROOT).as_posix().removeprefix(".") for path in MODULES})


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_is_a_room_that_one_glance_takes_in(folder):
    modules = [p for p in (ROOT / folder).glob("*.py") if p.name != "__init__.py"]
    assert folder in LISTS or len(modules) <= 10
    assert ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text("utf-8")))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_are_short_enough_to_read(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


# Names that modules of a registry have in common.
TARGET = (
    *(
        "read",
        "write",
        "defaults",
        "split",
        "with_files",
        "shape",
        "model_named",
        "check_command",
        "unpriced",
    ),
    "claims",
)
PROTOCOLS = {("cli", "command"), *(("launch/targets", name) for name in TARGET)}
EXCEPTIONS = {
    "load_model": "meshwise.runtime's is public; the catalog's stands beside load_cluster and load_stack",
}


def public_names(path):
    """Functions, classes and constants that a module defines; type variables are of no interest."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            made = getattr(node.value, "func", None)
            if isinstance(made, ast.Name) and made.id in ("TypeVar", "ParamSpec"):
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts = [x for target in targets for x in getattr(target, "elts", [target])]
            found = [x.id for x in parts if isinstance(x, ast.Name)]
        else:
            continue
        yield from (name for name in found if not name.startswith("_"))


def names_in_several_modules():
    homes = {}
    for path in MODULES:
        folder = path.parent.relative_to(ROOT).as_posix()
        for name in public_names(path):
            if (folder, name) not in PROTOCOLS:
                homes.setdefault(name, set()).add(path.relative_to(ROOT).as_posix())
    return {name: sorted(paths) for name, paths in homes.items() if len(paths) > 1}


def test_a_public_name_is_defined_in_one_module():
    """So that a name says which it is wherever it stands, and a search for it finds one definition."""
    assert {n: p for n, p in names_in_several_modules().items() if n not in EXCEPTIONS} == {}


def test_exceptions_to_names_in_one_module_are_ones():
    assert set(EXCEPTIONS) <= set(names_in_several_modules())


def loaded(*argv, then=None):
    """Top-level modules that a command line loads; ``then``: and the same with more words, after it."""
    lines = [list(argv)] if then is None else [list(argv), [*argv, *then]]
    code = (
        "import sys, json, io, contextlib\n"
        "from meshwise.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    code = max(main(argv) for argv in {lines!r})\n"
        "print(json.dumps([code, sorted({m.split('.')[0] for m in sys.modules})]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    code, names = json.loads(done.stdout)
    assert code == 0
    return set(names)


HEAVY = {"torch", "transformers", "scipy", "rich", "altair", "pyarrow", "huggingface_hub", "pandas"}


@pytest.mark.parametrize(
    "argv",
    [
        ("scale", "gpt3-175b", "--on", "dgx-a100", "--batch", "32", "--seq", "2048"),
        ("estimate", "gpt2", "--on", "dgx-a100", "--seq", "1024"),
        ("explain", "gpt2", "--on", "dgx-a100", "--seq", "1024"),
        ("model", "gpt2"),
        ("collective", "all_reduce", "1MB", "--on", "dgx-a100"),
        ("catalog", "devices"),
    ],
    ids=lambda a: a[0],
)
def test_json_loads_nothing_heavy(argv):
    assert not loaded(*argv, then=("--json",)) & HEAVY  # plain text in a pipe, and JSON


@pytest.mark.parametrize("argv", [("--help",), ("--version",)])
def test_help_loads_next_to_nothing(argv):
    assert not loaded(*argv) & (HEAVY | {"numpy", "msgspec", "json5", "tomllib"})


def test_a_parser_for_toml_is_loaded_only_to_read_toml():
    assert "numpy" not in loaded("model", "--help")


def test_importing_meshwise_costs_next_to_nothing():
    code = "import sys, meshwise; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n"


def test_public_names_exist():
    import meshwise

    for name in meshwise.__all__:
        assert getattr(meshwise, name) is not None


def test_no_package_has_the_name_of_a_public_function():
    """Importing a submodule binds its name in the package: it would take the function's place."""
    import importlib

    for package in ("meshwise", "meshwise.runtime"):
        if package == "meshwise.runtime":
            pytest.importorskip("torch")
        module = importlib.import_module(package)
        folder = Path(module.__path__[0])
        below = {p.stem for p in folder.glob("*.py")} | {
            p.name for p in folder.iterdir() if p.is_dir()
        }
        for name in module.__all__:
            assert name not in below, f"{package}.{name}"
            assert getattr(module, name) is not None


# Options of ours that strings outside the command line may have with their dashes, and why.
SPELLED = {
    # flags of other software that are called as ours are
    "launch/settings/formats.py": {"--dtype"},
    "launch/targets/megatron_bridge.py": {"--model"},
    "launch/targets/torchtitan.py": {"--model"},
    "launch/targets/megatron_lm.py": {"--sequence-parallel"},
    "launch/wrappers/slurm.py": {"--gpus", "--gpus-per-node", "--nodes"},
    "launch/wrappers/written.py": {"--nodes"},
    # how much of a page is printed, which only the command line is asked
    "answers/text/narrow.py": {"--wide"},
    "answers/text/tables.py": {"--detail"},
    "answers/validate.py": {"--json"},
    # commands that go one step further, in full
    "answers/catalog.py": {"--toml"},
    "launch/wrappers/servers.py": {"--gpus"},  # docker's own
    "launch/shell/runners/carried.py": {"--timeout"},  # GNU parallel's own
    "errors.py": {"--dcp", "--tp"},  # says how the command line spells them
}
SPELLING = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
COMMAND_LINE = re.compile(rf"`+(?:meshwise )?(?:{'|'.join(COMMANDS)}) [^`]*`+")  # in full


def options_of_commands():
    """The first spelling of every option, and of its opposite; others are those that engines use."""
    for name in COMMANDS:
        for param in cli.get_command(None, name).params:
            yield from (o for o in (param.opts[0], *param.secondary_opts) if o.startswith("--"))


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if part_of(p) != "cli"],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_only_the_command_line_spells_its_options(path):
    """Elsewhere an error names the field: ``tp``, marked in a sentence (``meshwise.errors``)."""
    own, name = set(options_of_commands()), path.relative_to(ROOT).as_posix()
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= own & set(SPELLING.findall(COMMAND_LINE.sub("", node.value)))
        elif isinstance(node, ast.JoinedStr) and part_of(path) != "launch":
            texts = [v.value for v in node.values if isinstance(v, ast.Constant)]
            found |= {
                t for t in texts if re.search(r"(?<![\w-])--$", str(t))
            }  # and a name behind it
    assert found == SPELLED.get(name, set())
