"""A shell text's tree as statements: commands, branches, loops, functions, made as they are reached."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from meshwise.launch.shell.syntax.redirects import REDIRECTS, RedirectReader
from meshwise.launch.shell.syntax.source import ScriptSource
from meshwise.launch.shell.syntax.statements import (
    Assignment,
    Body,
    Both,
    Calculate,
    CaseItem,
    CaseStatement,
    Count,
    For,
    Function,
    GroupStatement,
    If,
    Not,
    Pipe,
    Redirect,
    Simple,
    Statement,
    Test,
    Unread,
    While,
)
from meshwise.launch.shell.syntax.words import Pieces, Word, WordReader

# statements of which every word counts: unreadable in a part, they are in whole
_WHOLE = frozenset(
    [
        "command",
        "variable_assignment",
        "variable_assignments",
        "declaration_command",
        "unset_command",
        "test_command",
    ]
)


# what is not readable, brackets that nothing closes among it
_BROKEN = ("ERROR", "(", "((", ")", "))", "$(")


def body_of(source: ScriptSource) -> Body:
    return Body(source, source.root.children)


class StatementBuilder:
    """Statements of nodes. What a node has of unreadable is not guessed over."""

    def __init__(self, source: ScriptSource) -> None:
        self.source, self.reader = source, WordReader(source)
        self.redirects = RedirectReader(self.reader)

    def statements(self, nodes: Sequence[Any]) -> list[Statement]:
        found: list[Statement] = []
        broken = [(n.start_point[0], n.end_point[0]) for n in nodes if n.type in _BROKEN]
        for node in nodes:
            if node.type == "&" and found:
                found[-1] = GroupStatement(Body(self.source, (), (found[-1],)), True)
            if (not node.is_named and node.type not in ("[[", "[")) or node.type == "comment":
                continue
            beside = any(
                node.end_point[0] == first or node.start_point[0] == last for first, last in broken
            )
            found.append(self._unread(node) if beside else self.statement(node))
        return found

    def _unread(self, node: Any) -> Unread:
        source, end = self.source, node.end_byte
        place = source.file, source.line(node), source.line_at(end)
        return Unread(source.text(node.start_byte, end), *place)

    def statement(self, node: Any) -> Statement:
        whole = node.type in _WHOLE or (
            node.type == "compound_statement" and node.children[0].type == "(("
        )
        if node.has_error and whole:
            return self._unread(node)
        make = getattr(self, f"_{node.type}", None)
        if make is None:
            return self._unread(node)
        try:
            made: Statement = make(node)
        except (AttributeError, IndexError, TypeError, ValueError):
            # an error of the text leaves nodes with other parts than the grammar has
            if not self.source.root.has_error:
                raise
            return self._unread(node)
        return made

    def _body(self, nodes: Sequence[Any]) -> Body:
        return Body(self.source, nodes)

    def _one(self, made: Statement, node: Any) -> Body:
        return Body(self.source, (node,), (made,))

    # commands

    def _command(self, node: Any) -> Statement:
        assignments, rest = self._assignments(node.children)
        words: list[Word] = []
        now: list[Any] = []
        redirects: list[Redirect] = []
        for child in rest:
            if child.type in REDIRECTS:
                words += self.reader.words(now)
                now = []
                made = self.redirects.redirects(child)
                if made is None:
                    return self._unread(node)
                redirects += made
            else:
                now.append(child)
        words += self.reader.words(now)
        return Simple(assignments, tuple(words), tuple(redirects), False, self.source.line(node))

    def _assignments(self, nodes: Sequence[Any]) -> tuple[tuple[Assignment, ...], list[Any]]:
        """Assignments, and the other nodes. A node without a space before it goes on with the value of
        the assignment before, whatever the grammar takes it for."""
        found: list[list[Any]] = []
        rest: list[Any] = []
        before = None
        for child in nodes:
            gap = None if before is None else self.source.text(before.end_byte, child.start_byte)
            if gap is not None and not re.sub(r"\\[\s\S]", "", gap) and child.type != "comment":
                found[-1].append(child)
            elif child.type == "variable_assignment":
                found.append([child])
            else:
                rest.append(child)
                before = None
                continue
            before = child
        return tuple(self._assigned(*each) for each in found), rest

    def _variable_assignments(self, node: Any) -> Statement:
        nodes = node.children if node.type == "variable_assignments" else [node]
        return Simple(self._assignments(nodes)[0], (), (), False, self.source.line(node))

    _variable_assignment = _variable_assignments

    def _declaration_command(self, node: Any) -> Statement:
        assigned, others = self._assignments(node.children)
        words = [w for c in others if c.type != "comment" for w in self.reader.words([c])]
        return Simple(assigned, tuple(words), (), True, self.source.line(node))

    def _unset_command(self, node: Any) -> Statement:
        words = self.reader.words(node.children)
        return Simple((), tuple(words), (), False, self.source.line(node))

    def _assigned(self, node: Any, *others: Any) -> Assignment:
        target, operator, *values = [c for c in node.children if c.type != "comment"]
        line = self.source.line(node)
        name, key = self.source.text(target.start_byte, target.end_byte), None
        if target.type == "subscript":
            name, _, rest = name.partition("[")
            key = Word(tuple(self.reader.again(rest[:-1], '"', line)), line)
        more = operator.type == "+="
        if values and values[0].type == "array":
            entries = tuple(self.reader.words(values[0].children[1:-1]))
            return Assignment(name, key, more, (), entries, line)
        pieces = tuple(p for w in self.reader.words([*values, *others]) for p in w.pieces)
        return Assignment(name, key, more, pieces, None, line)

    # redirects

    def _redirected_statement(self, node: Any) -> Statement:
        redirects: list[Redirect] = []
        tail: list[tuple[str, Any]] = []
        words: list[Word] = []
        body = None
        for child in node.children:
            if child.type in REDIRECTS:
                made = self.redirects.redirects(child)
                if made is None:
                    return self._unread(node)
                redirects += made
                if child.type == "heredoc_redirect":
                    words += self.redirects.more_words(child)
                    tail += self.redirects.tail(child)
            elif child.type == "ERROR" or body is not None:
                return self._unread(node)
            else:
                body = child
        made_body = Simple((), (), (), False, self.source.line(node))
        whole = self._with(
            self.statement(body) if body is not None else made_body, redirects, words
        )
        for operator, after in tail:
            left = self._one(whole, node)
            if operator in ("&&", "||"):
                whole = Both(left, operator, self._body([after]))
            else:
                whole = Pipe((left, *self._parts(after)))
        return whole

    def _with(self, made: Statement, redirects: list[Redirect], words: list[Word]) -> Statement:
        """A statement with redirects of its last command, which the grammar puts around all."""
        if isinstance(made, Simple):
            return made._replace(
                redirects=(*made.redirects, *redirects), words=(*made.words, *words)
            )
        if isinstance(made, Both):
            (last,) = made.right
            return made._replace(right=Body(self.source, (), (self._with(last, redirects, words),)))
        if isinstance(made, Pipe):
            (last,) = made.parts[-1]
            changed = Body(self.source, (), (self._with(last, redirects, words),))
            return Pipe((*made.parts[:-1], changed))
        if isinstance(made, Unread):
            return made
        return GroupStatement(Body(self.source, (), (made,)), False, tuple(redirects))

    # several commands

    def _list(self, node: Any) -> Statement:
        left, operator, right = [c for c in node.children if c.type != "comment"]
        if operator.type not in ("&&", "||"):
            return self._unread(node)
        return Both(self._body([left]), operator.type, self._body([right]))

    def _pipeline(self, node: Any) -> Statement:
        first, *others = self._parts(node)
        (made,) = first
        if isinstance(made, Both):  # the grammar takes a redirect for the end of a list
            return Both(made.left, made.operator, self._one(Pipe((made.right, *others)), node))
        return Pipe((first, *others))

    def _parts(self, node: Any) -> list[Body]:
        return [self._body([c]) for c in node.children if c.is_named and c.type != "comment"]

    def _negated_command(self, node: Any) -> Statement:
        return Not(self._body(node.children[1:]))

    def _subshell(self, node: Any) -> Statement:
        return GroupStatement(self._body(node.children[1:-1]), True)

    def _compound_statement(self, node: Any) -> Statement:
        if node.children[0].type != "((":
            return GroupStatement(self._body(node.children[1:-1]), False)
        return self._calculated(node)

    def _calculated(self, node: Any) -> Statement:
        inner = self.reader.between(node.children, node.start_byte + 2, node.end_byte - 2, '"')
        return Calculate(tuple(inner), self.source.line(node))

    def _test_command(self, node: Any) -> Statement:
        opened = node.children[0].type
        if opened == "((":
            return self._calculated(node)
        words: list[Word] = []
        now: list[Any] = []
        for part in _flat(node.children[1:-1]):
            if part.type in ("(", ")"):
                words += [*self.reader.words(now), *self.reader.words([part])]
                now = []
            else:
                now.append(part)
        words += self.reader.words(now)
        return Test(tuple(words), opened == "[[", self.source.line(node))

    # branches and loops

    def _if_statement(self, node: Any) -> Statement:
        ways: list[tuple[Body, Body]] = []
        otherwise = None
        condition: list[Any] = []
        body: list[Any] = []
        now = condition
        for child in node.children[1:]:
            if child.type == "then":
                now = body
            elif child.type == "elif_clause":
                at = next((i for i, c in enumerate(child.children) if c.type == "then"), None)
                if at is None:
                    return self._unread(node)
                ways.append(
                    (self._body(child.children[1:at]), self._body(child.children[at + 1 :]))
                )
            elif child.type == "else_clause":
                otherwise = self._body(child.children[1:])
            elif child.type != "fi":
                now.append(child)
        return If(((self._body(condition), self._body(body)), *ways), otherwise)

    def _case_statement(self, node: Any) -> Statement:
        subject: list[Any] = []
        items: list[CaseItem] = []
        for child in node.children:
            if child.type == "case_item":
                made = self._case_item(child)
                if made is None:
                    return self._unread(node)
                items.append(made)
            elif child.type == "ERROR":
                return self._unread(node)
            elif child.is_named and child.type != "comment" and not items:
                subject.append(child)
        words = self.reader.words(subject)
        if len(words) != 1:
            return self._unread(node)
        shown = self.source.text(subject[0].start_byte, subject[-1].end_byte)
        return CaseStatement(words[0], tuple(items), shown)

    def _case_item(self, node: Any) -> CaseItem | None:
        patterns: list[Word] = []
        now: list[Any] = []
        rest = list(node.children)
        while rest:
            child = rest.pop(0)
            if child.type == "ERROR":
                return None
            if child.type in ("|", ")"):
                patterns += self.reader.words(now)
                now = []
                if child.type == ")":
                    break
            elif child.type not in ("(", "comment"):
                now.append(child)
        goes_on = any(c.type == ";&" for c in rest)
        if any(c.type == ";;&" for c in rest):
            return None
        return CaseItem(tuple(patterns), self._body(rest), goes_on)

    def _for_statement(self, node: Any) -> Statement:
        name, words, said = "", [], False
        body: Body | None = None
        for child in node.children:
            if child.type == "variable_name" and not name:
                name = self.source.text(child.start_byte, child.end_byte)
            elif child.type == "in":
                said = True
            elif child.type in ("do_group", "compound_statement"):
                body = self._body(child.children[1:-1])
            elif child.type == "ERROR":
                return self._unread(node)
            elif said and child.type not in (";", "\n", "comment"):
                words.append(child)
        if body is None or any(w.has_error for w in words):
            return self._unread(node)
        line = self.source.line(node)
        return For(name, tuple(self.reader.words(words)) if said else None, body, line)

    def _while_statement(self, node: Any) -> Statement:
        condition: list[Any] = []
        body = None
        for child in node.children[1:]:
            if child.type == "do_group":
                body = self._body(child.children[1:-1])
            else:
                condition.append(child)
        if body is None:
            return self._unread(node)
        until = node.children[0].type == "until"
        return While(self._body(condition), until, body, self.source.line(node))

    def _c_style_for_statement(self, node: Any) -> Statement:
        parts: list[Pieces] = []
        start = body = None
        now: list[Any] = []
        for child in node.children:
            if child.type == "((":
                start = child.end_byte
            elif child.type in (";", "))") and start is not None and len(parts) < 3:
                inner = self.reader.between(now, start, child.start_byte, '"')
                parts.append(tuple(inner))
                start, now = child.end_byte, []
            elif child.type in ("do_group", "compound_statement"):
                body = self._body(child.children[1:-1])
            elif child.type == "ERROR":
                return self._unread(node)
            else:
                now.append(child)
        if body is None or len(parts) != 3:
            return self._unread(node)
        return Count((parts[0], parts[1], parts[2]), body, self.source.line(node))

    def _function_definition(self, node: Any) -> Statement:
        name = node.child_by_field_name("name")
        body = node.child_by_field_name("body")
        if name is None or body is None:
            return self._unread(node)
        return Function(self.source.text(name.start_byte, name.end_byte), self._body([body]))


def _flat(nodes: Sequence[Any]) -> Iterator[Any]:
    """Words and brackets of a condition."""
    for node in nodes:
        if node.type.endswith("_expression") or node.type == "negation_expression":
            yield from _flat(node.children)
        else:
            yield node
