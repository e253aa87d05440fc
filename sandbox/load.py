"""The load generator. Every recipient address is used once, so that unanswered submissions can be found again."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from itertools import accumulate, islice

import msgspec
import uvloop
from msgspec import Struct, field

from postfleet.deployment import split_address
from postfleet.evidence import FAILED, INDETERMINATE, HandOver
from sandbox import world
from sandbox.submit import Answered, Client, Draft, HttpClient, NotSent, SmtpClient

PROGRESS_EVERY = 0.5
PATIENCE = 120.0
"""A server that cannot be asked for this long has refused."""
LONGEST_BACK_OFF = 2.0
EVERY_DOMAIN = "*"

_LINE = "The quick brown fox jumps over the lazy dog, and the postman waits for both.\r\n"


class Load(Struct, frozen=True, kw_only=True):
    """What to submit, and where."""

    transport: str
    """`http` or `smtp`."""
    target: str
    """host:port"""
    sender: str
    count: int
    """Messages: recipients, not transmissions."""
    domains: Mapping[str, float] = field(default_factory=lambda: {EVERY_DOMAIN: 1.0})
    """Recipient domains with their weights; `*` stands for each of the sandbox's ordinary ones."""
    local_parts: Mapping[str, float] = field(default_factory=lambda: {"accept": 1.0})
    """Prefixes of recipients' local parts (`sandbox.behaviour`) with their weights."""
    key: str = ""
    """API key; may be empty for `smtp` where the server trusts the client's address."""
    pool: str = ""
    """IP pool; for `http`. Empty leaves it to the platform."""
    recipients: int = 1
    """Per transmission."""
    size: int = 4096
    """Bytes of text."""
    rate: float = 0.0
    """Messages per second; 0 is as fast as the server answers."""
    concurrency: int = 20
    campaign: str = "load"
    seed: int | None = None
    """Of the choice of recipients."""


class Progress(Struct):
    """Messages so far."""

    ok: int = 0
    failed: int = 0
    indeterminate: int = 0
    seconds: float = 0.0

    @property
    def submitted(self) -> int:
        return self.ok + self.failed + self.indeterminate

    def count(self, hand_over: HandOver) -> None:
        setattr(self, hand_over.status, getattr(self, hand_over.status) + len(hand_over.recipients))


class HandOverLog:
    """Appends what the client knows to a file that `postfleet.evidence.read_hand_overs` reads."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = open(path, "ab")  # noqa: SIM115 - closed by `close`
        self._encoder = msgspec.json.Encoder()

    def add(self, hand_over: HandOver) -> None:
        self._file.write(self._encoder.encode(hand_over) + b"\n")

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def drafts(load: Load, run: str) -> Iterator[Draft]:
    """All submissions of a load. `run` tells its recipients from those of other runs."""
    addresses = _addresses(load, run)
    text = text_of(load.size)
    for first in range(0, load.count, load.recipients):
        recipients = tuple(islice(addresses, load.recipients))
        yield Draft(load.sender, recipients, f"Load {run} message {first}", text, load.campaign, load.pool)


def _addresses(load: Load, run: str) -> Iterator[str]:
    rng = random.Random(load.seed)  # noqa: S311 - nothing secret depends on it
    local_parts = _choices(rng, load.local_parts)
    domains = _choices(rng, named(load.domains))
    for number in range(load.count):
        yield f"{next(local_parts)}-{run}-{number}@{next(domains)}"


def named(domains: Mapping[str, float]) -> dict[str, float]:
    """With every domain by its name; what is named itself has its own weight."""
    everywhere = domains.get(EVERY_DOMAIN)
    ordinary = {} if everywhere is None else dict.fromkeys(world.DOMAINS, everywhere)
    return ordinary | {domain: weight for domain, weight in domains.items() if domain != EVERY_DOMAIN}


def _choices(rng: random.Random, weights: Mapping[str, float]) -> Iterator[str]:
    names, bounds = list(weights), list(accumulate(weights.values()))
    while True:
        yield rng.choices(names, cum_weights=bounds)[0]


def text_of(size: int) -> str:
    """Lines of mail, `size` bytes in all but at least 2."""
    return (_LINE * (size // len(_LINE) + 1))[: max(0, size - 2)] + "\r\n"


async def run_load(
    load: Load,
    log: HandOverLog,
    progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Submit everything; returns the final count. Cancelled, it logs what is under way as indeterminate.

    Connections that break are made again, so that servers may come and go meanwhile.
    """
    return await _Run(load, log).run(progress or (lambda _: None))


class _Run:
    def __init__(self, load: Load, log: HandOverLog) -> None:
        self._load = load
        self._log = log
        self._drafts = drafts(load, f"{time.time_ns() // 1000:x}")
        self._progress = Progress()
        self._started = self._next_start = time.monotonic()

    async def run(self, report: Callable[[Progress], None]) -> Progress:
        reporting = asyncio.create_task(self._report(report))
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self._load.concurrency):
                    tasks.create_task(self._submit_all())
        finally:
            reporting.cancel()
            self._tell(report)
        return self._progress

    async def _report(self, report: Callable[[Progress], None]) -> None:
        while True:
            await asyncio.sleep(PROGRESS_EVERY)
            self._tell(report)

    def _tell(self, report: Callable[[Progress], None]) -> None:
        self._log.flush()
        self._progress.seconds = time.monotonic() - self._started
        report(self._progress)

    async def _submit_all(self) -> None:
        client = _client(self._load)
        try:
            for draft in self._drafts:
                await self._pace(len(draft.recipients))
                await self._submit(client, draft)
        finally:
            client.close()

    async def _pace(self, messages: int) -> None:
        if self._load.rate:
            start = self._next_start
            self._next_start += messages / self._load.rate
            await asyncio.sleep(max(0.0, start - time.monotonic()))

    async def _submit(self, client: Client, draft: Draft) -> None:
        answered = Answered(INDETERMINATE, "the load was stopped")
        try:
            answered = await _patiently(client, draft)
        finally:
            hand_over = HandOver(
                time.time(),
                self._load.transport,
                answered.transmission,
                draft.recipients,
                answered.status,
                answered.detail,
            )
            self._log.add(hand_over)
            self._progress.count(hand_over)


def _client(load: Load) -> Client:
    host, port = split_address(load.target)
    return HttpClient(host, port, load.key) if load.transport == "http" else SmtpClient(host, port, load.key)


async def _patiently(client: Client, draft: Draft) -> Answered:
    """Ask until the server could be asked, backing off."""
    give_up = time.monotonic() + PATIENCE
    back_off = 0.05
    while True:
        try:
            return await client.submit(draft)
        except NotSent as error:
            if time.monotonic() > give_up:
                return Answered(FAILED, str(error))
        await asyncio.sleep(back_off)
        back_off = min(back_off * 2, LONGEST_BACK_OFF)


def main() -> None:
    """`python -P -m sandbox.load LOG < LOAD`: a `Load` as JSON comes in, a line of JSON per `Progress` goes out."""
    load = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    with closing(HandOverLog(sys.argv[1])) as log:
        uvloop.run(run_load(load, log, _print))


def _print(progress: Progress) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(progress) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
