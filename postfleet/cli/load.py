"""`postfleet load`: mail by the thousand, to the platform, for the sandbox."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from postfleet.cli.generator import Progress, generate
from postfleet.cli.options import DATA, DataOption, Failed, JsonOption, console, platform, print_json
from postfleet.cli.platform import Credentials
from postfleet.cli.send import read_credentials


class Transport(StrEnum):
    HTTP = "http"
    SMTP = "smtp"


def load(
    count: Annotated[int, typer.Option(min=1, help="Messages.")] = 1000,
    transport: Annotated[Transport, typer.Option(help="How to submit.")] = Transport.HTTP,
    recipients: Annotated[int, typer.Option(min=1, help="Recipients of each transmission.")] = 1,
    rate: Annotated[float, typer.Option(min=0, help="Messages per second; 0 is as fast as it goes.")] = 0.0,
    concurrency: Annotated[int, typer.Option(min=1, help="Connections to submit over.")] = 20,
    size: Annotated[int, typer.Option(min=2, help="Bytes of text.")] = 4096,
    domain: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=WEIGHT]", help="Recipients' domain; `*` is each of the sandbox's ordinary ones."),
    ] = None,
    local_part: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD[=WEIGHT]", help="How the MX behaves: accept, defer2, bounce, block1, drop1, ..."),
    ] = None,
    pool: Annotated[str, typer.Option(help="IP pool; HTTP only.")] = "",
    campaign: Annotated[str, typer.Option()] = "load",
    seed: Annotated[int | None, typer.Option(help="Choose the same recipients each time.")] = None,
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What the client knows, for `audit`; default: a file in loads/.")
    ] = None,
    as_json: JsonOption = False,
    data: DataOption = DATA,
) -> None:
    """Submit many messages, each to a recipient of its own. Exit code 1 unless all were accepted."""
    where = platform(data)
    wanted = submission(read_credentials(where.credentials), transport) | {
        "count": count,
        "recipients": recipients,
        "rate": rate,
        "concurrency": concurrency,
        "size": size,
        "pool": pool,
        "campaign": campaign,
        "seed": seed,
        "domains": weights(domain or ["*"]),
        "local_parts": weights(local_part or ["accept"]),
    }
    path = log or where.loads / f"{time.time_ns()}.ndjson"
    progress = asyncio.run(_with_bar(wanted, path, count, show=not as_json))
    _report(progress, path, as_json)
    raise typer.Exit(0 if progress.ok == count else 1)


def submission(credentials: Credentials, transport: Transport) -> dict[str, object]:
    """Where and as whom the load is submitted."""
    return {
        "transport": transport.value,
        "target": credentials.http.removeprefix("http://") if transport is Transport.HTTP else credentials.smtp,
        "key": credentials.api_key,
        "sender": f"load@{credentials.sending_domain}",
    }


def weights(texts: Sequence[str]) -> dict[str, float]:
    """`NAME[=WEIGHT]`, weights 1 where they are not given. Raises `Failed`."""
    return dict(map(_weight, texts))


def _weight(text: str) -> tuple[str, float]:
    name, equals, weight = text.partition("=")
    try:
        value = float(weight) if equals else 1.0
    except ValueError:
        value = -1.0
    if not name or not 0 < value < float("inf"):
        raise Failed(f"{text!r} is not NAME=WEIGHT with a weight greater than 0")
    return name, value


async def _with_bar(wanted: Mapping[str, object], path: Path, count: int, *, show: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    out = console()
    with Bar(*columns, console=out, disable=not (show and out.is_terminal)) as bar:
        task = bar.add_task("submitted", total=count)
        return await generate(wanted, path, lambda progress: bar.update(task, completed=progress.submitted))


def _report(progress: Progress, path: Path, as_json: bool) -> None:
    if as_json:
        return print_json({"ok": progress.ok, "failed": progress.failed, "indeterminate": progress.indeterminate,
                           "seconds": progress.seconds, "log": str(path)})  # fmt: skip
    rate = progress.ok / progress.seconds if progress.seconds else 0.0
    typer.echo(
        f"{progress.ok} accepted, {progress.failed} refused, {progress.indeterminate} without an answer "
        f"in {progress.seconds:.1f} s ({rate:.0f} a second); log in {path}"
    )
