"""Run one egress proxy: `python -P -m ip_proxy --listen H:P --health H:P --key-file FILE --source IP[=LOCAL] ...`."""

from __future__ import annotations

import argparse
import asyncio
import errno
import resource
import socket
import sys
from ipaddress import ip_address
from pathlib import Path

import structlog

from ip_proxy.access import Access
from ip_proxy.handover import Handover, Inherited, Predecessor, take_over
from ip_proxy.health import HealthProtocol
from ip_proxy.listener import Listener, open_listener
from ip_proxy.proxy import Proxy, Timing
from ip_proxy.targets import SMTP_PORTS
from postfleet.clock import SystemClock
from postfleet.deployment import split_address
from postfleet.process import on_terminate, run_service

log = structlog.get_logger()

TAKEOVER_WITHIN = 5.0
"""Seconds to find either a proxy to take over from, or its addresses free."""


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    default = Timing()
    parser = argparse.ArgumentParser(prog="ip_proxy", description="SOCKS5 egress that owns sending IP addresses.")
    parser.add_argument("--listen", required=True, type=split_address, metavar="HOST:PORT")
    parser.add_argument("--health", required=True, type=split_address, metavar="HOST:PORT")
    parser.add_argument(
        "--key-file",
        required=True,
        type=read_key,
        dest="key",
        metavar="FILE",
        help="its first line is the hexadecimal key that signs tokens",
    )
    parser.add_argument(
        "--source",
        required=True,
        type=parse_source,
        action="append",
        dest="sources",
        metavar="PUBLIC[=LOCAL]",
        help="a sending address, and what to bind for it where that differs",
    )
    parser.add_argument(
        "--port",
        type=int,
        action="append",
        default=[],
        dest="ports",
        metavar="PORT",
        help="allow this target port besides 25, 465 and 587",
    )
    parser.add_argument("--allow-loopback", action="store_true", help="allow targets on this machine (the sandbox)")
    parser.add_argument(
        "--takeover",
        type=Path,
        metavar="PATH",
        help="take over from the proxy that waits at this Unix socket, and wait there for the next",
    )
    parser.add_argument("--connect-timeout", type=float, default=default.connect, metavar="SECONDS")
    parser.add_argument("--idle-timeout", type=float, default=default.idle, metavar="SECONDS")
    parser.add_argument("--drain-timeout", type=float, default=default.drain, metavar="SECONDS")
    return parser.parse_args(arguments)


def read_key(path: str) -> bytes:
    try:
        key = bytes.fromhex(Path(path).read_text().partition("\n")[0].strip())
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{path}: {error}") from None
    if len(key) < 16:
        raise argparse.ArgumentTypeError(f"{path}: the key has {len(key)} bytes; give at least 16")
    return key


def parse_source(text: str) -> tuple[str, str]:
    public, _, local = text.partition("=")
    try:
        return str(ip_address(public)), str(ip_address(local or public))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; give PUBLIC or PUBLIC=LOCAL") from None


def allow_many_descriptors() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def serve(options: argparse.Namespace) -> int:
    """Until told to stop, or until another has taken over; and then until the last session has ended."""
    access = Access(options.key, dict(options.sources), SMTP_PORTS | frozenset(options.ports), options.allow_loopback)
    timing = Timing(connect=options.connect_timeout, idle=options.idle_timeout, drain=options.drain_timeout)
    stop = asyncio.Event()
    on_terminate(stop.set)
    inherited, (clients, checks) = await take_over_or_open(options)
    proxy = Proxy(clients, access, timing, SystemClock())
    health = Listener(checks, lambda: HealthProtocol(proxy))
    if inherited:
        Predecessor(proxy, inherited)
    log.info("proxy_started", listen=options.listen, sources=dict(options.sources))
    if options.takeover:
        await serve_until_taken_over(Handover(options.takeover, proxy, (proxy.listener, health)), stop)
    else:
        await stop.wait()
    if stop.is_set():
        await proxy.drain()
    return 0


async def take_over_or_open(options: argparse.Namespace) -> tuple[Inherited | None, tuple[socket.socket, ...]]:
    """The sockets for clients and for health checks. A proxy whose successor died needs a moment to be asked again."""
    deadline = asyncio.get_running_loop().time() + TAKEOVER_WITHIN
    while True:
        inherited = await take_over(options.takeover) if options.takeover else None
        if inherited:
            return inherited, inherited.sockets
        try:
            return None, (open_listener(*options.listen), open_listener(*options.health))
        except OSError as error:
            late = asyncio.get_running_loop().time() > deadline
            if error.errno != errno.EADDRINUSE or not options.takeover or late:
                raise
        await asyncio.sleep(0.1)


async def serve_until_taken_over(handover: Handover, stop: asyncio.Event) -> None:
    """Or until `stop`; a successor that is there by then goes on being told what ends here."""
    succession = asyncio.create_task(handover.run())
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([succession, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if succession.done():
        succession.result()
    elif not handover.done:
        succession.cancel()


def main() -> None:
    options = parse_arguments(sys.argv[1:])
    allow_many_descriptors()
    run_service("ip_proxy", lambda: serve(options))


if __name__ == "__main__":
    main()
