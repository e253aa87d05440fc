"""The command `postfleet`."""

from __future__ import annotations

import sys

import typer

from postfleet.cli import fleet
from postfleet.cli.audit import audit
from postfleet.cli.demo import demo
from postfleet.cli.explain import explain
from postfleet.cli.inbox import inbox
from postfleet.cli.load import load
from postfleet.cli.options import Failed
from postfleet.cli.queue import queue
from postfleet.cli.run import run
from postfleet.cli.send import send
from postfleet.cli.up import up
from postfleet.ports import StorageError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
for command in (up, demo, send, inbox, explain, queue, load, audit):
    app.command()(command)
app.add_typer(fleet.pool, name="pool")
app.add_typer(fleet.binding, name="binding")
app.add_typer(fleet.proxy, name="proxy")
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(run)


def main() -> None:
    try:
        app(prog_name="postfleet")
    except (Failed, StorageError, ValueError) as error:
        sys.stderr.write(f"postfleet: {error}\n")
        sys.exit(1)
