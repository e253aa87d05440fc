"""Messages per second from SMTP in to SMTP out, durable: Postfleet beside Postfix, in one run.

Each round starts each server on an empty directory of the same file system, sends it
4 KB messages over 20 connections at a time, and stops the clock when the sink has
counted them all. The rounds alternate, so that neither server has the quieter machine.
Postfix runs with its own configuration and queue; it needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
SBIN = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
GREETING_TIMEOUT = 60.0
SLOWEST = 20.0
"""Messages per second under which a run counts as stuck."""


class Route(NamedTuple):
    """Ports of 127.0.0.1: where the server listens, and where it delivers everything."""

    smtp: int
    sink: int


class Result(NamedTuple):
    seconds: float
    rate: float
    """Messages per second."""
    cpu: float
    """Milliseconds of the server's processes per message."""


Server = Callable[[Path, Route], contextlib.AbstractContextManager[int]]
"""Runs a server on an empty directory; enters with the id of the process above all of its processes."""


# ---------------------------------------------------------------- servers

POSTFIX_MAIN = """\
compatibility_level = 3.6
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
queue_directory = {directory}/queue
data_directory = {directory}/data
maillog_file = {directory}/mail.log
maillog_file_prefixes = {directory}
myhostname = postfix.bench.test
mydestination =
local_recipient_maps =
alias_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
relayhost = [127.0.0.1]:{sink}
smtp_dns_support_level = disabled
smtp_host_lookup = native
smtp_tls_security_level = none
smtpd_tls_security_level = none
in_flow_delay = 0
default_process_limit = 100
default_destination_concurrency_limit = 50
initial_destination_concurrency = 50
smtp_connection_cache_on_demand = yes
"""

POSTFIX_MASTER = """\
127.0.0.1:{smtp} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
showq unix n - n - - showq
postlog unix-dgram n - n - 1 postlogd
"""


@contextlib.contextmanager
def postfix(directory: Path, route: Route) -> Iterator[int]:
    configuration = directory / "etc"
    for made in (configuration, directory / "queue", directory / "data"):
        made.mkdir()
    shutil.chown(directory / "data", "postfix")
    for name, text in (("main.cf", POSTFIX_MAIN), ("master.cf", POSTFIX_MASTER)):
        (configuration / name).write_text(text.format(directory=directory, **route._asdict()))
    command = [program("postfix"), "-c", str(configuration)]
    try:
        with running([*command, "start-fg"], directory, route.smtp) as process:
            yield process
    finally:  # its master process is in a session of its own
        subprocess.run([*command, "stop"], check=False, capture_output=True)


@contextlib.contextmanager
def postfleet(directory: Path, route: Route, workers: int) -> Iterator[int]:
    command = [
        *(str(REPOSITORY / "bin" / "postfleet"), "up", "--data", str(directory / "data")),
        *("--smtp", f"127.0.0.1:{route.smtp}", "--http", "127.0.0.1:0"),
        *("--route", f"127.0.0.1:{route.sink}", "--trust", "127.0.0.0/8", "--workers", str(workers)),
    ]
    with running(command, directory, route.smtp) as process:
        yield process


@contextlib.contextmanager
def running(command: list[str], directory: Path, port: int) -> Iterator[int]:
    """A server that answers on its port; its output is kept in `output`, and shown if it fails."""
    output = directory / "output"
    with (
        open(output, "wb") as file,
        subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL) as process,
    ):
        try:
            await_greeting(port, process)
            yield process.pid
        except (Exception, SystemExit):
            sys.stderr.write(output.read_text(errors="replace")[-4000:])
            raise
        finally:
            process.send_signal(signal.SIGTERM)


def await_greeting(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + GREETING_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
            if peer.recv(3) == b"220":
                return
        time.sleep(0.05)
    raise SystemExit(f"{process.args!r} does not answer on port {port}")


# ---------------------------------------------------------------- measuring


def measure(server: Server, directory: Path, messages: int, size: int) -> Result:
    route = Route(free_port(), free_port())
    with sink(route.sink, messages) as received, server(directory, route) as process:
        cpu = cpu_seconds(process)
        began = time.perf_counter()
        send(route.smtp, messages, size)
        received.wait(messages / SLOWEST)
        seconds = time.perf_counter() - began
        cpu = cpu_seconds(process) - cpu
    return Result(seconds, messages / seconds, 1000 * cpu / messages)


@contextlib.contextmanager
def sink(port: int, messages: int) -> Iterator[subprocess.Popen[bytes]]:
    """Exits by itself once it has counted all the messages."""
    unprivileged = ["-u", "nobody"] if os.geteuid() == 0 else []
    counting = ["-M", str(messages), "-m", "1000"]
    command = [program("smtp-sink"), *unprivileged, *counting, f"127.0.0.1:{port}", "1000"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            await_greeting(port, process)
            yield process
        finally:
            process.kill()


def send(port: int, messages: int, size: int) -> None:
    subprocess.run(
        [
            *(program("smtp-source"), "-s", "20", "-m", str(messages), "-l", str(size)),
            *("-f", "sender@sender.test", "-t", "rcpt@recipient.test", f"127.0.0.1:{port}"),
        ],
        check=True,
        stdin=subprocess.DEVNULL,
    )


def cpu_seconds(root: int) -> float:
    """Processor time of a process, its living descendants, and those of them that ended and were waited for."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)] = int(fields[1])
            ticks[int(stat.parent.name)] = sum(map(int, fields[11:15]))
    family = {root}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(ticks.get(member, 0) for member in family) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def program(name: str) -> str:
    path = shutil.which(name, path=SBIN)
    if path is None:
        raise SystemExit(f"{name} is missing: apt install postfix")
    return path


# ---------------------------------------------------------------- the run


def rounds(servers: dict[str, Server], count: int, messages: int, size: int, place: Path) -> dict[str, list[Result]]:
    results: dict[str, list[Result]] = {name: [] for name in servers}
    for number in range(1, count + 1):
        for name, server in servers.items():
            with tempfile.TemporaryDirectory(prefix="postfleet-bench-", dir=place) as directory:
                Path(directory).chmod(0o755)  # Postfix's processes give root up
                result = measure(server, Path(directory), messages, size)
            results[name].append(result)
            print(
                f"round {number}  {name:<9} {result.rate:7.0f} messages/s"
                f"  {result.seconds:6.1f} s  {result.cpu:5.2f} ms CPU a message",
                flush=True,
            )
    return results


def report(results: dict[str, list[Result]]) -> dict[str, float]:
    medians = {name: statistics.median(result.rate for result in runs) for name, runs in results.items()}
    for name, rate in medians.items():
        print(f"median   {name:<9} {rate:7.0f} messages/s")
    if len(medians) == 2:
        print(f"postfleet / postfix = {medians['postfleet'] / medians['postfix']:.2f}")
    return medians


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=int, default=5000, help="per round and server")
    parser.add_argument("--size", type=int, default=4096, help="bytes of a message")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="Postfleet's delivery workers")
    parser.add_argument("--only", choices=("postfix", "postfleet"))
    parser.add_argument("--place", type=Path, default=Path(tempfile.gettempdir()), help="file system to measure on")
    parser.add_argument("--json", type=Path, help="write all results here")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    servers: dict[str, Server] = {
        "postfix": postfix,
        "postfleet": lambda directory, route: postfleet(directory, route, options.workers),
    }
    if options.only:
        servers = {options.only: servers[options.only]}
    if "postfix" in servers and os.geteuid() != 0:
        raise SystemExit("Postfix must be started by root; --only postfleet measures without it")
    results = rounds(servers, options.rounds, options.messages, options.size, options.place)
    medians = report(results)
    if options.json:
        runs = {name: [result._asdict() for result in of_one] for name, of_one in results.items()}
        options.json.write_text(json.dumps({"medians": medians, "runs": runs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
