"""`postfleet audit`: is everything that was accepted delivered or accounted for, and nothing twice?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from msgspec import Struct

from postfleet.audit import Report, Violation
from postfleet.audit import audit as compare
from postfleet.backends.local import LocalBackends
from postfleet.backends.opening import Stores
from postfleet.cli.options import DATA, DataOption, Failed, JsonOption, open_backends, platform, print_json, print_table
from postfleet.cli.places import pending, with_page
from postfleet.cli.rest import Rest, read_rest
from postfleet.content import return_path
from postfleet.deployment import DataDir
from postfleet.event_log import read_events
from postfleet.evidence import HandOver, LedgerRecord, read_hand_overs, read_ledger
from postfleet.stages import TERMINAL, message_id

LOOK_EVERY = 0.5
UNSEEN = "queues (SQS does not show which)"
SHOWN = 50


class Figures(Struct, frozen=True):
    """A `Report` in numbers, with its violations."""

    accepted: int
    ended: dict[str, int]
    pending: dict[str, int]
    lost: int
    duplicated_permitted: int
    duplicated: int
    unexpected: int
    recovered: int
    violations: tuple[Violation, ...]


def audit(
    client: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Log of a load generator; default: all of loads/, and other mail is let be."),
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Ledger of the MX; default: the sandbox's.")
    ] = None,
    final: Annotated[bool, typer.Option(help="The platform was drained: nothing may be pending.")] = False,
    wait: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Wait so long until nothing is pending.")] = 0.0,
    as_json: JsonOption = False,
    data: DataOption = DATA,
) -> None:
    """Compare what clients handed over with what became of it. Exit code 1 when a promise was broken.

    To be run when clients have ended. A duplicate is permitted where the connection of the copy before was lost.
    """
    report = asyncio.run(_audit(platform(data), client, ledger, final, wait))
    if as_json:
        print_json(figures(report))
    else:
        show(report)
    raise typer.Exit(1 if report.violations else 0)


async def _audit(data: DataDir, client: Sequence[Path] | None, ledger: Path | None, final: bool, wait: float) -> Report:
    clients = sorted(data.loads.glob("*")) if client is None else client
    async with open_backends(data) as stores:
        return await look(data, stores, clients, ledger, final=final, all_logged=client is not None, wait=wait)


async def look(
    data: DataDir,
    stores: Stores,
    clients: Sequence[Path],
    ledger: Path | None = None,
    *,
    final: bool,
    all_logged: bool = True,
    wait: float = 0.0,
) -> Report:
    """Read all evidence and compare it.

    In the order of mail's way, so that what moves meanwhile is seen at least once: a message that rests nowhere has
    its last event already, and what that says was delivered is in the ledger.
    """
    deadline = time.monotonic() + wait
    while True:
        hand_overs = [hand_over for path in clients for hand_over in _read_client(path)]
        rest = await _rest_after(data, stores, deadline)
        resting = pending([await with_page(holding, stores.blobs) for holding in rest.holdings])
        events = [event async for event in read_events(stores.blobs)]
        records = _read_ledger(ledger or Path(data.deployment().ledger or data.ledger))
        naming = _message_of_sender(bytes.fromhex(data.secrets().return_path_key))
        unseen = UNSEEN if rest.unseen else ""
        report = compare(
            hand_overs, events, resting, records, naming, final=final, all_logged=all_logged, unseen=unseen
        )
        # SQS counts about: that its queues look empty is no proof that they are.
        if isinstance(stores, LocalBackends) or not report.lost or time.monotonic() >= deadline:
            return report
        await asyncio.sleep(LOOK_EVERY)


async def _rest_after(data: DataDir, stores: Stores, deadline: float) -> Rest:
    while (rest := await read_rest(data, stores)) and time.monotonic() < deadline:  # noqa: ASYNC110 - other processes
        await asyncio.sleep(LOOK_EVERY)
    return rest


def _read_client(path: Path) -> list[HandOver]:
    try:
        with path.open("rb") as lines:
            return list(read_hand_overs(lines))
    except (OSError, ValueError) as error:
        raise Failed(f"client log {path}: {error}") from None


def _read_ledger(path: Path) -> list[LedgerRecord]:
    try:
        with path.open("rb") as lines:
            return list(read_ledger(lines))
    except (OSError, ValueError) as error:
        raise Failed(f"ledger {path}: {error}; name it with --ledger") from None


def _message_of_sender(key: bytes) -> Callable[[str], str | None]:
    def name(sender: str) -> str | None:
        found = return_path.decode(key, sender)
        return None if found is None else message_id(found.transmission, found.index)

    return name


def figures(report: Report) -> Figures:
    return Figures(
        accepted=len(report.accepted),
        ended=report.ended,
        pending=report.pending,
        lost=len(report.lost),
        duplicated_permitted=len(report.duplicated_permitted),
        duplicated=len(report.duplicated),
        unexpected=len(report.unexpected),
        recovered=len(report.recovered),
        violations=report.violations,
    )


def rows(report: Report) -> list[tuple[str, int]]:
    """The report as a table: terminal states and places only where there are messages, promises always."""
    return [
        ("accepted", len(report.accepted)),
        *((f"  {state}", report.ended[state]) for state in sorted(TERMINAL) if state in report.ended),
        *((f"  pending in {place}", count) for place, count in sorted(report.pending.items())),
        ("lost", len(report.lost)),
        ("duplicated, permitted", len(report.duplicated_permitted)),
        ("duplicated", len(report.duplicated)),
        ("unexpected", len(report.unexpected)),
        ("recovered", len(report.recovered)),
    ]


def show(report: Report) -> None:
    print_table(("audit", "messages"), rows(report))
    for violation in report.violations[:SHOWN]:
        typer.echo(f"{violation.kind}: {violation.subject}: {violation.detail}")
    if len(report.violations) > SHOWN:
        typer.echo(f"and {len(report.violations) - SHOWN} more")
    typer.echo("no promise broken" if not report.violations else f"{len(report.violations)} promises broken")
