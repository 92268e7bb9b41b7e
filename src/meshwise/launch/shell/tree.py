"""Tokens of a shell text as statements: commands, branches, loops, functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from meshwise.errors import InputError
from meshwise.launch.shell.words import Token, Word, bare, word_text

_MAX_DEPTH = 40


class Simple(NamedTuple):
    """A command; ``tokens`` are its words, arrays and redirects."""

    tokens: tuple[Token, ...]


class Branch(NamedTuple):
    """Of ``ways`` (condition, body) one runs, or none of them unless ``complete``. ``subject``: the
    word that a ``case`` compares with the conditions' patterns."""

    ways: tuple[tuple[Body, Body], ...]
    complete: bool
    subject: Word | None = None


class Loop(NamedTuple):
    """``for NAME in WORDS``; without a name the body runs once."""

    name: str | None
    words: tuple[Word, ...]
    body: Body


class Function(NamedTuple):
    name: str
    body: Body


class Subshell(NamedTuple):
    """A body with variables of its own: ``(…)``, the parts of a pipeline, what runs beside."""

    body: Body


Statement = Simple | Branch | Loop | Function | Subshell
Body = tuple["Simple | Branch | Loop | Function | Subshell", ...]
_TESTS = ("[", "[[", "test", "((")


class Parser:
    """A tolerant one: what closes nothing is an ordinary word."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens, self.at, self.depth = tokens, 0, 0

    def body(self, *ends: str) -> Body:
        """Statements up to one of the reserved words, which is left to be read."""
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise InputError(
                f"command: more than {_MAX_DEPTH} statements inside each other",
                field="command",
                legal="a flatter script",
            )
        found: list[Statement] = []
        while self.at < len(self.tokens) and bare(self.tokens[self.at]) not in (ends or ("\0",)):
            token = self.tokens[self.at]
            if token == Token("op", "("):
                found += self._statement()
                continue
            if token.kind == "op":
                self.at += 1
                if token.text == ")" and ")" in ends:
                    self.at -= 1
                    break
                if token.text in ("|", "&") and found:
                    found[-1] = Subshell((found[-1],))
                if token.text == "|":
                    self._newlines()
                    found.append(Subshell(self._statement()))
                    continue
                if token.text == ";;" and ";;" in ends:
                    self.at -= 1
                    break
                if token.text in ("&&", "||") and found and _is_test(found[-1]):
                    condition = found.pop()
                    self._newlines()
                    then = self._statement()
                    ways: tuple[tuple[Body, Body], ...] = (((condition,), then),)
                    if token.text == "||":
                        ways = (((condition,), ()), ((), then))
                    found.append(Branch(ways, token.text == "||"))
                continue
            found += self._statement()
        self.depth -= 1
        return tuple(found)

    def _newlines(self) -> None:
        while self.at < len(self.tokens) and self.tokens[self.at] == Token("op", "\n"):
            self.at += 1

    def _statement(self) -> Body:
        if self.at >= len(self.tokens):
            return ()
        if self.tokens[self.at] == Token("op", "("):
            return (self._subshell(),)
        word = bare(self.tokens[self.at])
        readers: dict[str, Callable[[], Branch | Loop]] = {
            "if": self._if,
            "case": self._case,
            "for": self._for,
            "while": self._while,
            "until": self._while,
        }
        if word in readers:
            self.at += 1
            return (readers[word](),)
        if word in ("{", "}", "then", "do", "done", "fi", "esac", "!", "time"):
            self.at += 1
            return ()
        if word == "function" or self._is_function():
            return (self._function(word == "function"),)
        return (self._simple(),)

    def _subshell(self) -> Subshell:
        self.at += 1
        body = self.body(")")
        self.at += 1
        return Subshell(body)

    def _simple(self) -> Simple:
        start = self.at
        while self.at < len(self.tokens) and self.tokens[self.at].kind != "op":
            self.at += 1
        if self.at == start:
            self.at += 1
            return Simple(())
        return Simple(tuple(self.tokens[start : self.at]))

    def _skip(self, word: str) -> None:
        if self.at < len(self.tokens) and bare(self.tokens[self.at]) == word:
            self.at += 1

    def _if(self) -> Branch:
        ways: list[tuple[Body, Body]] = []
        complete = False
        while True:
            condition = self.body("then", "fi")
            self._skip("then")
            ways.append((condition, self.body("elif", "else", "fi")))
            word = bare(self.tokens[self.at]) if self.at < len(self.tokens) else "fi"
            self.at += 1
            if word == "else":
                complete = True
                ways.append(((), self.body("fi")))
                self._skip("fi")
            if word != "elif":
                return Branch(tuple(ways), complete)

    def _case(self) -> Branch:
        subject: Word = ()
        if self.at < len(self.tokens) and self.tokens[self.at].kind == "word":
            subject = self.tokens[self.at].words[0]
            self.at += 1
        self._newlines()
        self._skip("in")
        ways: list[tuple[Body, Body]] = []
        complete = False
        while self.at < len(self.tokens):
            self._newlines()
            if self.at >= len(self.tokens) or bare(self.tokens[self.at]) == "esac":
                self.at += 1
                break
            patterns: list[Token] = []
            while self.at < len(self.tokens) and self.tokens[self.at] != Token("op", ")"):
                if self.tokens[self.at].kind == "word":
                    patterns.append(self.tokens[self.at])
                self.at += 1
            self.at += 1
            complete = complete or any(word_text(p.words[0]) == "*" for p in patterns)
            ways.append(((Simple(tuple(patterns)),), self.body(";;", "esac")))
            if self.at < len(self.tokens) and self.tokens[self.at] == Token("op", ";;"):
                self.at += 1
        return Branch(tuple(ways), complete, subject)

    def _for(self) -> Loop:
        name = bare(self.tokens[self.at]) if self.at < len(self.tokens) else ""
        head = self._simple()
        words = tuple(t.words[0] for t in head.tokens[2:] if t.kind == "word")
        body = self.body("done")
        self._skip("done")
        return Loop(name if name.isidentifier() else None, words, body)

    def _while(self) -> Loop:
        condition = self.body("do")
        self._skip("do")
        body = self.body("done")
        self._skip("done")
        return Loop(None, (), (*condition, *body))

    def _is_function(self) -> bool:
        after = self.tokens[self.at + 1 : self.at + 3]
        name = bare(self.tokens[self.at]).replace("-", "_")
        return name.isidentifier() and after == [Token("op", "("), Token("op", ")")]

    def _function(self, keyword: bool) -> Function:
        self.at += 1 if keyword else 0
        name = bare(self.tokens[self.at]) if self.at < len(self.tokens) else ""
        self.at += 1
        if self.tokens[self.at : self.at + 2] == [Token("op", "("), Token("op", ")")]:
            self.at += 2
        self._newlines()
        if self.at < len(self.tokens) and self.tokens[self.at] == Token("op", "("):
            return Function(name, (self._subshell(),))
        self._skip("{")
        body = self.body("}")
        self._skip("}")
        return Function(name, body)


def _is_test(statement: Statement) -> bool:
    if not isinstance(statement, Simple) or not statement.tokens:
        return False
    return bare(statement.tokens[0]) in _TESTS
