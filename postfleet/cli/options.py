"""What commands share: the platform that they speak of, how they fail, how they print."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from postfleet.backends.opening import Stores, open_stores
from postfleet.clock import SystemClock
from postfleet.deployment import DataDir

DATA = Path("var")
DataOption = Annotated[Path, typer.Option("--data", envvar="POSTFLEET_DATA", help="Data directory of the platform.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Failed(Exception):
    """The command cannot do what it was asked to; the text says why in one line."""


def platform(path: Path) -> DataDir:
    """Raises `Failed` where there is none."""
    data = DataDir(path)
    if not (path / "run.json").exists() or not data.credentials.exists():
        raise Failed(
            f"no platform in {path.resolve()}: start one with `postfleet up --data {path}`, "
            "or name its data directory with --data or POSTFLEET_DATA"
        )
    return data


@asynccontextmanager
async def open_backends(data: DataDir) -> AsyncIterator[Stores]:
    async with await open_stores(data, SystemClock()) as stores:
        yield stores


def print_json(value: object) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(value)).decode())


def console() -> Console:
    """As wide as the terminal; where there is none, lines are as long as they are."""
    return Console(width=None if sys.stdout.isatty() else 10_000, highlight=False)


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    made = Table(*header, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    out = console()
    with out.capture() as printed:
        out.print(made)
    typer.echo("\n".join(line.rstrip() for line in printed.get().splitlines()))
