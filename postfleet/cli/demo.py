"""`postfleet demo`: a platform in a temporary folder, mail for difficult recipients, and the books after it."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from msgspec import Struct
from msgspec.structs import replace
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from postfleet.backends.opening import Stores
from postfleet.cli import demo_figures
from postfleet.cli.audit import look, show
from postfleet.cli.child import running_platform
from postfleet.cli.demo_figures import Figures
from postfleet.cli.generator import Progress, generate
from postfleet.cli.load import Transport, submission
from postfleet.cli.options import console, open_backends, print_table
from postfleet.cli.send import read_credentials
from postfleet.deployment import DataDir
from postfleet.event_log import read_events
from postfleet.ports import Backends

RETRY_FIRST = 1.0
"""Seconds, so that nobody waits 20 minutes for the second attempt."""
PATIENCE = 90.0
DRAIN = 15.0
LOOK_EVERY = 0.5
SAY_EVERY = 2.0
"""Without a terminal, seconds between lines."""

DOMAINS = {"*": 1.0, "nomail.example": 0.5, "nosuch.example": 0.5, "aonly.example": 1.0, "deadfirst.example": 1.0}
"""The sandbox's ordinary domains, two that take no mail, one without MX, one whose first MX is dead."""
LOCAL_PARTS = {
    "ann": 30.0,
    "accept": 30.0,
    "defer1": 8.0,
    "defer2": 6.0,
    "bounce": 6.0,
    "greylist": 6.0,
    "slow1": 2.0,
    "drop1": 3.0,
    "block1": 1.0,
}
SEED = 2821


class Part(Struct, frozen=True):
    """One of the loads that run side by side."""

    name: str
    transport: Transport
    count: int
    pool: str
    recipients: int
    rate: float = 0.0
    """Messages a second; 0 is as fast as it goes."""


PARTS = (
    Part("http", Transport.HTTP, 150, "default", 10),
    Part("http-bulk", Transport.HTTP, 150, "bulk", 50),
    Part("smtp", Transport.SMTP, 100, "", 1),
)
PACED = tuple(replace(part, rate=part.count / 20.0) for part in PARTS)
"""For moto, whose every call takes longer the more there is in its queues."""
TOTAL = sum(part.count for part in PARTS)

Tell = Callable[[int, Figures], None]
"""Is told how many messages were submitted, and what the events say."""


def demo(
    aws_sandbox: Annotated[
        bool, typer.Option("--aws-sandbox", help="Stores on moto and SeaweedFS, which are started on loopback.")
    ] = False,
) -> None:
    """Run a platform, send 400 messages to easy and difficult recipients of the sandbox, and audit every one.

    On free ports and in a temporary folder, which stays when something was wrong. Exit code 0 if no promise was broken.
    """
    folder = Path(tempfile.mkdtemp(prefix="postfleet-demo-"))
    data = DataDir(folder / "var")
    clean = False
    try:
        clean = asyncio.run(_demo(data, aws_sandbox))
    finally:
        if not clean:
            typer.echo(f"what was stored and logged is in {data.path}", err=True)
    if not clean:
        raise typer.Exit(1)
    shutil.rmtree(folder)


async def _demo(data: DataDir, aws_sandbox: bool) -> bool:
    """Whether every message was submitted, ended, and no promise was broken."""
    data.path.mkdir()
    (data.path / "settings.toml").write_text(f"retry_first = {RETRY_FIRST}\n")
    started = time.monotonic()
    async with running_platform(data, *(["--aws-sandbox"] if aws_sandbox else [])):
        where = " on moto and SeaweedFS" if aws_sandbox else ""
        typer.echo(f"platform up{where} after {time.monotonic() - started:.1f} s: HTTP, SMTP, two proxies, two workers")
        async with open_backends(data) as backends:
            with _progress() as tell:
                accepted = await _submit_and_follow(data, backends, PACED if aws_sandbox else PARTS, tell)
            return await _balance(data, backends, accepted)


async def _submit_and_follow(data: DataDir, backends: Backends, parts: Sequence[Part], tell: Tell) -> int:
    """Until every accepted message has ended, or patience has; how many were accepted."""
    submitted = dict.fromkeys((part.name for part in parts), Progress())
    watch = asyncio.create_task(_watch(backends, submitted, tell))
    try:
        await asyncio.gather(*(_load(data, part, submitted) for part in parts))
        accepted = sum(progress.ok for progress in submitted.values())
        await _all_ended(backends, accepted)
    finally:
        watch.cancel()
    tell(*await _seen(backends, submitted))
    return accepted


async def _load(data: DataDir, part: Part, submitted: dict[str, Progress]) -> None:
    load = submission(read_credentials(data.credentials), part.transport) | {
        "count": part.count,
        "recipients": part.recipients,
        "concurrency": 5,
        "rate": part.rate,
        "pool": part.pool,
        "campaign": "demo",
        "seed": SEED + len(part.name),
        "domains": DOMAINS,
        "local_parts": LOCAL_PARTS,
    }

    def tell(progress: Progress) -> None:
        submitted[part.name] = progress

    await generate(load, data.loads / f"{part.name}.ndjson", tell)


async def _all_ended(backends: Backends, accepted: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if (await _figures(backends)).ended.total() >= accepted:
            return
        await asyncio.sleep(LOOK_EVERY)


async def _watch(backends: Backends, submitted: Mapping[str, Progress], tell: Tell) -> None:
    while True:
        tell(*await _seen(backends, submitted))
        await asyncio.sleep(LOOK_EVERY)


async def _seen(backends: Backends, submitted: Mapping[str, Progress]) -> tuple[int, Figures]:
    return sum(progress.submitted for progress in submitted.values()), await _figures(backends)


async def _figures(backends: Backends) -> Figures:
    return demo_figures.count([event async for event in read_events(backends.blobs)])


async def _balance(data: DataDir, backends: Stores, accepted: int) -> bool:
    print_table(("demo", ""), demo_figures.rows(await _figures(backends), accepted))
    typer.echo()
    clients = [data.loads / f"{part.name}.ndjson" for part in PARTS]
    report = await look(data, backends, clients, final=True, wait=DRAIN)
    show(report)
    return not report.violations and accepted == TOTAL


# ---------------------------------------------------------------- progress


@contextmanager
def _progress() -> Iterator[Tell]:
    """Bars on a terminal, else a line now and then."""
    if not sys.stdout.isatty():
        yield _Lines().tell
        return
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[more]}"),
    )
    with Bar(*columns, console=console()) as bar:
        submitting = bar.add_task("submitted", total=TOTAL, more="")
        ending = bar.add_task("ended", total=TOTAL, more="")

        def tell(submitted: int, figures: Figures) -> None:
            bar.update(submitting, completed=submitted)
            bar.update(ending, completed=figures.ended.total(), more=_in_words(figures))

        yield tell


class _Lines:
    def __init__(self) -> None:
        self._said_at = 0.0
        self._said = ""

    def tell(self, submitted: int, figures: Figures) -> None:
        line = f"submitted {submitted} of {TOTAL}, ended {figures.ended.total()}: {_in_words(figures)}"
        everything = figures.ended.total() == TOTAL
        if line != self._said and (everything or time.monotonic() - self._said_at >= SAY_EVERY):
            self._said, self._said_at = line, time.monotonic()
            typer.echo(line)


def _in_words(figures: Figures) -> str:
    ends = (f"{number} {state}" for state, number in sorted(figures.ended.items()))
    return ", ".join((*ends, f"{figures.deferred} temporary refusals"))
