"""`postfleet inbox`: what the sandbox's mailbox providers took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from email import message_from_bytes
from email.header import decode_header, make_header
from typing import Annotated

import typer
from msgspec import Struct

from postfleet.cli.options import DATA, DataOption, Failed, JsonOption, platform, print_json, print_table
from postfleet.cli.story import clock_time, printable
from postfleet.inbox import Letter, read_inbox


class Line(Struct, frozen=True):
    """One letter in the list."""

    id: str
    time: float
    sender: str
    recipients: tuple[str, ...]
    subject: str


def inbox(
    letter: Annotated[str, typer.Argument(metavar="[ID]", help="Show this message as it came.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Most messages to list, the last ones.")] = 50,
    as_json: JsonOption = False,
    data: DataOption = DATA,
) -> None:
    """List the last messages that arrived in the sandbox, or show one.

    The inbox is written when it has been quiet for a moment; the ledger has every message at once.
    """
    letters = read_inbox(platform(data).inbox)
    if letter:
        typer.echo(_one(letters, letter).data.decode(errors="replace"), nl=False)
        return
    listed = [line_of(each) for each in letters[-limit:]]
    if as_json:
        return print_json(listed)
    now = time.time()
    rows = (
        (each.id, clock_time(each.time, now), each.sender, ", ".join(each.recipients), each.subject) for each in listed
    )
    print_table(("id", "time", "sender", "recipient", "subject"), rows)


def _one(letters: Sequence[Letter], wanted: str) -> Letter:
    for letter in letters:
        if letter.id == wanted:
            return letter
    raise Failed(f"no message {wanted} in the inbox, which keeps the last ones: `postfleet inbox` lists them")


def line_of(letter: Letter) -> Line:
    return Line(letter.id, letter.time, letter.sender, letter.recipients, subject_of(letter.data))


def subject_of(data: bytes) -> str:
    """Decoded, fit for a terminal; empty where there is none."""
    head = data.partition(b"\r\n\r\n")[0]
    raw = str(message_from_bytes(head)["Subject"] or "")
    try:
        return printable(str(make_header(decode_header(raw))))
    except (LookupError, ValueError):
        return printable(raw)
