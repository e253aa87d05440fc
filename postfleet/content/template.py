"""The substitution language: `{{path}}` and `{{{path}}}`, compiled to fragments once, joined per recipient.

A path is dotted names into the substitution data; a recipient's data hides the
transmission's by first name. `address.name`, `address.email`, `email` and
`email_id` are built in. What is missing, null, a list or an object gives nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

_VARIABLE = re.compile(r"\{\{(\{?)\s*([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\s*(\}?)\}\}", re.ASCII)
_RESERVED = frozenset(
    "and break do each else elseif end false for function if in local nil not or repeat return then true until while"
    " empty".split()
)

MAX_FRAGMENTS = 20_000
"""Pieces of text and variables in one part."""
MAX_SUBSTITUTED = 20 * 1024 * 1024
"""Characters that the values of one message may have together."""


class Variable(Struct, frozen=True, array_like=True):
    """`raw`: written in three braces, to be left unescaped in HTML."""

    path: tuple[str, ...]
    raw: bool = False


Fragments = tuple[str | Variable, ...]


class Unrenderable(ValueError):
    """One recipient's data does not make a message that could be sent."""


class TemplateError(ValueError):
    """The template does not compile. `part` is `text`, `html` or `Header:NAME`; `line` counts from 1."""

    def __init__(self, part: str, line: int, reason: str) -> None:
        super().__init__(f"Error while compiling part {part}: line {line}: {reason}")
        self.part = part
        self.line = line


def parse(source: str, part: str) -> Fragments:
    """Literal text and variables in turn. Raises `TemplateError`."""
    fragments: list[str | Variable] = []
    position = 0
    while (start := source.find("{{", position)) >= 0:
        match = _VARIABLE.match(source, start)
        if match is None or (match[1] and not match[3]) or not _RESERVED.isdisjoint(path := match[2].split(".")):
            raise _error(source, start, part)
        if start > position:
            fragments.append(source[position:start])
        fragments.append(Variable(tuple(path), bool(match[1])))
        # a third closing brace that no third opening one asked for is text, as in `{color:{{c}}}`
        position = match.end() - (bool(match[3]) and not match[1])
        if len(fragments) > MAX_FRAGMENTS:
            raise TemplateError(part, source.count("\n", 0, start) + 1, f"more than {MAX_FRAGMENTS} pieces")
    if position < len(source):
        fragments.append(source[position:])
    return tuple(fragments)


def _error(source: str, start: int, part: str) -> TemplateError:
    line = source.count("\n", 0, start) + 1
    end = source.find("}}", start)
    if end < 0:
        return TemplateError(part, line, "substitution statement missing ending '}}'")
    return TemplateError(part, line, f"syntax error near '{source[start:end].lstrip('{').strip()[:40]}'")


def has_variables(fragments: Fragments) -> bool:
    return any(type(fragment) is Variable for fragment in fragments)


class Substitutions:
    """The values that one recipient's copy sees. Raises `Unrenderable` once they are too long together."""

    __slots__ = ("_email", "_name", "_recipient", "_room", "_shared")

    def __init__(self, shared: Mapping[str, Any], recipient: Mapping[str, Any], email: str, name: str) -> None:
        self._shared = shared
        self._recipient = recipient
        self._email = email
        self._name = name
        self._room = MAX_SUBSTITUTED

    def value(self, path: tuple[str, ...]) -> str:
        if path in _BUILT_IN:
            return self._name if path[-1] == "name" else self._email
        first = path[0]
        found = self._recipient[first] if first in self._recipient else self._shared.get(first)
        for name in path[1:]:
            found = found.get(name) if isinstance(found, dict) else None
        text = found if type(found) is str else _to_text(found)
        self._room -= len(text)
        if self._room < 0:
            raise Unrenderable(f"substituted values have more than {MAX_SUBSTITUTED} characters")
        return text

    def join(self, fragments: Fragments) -> str:
        return "".join([f if type(f) is str else self.value(f.path) for f in fragments])  # type: ignore[union-attr]


_BUILT_IN = frozenset({("email",), ("email_id",), ("address", "email"), ("address", "name")})


def _to_text(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return f"{value:.14g}"
        case _:
            return ""


# The six characters of OWASP's rule 1, as SparkPost escapes them.
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;", "/": "&#x2F;"})
_needs_escape = re.compile("[&<>\"'/]").search


def escape_html(value: str) -> str:
    return value.translate(_HTML) if _needs_escape(value) else value
