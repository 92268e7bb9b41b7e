"""Words of a shell expanded: variables, defaults, arrays, arithmetic; what is not known stays as it is."""

from __future__ import annotations

import ast
import re
from typing import Any

from meshwise.launch.shell.words import Lexer, Word, WordPart

Variables = dict[str, "str | tuple[str, ...]"]
MAX_WORDS = 100_000
_NAME = re.compile(r"[A-Za-z_]\w*|[0-9@*#?$!-]")
_BRACED = re.compile(r"([A-Za-z_]\w*|[0-9@*])(?:\[([^\]]*)\])?(:?[-=?+])?(.*)", re.DOTALL)
_JOINED = re.compile(r"\$\*|\$\{(\*|\w+\[\*\]).*\}", re.DOTALL)  # one word where it is quoted
_TRIM = re.compile(r"([A-Za-z_]\w*)(##|#|%%|%)(.*)", re.DOTALL)


def unfollowed(name: str, what: str) -> str:
    """The value of a variable that does not follow from the text: one word that stays unread, and says
    why."""
    return f"${{{name}!{what.replace(' ', '~')}}}"


WHY = re.compile(r"\$\{([A-Za-z_]\w*)!([^}]*)\}")


def reasons(word: str) -> dict[str, str]:
    """Variable → what sets it, of those in a word that do not follow from the text."""
    return {name: what.replace("~", " ") for name, what in WHY.findall(word)}


class Expander:
    """Expansion under a state's variables and files. ``:=`` assigns."""

    def __init__(self, variables: Variables, files: dict[str, str], depth: int = 0) -> None:
        self.variables, self.files, self.depth = variables, files, depth

    def fields(self, word: Word) -> list[str]:
        """The words that a word becomes: unquoted values are split, ``"${A[@]}"`` gives its entries."""
        done: list[str] = []
        now: list[str] | None = None  # of the field that is being put together
        for piece in word:
            if piece.quote == "'":
                now = [*(now or []), piece.text]
                continue
            if piece.quote == '"' and not piece.text:
                now = now or [""]
            for text, entries in self._parts(piece.text):
                if entries is None:
                    now = [*(now or []), text]
                    continue
                split = piece.quote != '"'
                if not split and _JOINED.fullmatch(text):
                    entries = (" ".join(entries),)
                found = [f for e in entries for f in (e.split() if split else [e])]
                if split and entries and entries[0][:1].isspace() and now is not None:
                    done.append("".join(now))
                    now = None
                for i, field in enumerate(found):
                    if i and now is not None:
                        done.append("".join(now))
                        now = None
                    now = [*(now or []), field]
        if now is not None:
            done.append("".join(now))
        return done[:MAX_WORDS]

    def text(self, word: Word) -> str:
        """One text, as an assignment takes it."""
        found = []
        for piece in word:
            if piece.quote == "'":
                found.append(piece.text)
            else:
                found += [t if e is None else " ".join(e) for t, e in self._parts(piece.text)]
        return "".join(found)

    def _parts(self, text: str) -> list[tuple[str, tuple[str, ...] | None]]:
        """(literal, None) and (source, entries of its value), in order."""
        found: list[tuple[str, tuple[str, ...] | None]] = []
        at = 0
        while True:
            dollar = text.find("$", at)
            if dollar < 0 or dollar == len(text) - 1:
                if text[at:]:
                    found.append((text[at:], None))
                return found
            if text[at:dollar]:
                found.append((text[at:dollar], None))
            end, value = self._expansion(text, dollar)
            source = text[dollar:end]
            found.append((source, value) if value is not None else (source, None))
            at = end

    def _expansion(self, text: str, dollar: int) -> tuple[int, tuple[str, ...] | None]:
        """(where it ends, the entries of its value; None: not known)."""
        following = text[dollar + 1]
        if following in "({":
            lexer = Lexer(text)
            lexer.at = dollar + 1
            source = lexer._bracketed()
            if following == "{":
                return lexer.at, self._braced(source[1:-1])
            if source.startswith("((") and source.endswith("))"):
                return lexer.at, self.arithmetic(source[2:-2])
            return lexer.at, self._substitution(source[1:-1])
        name = _NAME.match(text, dollar + 1)
        if name is None:
            return dollar + 1, None
        return name.end(), self._value(name.group(0))

    def _value(self, name: str) -> tuple[str, ...] | None:
        if name in ("@", "*"):
            name = "@"
        value = self.variables.get(name)
        if value is None:
            return None
        return value if isinstance(value, tuple) else (value,)

    def _braced(self, inner: str) -> tuple[str, ...] | None:
        trimmed = _TRIM.fullmatch(inner)
        if trimmed is not None:
            return self._trimmed(*trimmed.groups())
        match = _BRACED.fullmatch(inner)
        if match is None:
            return None
        name, index, operator, rest = match.groups()
        value = self._value(name)
        if value is not None and len(value) == 1 and WHY.fullmatch(value[0]):
            return value
        if index not in (None, "@", "*"):
            index = "".join(self._nested(index)).strip("\"'")
            keyed = self._value(f"{name}[{index}]")
            if keyed is not None:
                value, index = keyed, None
        if value is not None and index not in (None, "@", "*"):
            at = int(index) if index.isdigit() else -1
            value = (value[at],) if 0 <= at < len(value) else None
        if operator is None:
            return value if not rest else None
        empty = value is None or (operator[0] == ":" and not "".join(value))
        if operator[-1] == "+":
            return () if empty else self._nested(rest)
        if not empty or operator[-1] == "?":
            return value
        default = self._nested(rest)
        if operator[-1] == "=":
            self.variables[name] = " ".join(default)
        return default

    def _nested(self, text: str) -> tuple[str, ...]:
        if self.depth > 20:
            return (text,)
        inner = Expander(self.variables, self.files, self.depth + 1)
        lexer = Lexer(text.replace("\n", " "))
        words = [t.words[0] for t in lexer.read() if t.kind == "word"]
        return (" ".join(inner.text(w) for w in words),)

    def _trimmed(self, name: str, how: str, pattern: str) -> tuple[str, ...] | None:
        import fnmatch

        value = self._value(name)
        if value is None or len(value) != 1:
            return None
        text = value[0]
        cuts = range(len(text) + 1)
        if how in ("##", "%"):
            cuts = range(len(text), -1, -1)
        for cut in cuts:
            part, rest = (text[:cut], text[cut:]) if how[0] == "#" else (text[cut:], text[:cut])
            if fnmatch.fnmatchcase(part, pattern):
                return (rest,)
        return value

    def arithmetic(self, text: str) -> tuple[str, ...] | None:
        def named(match: re.Match[str]) -> str:
            value = self._value(match.group(1))
            return value[0] if value is not None and len(value) == 1 else match.group(0)

        source = re.sub(r"\$?\{?([A-Za-z_]\w*)\}?", named, text).strip()
        if len(source) > 200:
            return None
        try:
            return (str(_calculated(ast.parse(source, mode="eval").body)),)
        except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError):
            return None

    def _substitution(self, text: str) -> tuple[str, ...] | None:
        """``$(echo …)`` and ``$(cat FILE)`` of a file that the text writes."""
        if self.depth > 20:
            return None
        tokens = Lexer(text).read()
        if not tokens or any(t.kind not in ("word", "redirect") for t in tokens):
            return None
        inner = Expander(self.variables, self.files, self.depth + 1)
        words = [f for t in tokens if t.kind == "word" for f in inner.fields(t.words[0])]
        if words[:1] == ["echo"] and len(tokens) == sum(t.kind == "word" for t in tokens):
            return (" ".join(words[1:]),) if not any("$" in w for w in words) else None
        name = words[1] if words[:1] == ["cat"] and len(words) == 2 else None
        if name is None and not words and tokens[0].text == "<":
            name = inner.text(tokens[0].words[0])
        return (self.files[name].rstrip("\n"),) if name in self.files else None


def _calculated(node: ast.expr) -> int:
    """A shell's integers: division cuts towards zero."""
    if isinstance(node, ast.Constant) and type(node.value) is int and abs(node.value) < 1 << 62:
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _calculated(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        a, b = _calculated(node.left), _calculated(node.right)
        kinds: dict[Any, Any] = {
            ast.Add: lambda: a + b,
            ast.Sub: lambda: a - b,
            ast.Mult: lambda: a * b,
            ast.Div: lambda: abs(a) // abs(b) * (1 if a * b >= 0 else -1),
            ast.Mod: lambda: abs(a) % abs(b) * (1 if a >= 0 else -1),
        }
        if type(node.op) in kinds:
            return int(kinds[type(node.op)]())
    raise ValueError(ast.dump(node)[:40])


def literal(text: str) -> Word:
    return (WordPart(text, "'"),)
