"""Tables of TOML to records, with errors that name the file, the table and the key."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

R = TypeVar("R", bound=Struct)

Tables = Mapping[str, Mapping[str, Any]]
"""By name, as they were written."""

SECTIONS = ("profile", "limits", "rule")
"""What a file of providers is made of: `[profile.NAME]`, `[limits.NAME]`, `[rule.NAME]`."""


class BadTable(ValueError):
    """Says which file, table and key, and what is wrong with it."""


def shipped(name: str) -> Mapping[str, Any]:
    """A data file of this package."""
    return tomllib.loads(resources.files(__package__).joinpath(name).read_text())


def sections(text: str, source: str) -> Mapping[str, Tables]:
    """The tables of an operator's file by section, each section perhaps empty. Raises `BadTable`."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadTable(f"{source}: {error}") from None
    for section, tables in found.items():
        if section not in SECTIONS:
            raise BadTable(f"{source}: {section}: no such section; choose of {', '.join(SECTIONS)}")
        _check_tables(tables, f"{source}: {section}")
    return {section: found.get(section, {}) for section in SECTIONS}


def _check_tables(tables: object, where: str) -> None:
    if not isinstance(tables, dict):
        raise BadTable(f"{where}: write [{where.rpartition(' ')[2]}.NAME] and the keys below it")
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise BadTable(f"{where}.{name}: is {table!r}, but must be a table")


def merged(base: Tables, over: Tables) -> dict[str, Mapping[str, Any]]:
    """Key by key; what is only in one is taken as it is."""
    return {name: {**base.get(name, {}), **over.get(name, {})} for name in (*base, *(set(over) - set(base)))}


def record(kind: type[R], name: str, table: Mapping[str, Any], where: str) -> R:
    """A table as a record that has its name. Raises `BadTable`, which begins with `where`."""
    try:
        return msgspec.convert({**table, "name": name}, kind)
    except msgspec.ValidationError as error:
        raise BadTable(f"{where}.{name}: {_in_words(str(error))}") from None


def _in_words(complaint: str) -> str:
    """`what - at `$.key`` as `key: what`."""
    what, at, path = complaint.partition(" - at `$.")
    return f"{path.rstrip('`')}: {what}" if at else what
