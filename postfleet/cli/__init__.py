"""The command `postfleet`."""

from __future__ import annotations

import typer

from postfleet.cli.up import up

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(up)


def main() -> None:
    app()
