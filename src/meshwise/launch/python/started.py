"""Commands that a Python program gives to the system, as the shell text that they are."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from meshwise.launch.python.program_options import own_name
from meshwise.launch.python.values import Values

_STARTS = {
    **dict.fromkeys(("run", "Popen", "call", "check_call", "check_output"), ("subprocess",)),
    **dict.fromkeys(("getoutput", "getstatusoutput"), ("subprocess",)),
    **dict.fromkeys(("system", "popen"), ("os",)),
    **dict.fromkeys(("create_subprocess_exec", "create_subprocess_shell"), ("asyncio",)),
}
# os.execvp(file, [words]), os.execlp(file, *words), os.spawnvp(mode, file, [words])
_REPLACES = ("execv", "execve", "execvp", "execvpe", "execl", "execlp", "execle", "execlpe")
_MAX_CALLS = 8  # of functions in functions
_SPAWNS = ("spawnv", "spawnve", "spawnvp", "spawnvpe")


def system_commands(tree: ast.Module, values: Values) -> str | None:
    """The shell text of the commands that a program gives to the system, with what it adds to their
    lists under the same conditions; None where it gives none."""
    written = _Written(tree, values)
    lines = []
    for scope in _scopes(tree):
        lines += written.of_block(scope)
    return "\n".join(lines) if written.starts else None


def _scopes(tree: ast.Module) -> Iterator[Sequence[ast.stmt]]:
    """The statements of the program and of each of its functions, each by itself."""
    yield tree.body
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.body


class _Written:
    """Statements as shell text: lists and texts that are put together, and what is started."""

    def __init__(self, tree: ast.Module, values: Values) -> None:
        self.values = values
        self.starts = False
        self.lists: set[str] = set()
        self.texts: set[str] = set()
        self.inside = self.made = 0
        self.functions = {
            n.name: n
            for n in ast.walk(tree)
            if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
        }

    def of_block(self, block: Sequence[ast.stmt]) -> list[str]:
        return [line for node in block for line in self._statement(node)]

    def _statement(self, node: ast.stmt) -> list[str]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return []  # a scope of its own
        if isinstance(node, ast.If):
            main = "__main__" in ast.unparse(node.test)
            return self._branches(
                node.test, main, self.of_block(node.body), self.of_block(node.orelse)
            )
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            return [*self._set(targets[0], node.value), *self._started(node.value)]
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
            return self._more(node.target, node.value)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            added = self._added(node.value)
            return added if added is not None else self._started(node.value)
        found = []
        for name in ("body", "handlers", "orelse", "finalbody"):
            for inner in getattr(node, name, []):
                if isinstance(inner, ast.ExceptHandler):
                    found += self.of_block(inner.body)
                elif isinstance(inner, ast.stmt):
                    found += self._statement(inner)
        heads = [
            getattr(node, "value", None),
            *(i.context_expr for i in getattr(node, "items", [])),
        ]
        return [x for h in heads if isinstance(h, ast.expr) for x in self._started(h)] + found

    def _branches(self, test: ast.expr, main: bool, yes: list[str], no: list[str]) -> list[str]:
        """What a condition decides on; where the text does not say, as the condition that it is."""
        holds = True if main else self.values.holds(test)
        if holds is not None:
            return yes if holds else no
        if not yes and not no:
            return []
        return [f"if {_condition(test)}; then", *(yes or [":"]), "else", *(no or [":"]), "fi"]

    # lists and texts

    def _set(self, target: ast.expr, value: ast.expr) -> list[str]:
        if isinstance(target, ast.Subscript) and self.values.dotted(target.value) == "os.environ":
            key = target.slice
            if isinstance(key, ast.Constant) and str(key.value).isidentifier():
                return [f"export {key.value!s}={_shown(self.values.of(value))}"]
            return []
        name = _name_of(target)
        if name is None:
            return []
        self.lists.discard(name)
        self.texts.discard(name)
        added = self._entries(name, value)
        if added is not None:
            self.lists.add(name)
            return added if added[:1] == [f"{name}=()"] else [f"{name}=()", *added]
        twice = name in self.values.names and self.values.names[name] is None
        text = self.values.of(value) if twice else None
        if isinstance(text, str) and not text.startswith("$"):
            self.texts.add(name)
            return [f"{name}={_in_quotes(text)}"]
        return []

    def _more(self, target: ast.expr, value: ast.expr) -> list[str]:
        name = _name_of(target)
        if name in self.texts:
            return [f"{name}+={_in_quotes(str(self.values.of(value)))}"]
        if name is None or name not in self.lists:
            return []
        added = self._entries(name, value)
        return added if added is not None else [f"{name}+=({self._one(value)})"]

    def _added(self, node: ast.Call) -> list[str] | None:
        """``words.append(…)``, ``words.extend([…])``; None of any other call."""
        if not isinstance(node.func, ast.Attribute) or len(node.args) != 1:
            return None
        name = _name_of(node.func.value)
        if name is None or name not in self.lists:
            return None
        if node.func.attr == "append":
            return self._entries(name, ast.List([node.args[0]], ast.Load()))
        return self._more(node.func.value, node.args[0]) if node.func.attr == "extend" else None

    def _entries(self, name: str, node: ast.expr) -> list[str] | None:
        """What adds a list's words to a shell's; None where it is no list."""
        if isinstance(node, ast.List | ast.Tuple):
            return [line for e in node.elts for line in self._entry(name, e)]
        own = _name_of(node)
        if own is not None and own in self.lists:
            return [f'{name}+=("${{{own}[@]}}")'] if own != name else []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = self._entries(name, node.left), self._entries(name, node.right)
            if left is None and right is None:
                return None
            one = left if left is not None else [f"{name}+=({self._one(node.left)})"]
            return [*one, *(right if right is not None else [f"{name}+=({self._one(node.right)})"])]
        if isinstance(node, ast.IfExp):
            yes, no = self._entries(name, node.body), self._entries(name, node.orelse)
            if yes is None or no is None:
                return None
            return self._branches(node.test, False, yes, no)
        if isinstance(node, ast.Call):
            return self._called(name, node)
        value = self.values.of(node)
        return [f"{name}+=({_shown(value)})"] if isinstance(value, list) else None

    def _entry(self, name: str, node: ast.expr) -> list[str]:
        if isinstance(node, ast.Starred):
            added = self._entries(name, node.value)
            return added if added is not None else [f"{name}+=({self._one(node.value)})"]
        if isinstance(node, ast.IfExp) and self.values.holds(node.test) is None:
            yes, no = self._entry(name, node.body), self._entry(name, node.orelse)
            return self._branches(node.test, False, yes, no)
        return [f"{name}+=({self._one(node)})"]

    def _called(self, name: str, node: ast.Call) -> list[str] | None:
        """The words that a call returns: a copy, a text taken apart, those of a function of the text."""
        called = ast.unparse(node.func)
        if called.endswith(".copy") or called == "list":
            whose = node.args[0] if node.args else getattr(node.func, "value", node)
            return self._entries(name, whose) if whose is not node else None
        if called.endswith(".split") and isinstance(node.func, ast.Attribute):
            text = node.args[0] if called == "shlex.split" and node.args else node.func.value
            if _name_of(text) in self.texts:
                return [f"{name}+=(${{{_name_of(text)}}})"]
        function = self.functions.get(called.removeprefix("self."))
        if function is not None and self.inside < _MAX_CALLS:
            returned = [n for n in ast.walk(function) if isinstance(n, ast.Return) and n.value]
            if len(returned) == 1 and returned[0].value is not None:
                self.inside += 1
                rows = self.of_block(function.body)
                added = self._entries(name, returned[0].value)
                self.inside -= 1
                return None if added is None else [*rows, *added]
        value = self.values.of(node)
        return [f"{name}+=({_shown(value)})"] if isinstance(value, list) else None

    def _one(self, node: ast.expr) -> str:
        name = _name_of(node)
        return f'"${{{name}}}"' if name in self.texts else _shown(self.values.of(node))

    # what is started

    def _started(self, node: ast.expr) -> list[str]:
        return [
            line
            for call in ast.walk(node)
            if isinstance(call, ast.Call)
            for line in self._command(call)
        ]

    def _command(self, node: ast.Call) -> list[str]:
        package, _, name = self.values.dotted(node.func).rpartition(".")
        package = package.split(".")[0]
        if package == "os" and name in (*_REPLACES, *_SPAWNS):
            return self._replacing(node, name)
        if package not in _STARTS.get(name, ()):
            return []
        given = next((k.value for k in node.keywords if k.arg in ("args", "cmd")), None)
        given = node.args[0] if node.args else given
        if given is None:
            return []
        self.starts = True
        if name == "create_subprocess_exec":
            return self._run(ast.List(list(node.args), ast.Load()))
        return self._run(given)

    def _run(self, node: ast.expr) -> list[str]:
        """A list of words, or a shell's text, as a command."""
        joined = isinstance(node, ast.Call) and ast.unparse(node.func) in ("' '.join", "shlex.join")
        if joined and isinstance(node, ast.Call) and node.args:
            node = node.args[0]
        known = self.values.names.get(node.id) if isinstance(node, ast.Name) else None
        if isinstance(known, ast.Call) and _name_of(node) not in (*self.lists, *self.texts):
            return self._run(known)
        if _name_of(node) in self.texts:
            return [f'eval "${{{_name_of(node)}}}"']
        self.made += 1
        name = f"COMMAND_{self.made}"
        added = self._entries(name, node)
        if added is not None:
            return [f"{name}=()", *added, f'"${{{name}[@]}}"']
        value = self.values.of(node)
        return [str(value)]

    def _replacing(self, node: ast.Call, name: str) -> list[str]:
        """``os.execvp``: the words after the program's own name, which is the first of them again."""
        arguments = list(node.args)[1:] if name in _SPAWNS else list(node.args)
        if len(arguments) < 2:
            return []
        self.starts = True
        rest = arguments[1:]
        if name.startswith("execl"):
            rest = rest[:-1] if name in ("execle", "execlpe") else rest
            return self._run(ast.List(rest, ast.Load()))
        return self._run(rest[0])


def _condition(test: ast.expr) -> str:
    """A condition of a program as a shell's, with the name by which its value can be given."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return f"! {_condition(test.operand)}"
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        other = test.comparators[0]
        sign = {ast.Eq: "=", ast.NotEq: "!="}.get(type(test.ops[0]))
        if sign and isinstance(other, ast.Constant):
            return f'[ "${{{own_name(test.left)}}}" {sign} {shlex.quote(str(other.value))} ]'
    return f'[ -n "${{{own_name(test)}}}" ]'


def _name_of(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}_{node.attr}" if node.value.id in ("self", "cls") else None
    return None


def _shown(value: Any) -> str:
    """A word of a list: what is not known stays a variable that a shell would put in, as one word."""
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    text = str(value)
    if "$" not in text:
        return shlex.quote(text)
    return text if text.startswith("$") and text[1:].isidentifier() else f'"{text}"'


def _in_quotes(text: str) -> str:
    """A text as one value, in which only what is not known stays a variable."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("`", "\\`") + '"'
