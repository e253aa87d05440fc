"""Runs the simulated internet: `python -P -m sandbox --data DIR`, or one MX alone with `--listen HOST:PORT`."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
import uvloop
from msgspec import Struct

from postfleet.deployment import DataDir, split_address
from sandbox import world
from sandbox.behaviour import GREYLIST_SECONDS, Behaviours
from sandbox.inbox import Inbox
from sandbox.ledger import Ledger
from sandbox.nameserver import start_nameserver
from sandbox.sink import Sink

log = structlog.get_logger()


class _Places(Struct, frozen=True):
    addresses: Sequence[str]
    port: int
    dns: str
    """Where to run the nameserver; empty for none."""
    ledger: Path
    inbox: Path


def main() -> None:
    options = _options()
    uvloop.run(_serve(options))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sandbox", description="The simulated internet: nameserver and MX hosts.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--data", type=DataDir, metavar="DIR", help="data directory of the platform to simulate for")
    where.add_argument("--listen", type=split_address, metavar="HOST:PORT", help="one MX, without a nameserver")
    parser.add_argument("--ledger", type=Path, help="ledger file (default: the data directory's, else ./ledger.ndjson)")
    parser.add_argument("--inbox", type=Path, help="inbox file (default: the data directory's, else ./inbox)")
    parser.add_argument("--greylist", type=float, default=GREYLIST_SECONDS, metavar="SECONDS")
    parser.add_argument(
        "--behaviour", type=_pair(str), action="append", default=[], metavar="DOMAIN=WORDS", help="such as a.test=slow2"
    )
    parser.add_argument(
        "--limit", type=_pair(int), action="append", default=[], metavar="SITE=N", help="connections per peer address"
    )
    return parser.parse_args()


def _pair(kind: type[str] | type[int]) -> Callable[[str], tuple[str, str | int]]:
    def parse(text: str) -> tuple[str, str | int]:
        name, _, value = text.partition("=")
        return name, kind(value)

    return parse


async def _serve(options: argparse.Namespace) -> None:
    places = _places(options)
    ledger = Ledger(places.ledger)
    inbox = Inbox(places.inbox)
    sink = Sink(
        Behaviours(dict(options.behaviour), greylist=options.greylist),
        ledger,
        inbox,
        site_of={address: site.name for address, site in world.SITE_AT.items()},
        limits=dict(options.limit),
    )
    server = await sink.listen(places.addresses, places.port)
    nameserver = await start_nameserver(*split_address(places.dns)) if places.dns else None
    tasks = [asyncio.create_task(sink.sweep()), asyncio.create_task(inbox.keep_written())]
    log.info("sandbox_ready", hosts=len(places.addresses), port=places.port, dns=places.dns, ledger=str(places.ledger))
    await _told_to_stop()
    if nameserver is not None:
        nameserver.close()
    server.close()
    sink.close()
    ledger.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _places(options: argparse.Namespace) -> _Places:
    if options.data is None:
        host, port = options.listen
        return _Places([host], port, "", options.ledger or Path("ledger.ndjson"), options.inbox or Path("inbox"))
    data: DataDir = options.data
    deployment = data.deployment()
    ledger = options.ledger or Path(deployment.ledger or data.ledger)
    return _Places(world.MX_ADDRESSES, deployment.delivery_port, deployment.dns, ledger, options.inbox or data.inbox)


async def _told_to_stop() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


if __name__ == "__main__":
    main()
