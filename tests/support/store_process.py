"""A process that uses the local backends, for tests of several at once: `python store_process.py DIRECTORY ROLE`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from postfleet.backends.local import LocalBackends, open_local
from postfleet.clock import SystemClock
from postfleet.ports import Outgoing


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def drain(backends: LocalBackends) -> None:
    """Say each body that was received and acked, until nothing comes."""
    queue = backends.queue("shared")
    while entries := await queue.receive(5, 1.0):
        await queue.ack([entry.handle for entry in entries])
        for entry in entries:
            say(entry.body.decode())


async def send_forever(backends: LocalBackends) -> None:
    """Say each number once its entry, its row and its blob are stored."""
    for n in range(1_000_000):
        await asyncio.gather(
            backends.queue("shared").send([Outgoing(b"%d" % n)]),
            backends.state.put_if_absent("sent", f"{n}", b"%d" % n),
            backends.blobs.put(f"mail/{n // 10}/{n}", b"%d" % n),
        )
        say(f"{n}")


async def send_once(backends: LocalBackends) -> None:
    """One send, one blob, each announced when it has returned."""
    await backends.queue("shared").send([Outgoing(b"traced")])
    say("sent")
    await backends.blobs.put("mail/new/traced", b"traced")
    say("put")


async def main(directory: Path, role: str) -> None:
    async with await open_local(directory, clock=SystemClock(), visibility=30.0) as backends:
        say("ready")
        await {"drain": drain, "send-forever": send_forever, "send-once": send_once}[role](backends)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
