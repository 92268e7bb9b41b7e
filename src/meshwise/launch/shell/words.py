"""Shell text as tokens: words with their quotes, operators, arrays, here-documents."""

from __future__ import annotations

import re
from typing import NamedTuple

from meshwise.errors import InputError, shorten

MAX_TOKENS = 100_000
_OPERATORS = ("&&", "||", ";;", ";", "|", "&", "(", ")", "\n")
_ARRAY = re.compile(r"([A-Za-z_]\w*)(\+?)=\($")
_BEFORE_COMMANDS = ("if", "elif", "while", "until", "then", "else", "do", "!", "{", "time")
_CLOSING = {"(": ")", "{": "}"}


class WordPart(NamedTuple):
    """A part of a word: ``quote`` is ``'`` (taken as it is), ``"`` (expanded, not split) or empty."""

    text: str
    quote: str


Word = tuple[WordPart, ...]


class Token(NamedTuple):
    """``kind``: word, op, array (``text`` its name, with + where it appends; ``words`` its entries),
    redirect (``text`` the operator) or here (``text`` the body, ``words`` its delimiter)."""

    kind: str
    text: str
    words: tuple[Word, ...] = ()
    line: int = 0  # of a word


def word_text(word: Word) -> str:
    return "".join(piece.text for piece in word)


def bare(token: Token) -> str:
    """The text of a word without any quotes, else nothing: reserved words are such."""
    if token.kind != "word" or any(piece.quote for piece in token.words[0]):
        return ""
    return word_text(token.words[0])


def _open(what: str, text: str, at: int) -> InputError:
    line = text.count("\n", 0, at) + 1
    return InputError(
        f"command: {what} in line {line}",
        field="command",
        value=shorten(text[at : at + 60]),
        legal="a shell command with its quotes closed",
    )


class Lexer:
    """One pass over a text."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.tokens: list[Token] = []
        self.counted, self.line = 0, 1
        self.waiting: list[tuple[int, str, bool, bool]] = []  # here-documents of this line

    def read(self) -> list[Token]:
        self._until(None)
        if self.waiting:
            raise _open("a here-document without its end", self.text, len(self.text) - 1)
        return self.tokens

    def _until(self, closing: str | None) -> None:
        text, size = self.text, len(self.text)
        while self.at < size:
            c = text[self.at]
            if len(self.tokens) > MAX_TOKENS:
                raise _open(f"more than {MAX_TOKENS:,} words", text, self.at)
            if c == closing:
                self.at += 1
                return
            if c in " \t":
                self.at += 1
            elif c == "#":
                end = text.find("\n", self.at)
                self.at = size if end < 0 else end
            elif c == "\n":
                self.at += 1
                self.tokens.append(Token("op", "\n"))
                self._bodies()
            elif not self._arithmetic() and not self._redirect():
                operator = next((o for o in _OPERATORS if text.startswith(o, self.at)), None)
                if operator is not None:
                    self.at += len(operator)
                    self.tokens.append(Token("op", operator))
                else:
                    self._word()
        if closing is not None:
            raise _open("no closing bracket", text, size - 1)

    def _here(self) -> int:
        """The line that is being read."""
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = max(self.counted, self.at)
        return self.line

    def _arithmetic(self) -> bool:
        """``((…))`` where a command begins: a word for the brackets, one for what is within."""
        before = self.tokens[-1] if self.tokens else Token("op", "\n")
        if not self.text.startswith("((", self.at):
            return False
        if before.kind != "op" and bare(before) not in _BEFORE_COMMANDS:
            return False
        start, line = self.at, self._here()
        try:
            source = self._bracketed()
        except InputError:
            source = ""
        if not source.endswith("))"):
            self.at = start
            return False
        for piece in (WordPart("((", ""), WordPart(source[2:-2], '"')):
            self.tokens.append(Token("word", "", ((piece,),), line))
        return True

    def _redirect(self) -> bool:
        found = re.compile(r"\d?(<<<|<<-?|&>>?|>>|>\||>&|<&|<\(|>\(|[<>])").match(
            self.text, self.at
        )
        if found is None or (found.group(0)[0].isdigit() and not found.group(1)):
            return False
        operator = found.group(1)
        self.at = found.end()
        if operator in ("<(", ">("):
            self.at -= 1
            self.tokens.append(Token("word", "", ((WordPart(self._bracketed(), "'"),),)))
            return True
        while self.at < len(self.text) and self.text[self.at] in " \t":
            self.at += 1
        target = self._pieces()
        if operator in ("<<", "<<-"):
            quoted = any(piece.quote for piece in target)
            self.waiting.append((len(self.tokens), word_text(target), quoted, operator == "<<-"))
        self.tokens.append(Token("redirect", operator, (target,)))
        return True

    def _bodies(self) -> None:
        """Here-documents that begin after this line."""
        for index, delimiter, quoted, dedent in self.waiting:
            rows: list[str] = []
            while True:
                end = self.text.find("\n", self.at)
                row = self.text[self.at :] if end < 0 else self.text[self.at : end]
                start, self.at = self.at, len(self.text) if end < 0 else end + 1
                if (row.lstrip("\t") if dedent else row).rstrip(" \t") == delimiter:
                    break
                if end < 0:
                    raise _open(f"a here-document without its {delimiter}", self.text, start)
                rows.append(row.lstrip("\t") if dedent else row)
            body = WordPart("\n".join(rows), "'" if quoted else '"')
            self.tokens[index] = Token("here", delimiter, ((body,),))
        self.waiting = []

    def _word(self) -> None:
        line = self._here()
        word = self._pieces()
        array = _ARRAY.search(word[0].text + "(") if len(word) == 1 and not word[0].quote else None
        if array is not None and self.text.startswith("(", self.at):
            self.at += 1
            outer, self.tokens = self.tokens, []
            waiting, self.waiting = self.waiting, []
            self._until(")")
            if self.waiting:
                raise _open("a here-document in an array", self.text, self.at)
            inner, self.tokens, self.waiting = self.tokens, outer, waiting
            entries = tuple(t.words[0] for t in inner if t.kind == "word")
            name = array.group(1) + array.group(2)
            self.tokens.append(Token("array", name, entries, line))
            return
        self.tokens.append(Token("word", "", (word,), line))

    def _pieces(self) -> Word:
        text, size = self.text, len(self.text)
        found: list[WordPart] = []
        start = self.at

        def keep(end: int) -> None:
            if end > start:
                found.append(WordPart(text[start:end], ""))

        while self.at < size:
            c = text[self.at]
            if c in " \t\n;&|()<>":
                break
            if c == "\\":
                keep(self.at)
                if text[self.at + 1 : self.at + 2] != "\n":  # else the line goes on
                    found.append(WordPart(text[self.at + 1 : self.at + 2], "'"))
                self.at += 2
                start = self.at
            elif c in "'\"":
                keep(self.at)
                found.append(self._quoted(c))
                start = self.at
            elif c == "`":
                keep(self.at)
                end = text.find("`", self.at + 1)
                if end < 0:
                    raise _open("no closing backquote", text, self.at)
                found.append(WordPart(f"$({text[self.at + 1 : end]})", ""))
                self.at = start = end + 1
            elif c == "$" and text[self.at + 1 : self.at + 2] in ("(", "{"):
                self.at += 1
                self._bracketed()
            else:
                self.at += 1
        keep(min(self.at, size))
        return tuple(found)

    def _quoted(self, quote: str) -> WordPart:
        text, start = self.text, self.at
        self.at += 1
        if quote == "'":
            end = text.find("'", self.at)
            if end < 0:
                raise _open("no closing quotation", text, start)
            self.at = end + 1
            return WordPart(text[start + 1 : end], "'")
        kept: list[str] = []
        while self.at < len(text):
            c = text[self.at]
            if c == '"':
                self.at += 1
                return WordPart("".join(kept), '"')
            if c == "\\" and text[self.at + 1 : self.at + 2] in ('"', "\\", "\n", "`"):
                kept.append(text[self.at + 1].strip("\n"))
                self.at += 2
            elif c == "$" and text[self.at + 1 : self.at + 2] in ("(", "{"):
                begin = self.at
                self.at += 1
                self._bracketed()
                kept.append(text[begin : self.at])
            else:
                kept.append(c)
                self.at += 1
        raise _open("no closing quotation", text, start)

    def _bracketed(self) -> str:
        """From an opening bracket past the one that closes it, quotes within left alone."""
        text, start = self.text, self.at
        stack = [_CLOSING[text[self.at]]]
        self.at += 1
        while self.at < len(text) and stack:
            c = text[self.at]
            if c == "\\":
                self.at += 1
            elif c == "'" and stack[-1] == ")":
                end = text.find("'", self.at + 1)
                if end < 0:
                    raise _open("no closing quotation", text, self.at)
                self.at = end
            elif c in _CLOSING:
                stack.append(_CLOSING[c])
            elif c == stack[-1]:
                stack.pop()
            self.at += 1
        if stack:
            raise _open("no closing bracket", text, start)
        return text[start : self.at]
