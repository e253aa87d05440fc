"""`postfleet up`: the whole platform on this machine, until it is told to stop."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import sys
from collections.abc import Coroutine
from typing import Annotated, Any

import httpx
import typer

from postfleet.backends.opening import open_stores
from postfleet.cli.aws import check_same_stores, choose_places, inbox_lines, make_missing
from postfleet.cli.options import DATA, DataOption, Failed
from postfleet.cli.platform import (
    REPLACE,
    AwsChoices,
    Choices,
    Credentials,
    decide,
    furnish,
    keep_secrets,
    lock,
    services,
)
from postfleet.cli.supervisor import StartFailed, Supervisor
from postfleet.clock import SystemClock
from postfleet.deployment import DataDir, Deployment, split_address
from postfleet.directory import Directory
from postfleet.ports import Backends

READY_WITHIN = 60.0


def up(
    data: DataOption = DATA,
    http: Annotated[str, typer.Option(help="Address of the HTTP API.")] = "127.0.0.1:8025",
    smtp: Annotated[str, typer.Option(help="Address for SMTP submission.")] = "127.0.0.1:2525",
    sink: Annotated[str, typer.Option(help="Address of the sandbox; its port is that of all its MX hosts.")] = (
        "127.0.0.1:2626"
    ),
    route: Annotated[str, typer.Option(help="Deliver everything to this HOST:PORT, without limits.")] = "",
    trust: Annotated[list[str] | None, typer.Option(help="Networks (CIDR) that submit without AUTH.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of delivery workers.")] = 2,
    aws: Annotated[bool, typer.Option("--aws", help="Stores on AWS, as the SDK's environment says.")] = False,
    aws_sandbox: Annotated[
        bool, typer.Option("--aws-sandbox", help="Stores on moto and SeaweedFS, which are started on loopback.")
    ] = False,
    bucket: Annotated[
        str, typer.Option(metavar="NAME", help="S3 bucket; default: postfleet-ACCOUNT-REGION.", show_default=False)
    ] = "",
    table: Annotated[
        str, typer.Option(metavar="NAME", help="DynamoDB table; default: postfleet.", show_default=False)
    ] = "",
    queue_prefix: Annotated[
        str,
        typer.Option(metavar="TEXT", help="Of SQS queues; default: postfleet-.", show_default=False),
    ] = "",
) -> None:
    """Run the platform on this machine, against the sandbox's simulated internet unless --route is given.

    On AWS, what is missing of bucket, table and queues is made.
    """
    if aws and aws_sandbox:
        raise Failed("--aws or --aws-sandbox, not both")
    stores = AwsChoices(aws_sandbox, bucket, table, queue_prefix)
    choices = Choices(http, smtp, sink, route, tuple(trust or ()), workers, stores if aws or aws_sandbox else None)
    try:
        asyncio.run(run_platform(DataDir(data), choices))
    except (StartFailed, ValueError) as error:
        typer.echo(f"postfleet up: {error}", err=True)
        raise typer.Exit(1) from None


async def run_platform(data: DataDir, choices: Choices) -> None:
    told = _told_to_stop()
    with lock(data):
        _check(data, choices)
        supervisor = Supervisor(logs=data.logs, run=data.path / "run", say=typer.echo)
        try:
            await _until_first(_run(data, choices, supervisor), supervisor.broken, told)
        finally:
            if supervisor.started:
                typer.echo("stopping")
            await supervisor.stop()


async def _run(data: DataDir, choices: Choices, supervisor: Supervisor) -> None:
    """Until it is cancelled."""
    places = None if choices.aws is None else await choose_places(data, choices.aws, supervisor)
    deployment = decide(data, choices, places)
    data.settings()
    keep_secrets(data)
    if not deployment.route:
        await _keep_sandbox_profiles(data)
    if places is not None:
        await make_missing(data, places)
    async with await open_stores(data, SystemClock()) as stores:
        credentials = await furnish(data, deployment, stores)
        await supervisor.start(services(data, deployment, choices.workers))
        await _ready(deployment, stores)
    typer.echo(banner(data, deployment, credentials))
    told_to_replace = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(REPLACE, told_to_replace.set)
    while await told_to_replace.wait():
        told_to_replace.clear()
        await supervisor.replace()


async def _keep_sandbox_profiles(data: DataDir) -> None:
    """`providers.toml`, which router and workers read when they start."""
    command = (sys.executable, "-P", "-m", "sandbox.profiles", "--data", str(data.path))
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    if process.returncode:
        raise StartFailed(f"the sandbox's profiles were not written: {said.decode(errors='replace').strip()}")


def _check(data: DataDir, choices: Choices) -> None:
    check_same_stores(data, choices.aws)
    if choices.route:
        split_address(choices.route)
    for network in choices.trust:
        _check_trust(network)


def _check_trust(text: str) -> None:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise StartFailed(f"--trust: {error}") from None
    if not (network.is_private or network.is_loopback):
        raise StartFailed(f"--trust {text}: a public network would make this an open relay")


def _told_to_stop() -> asyncio.Future[None]:
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()

    def on_signal() -> None:
        if told.done():
            sys.exit(1)
        told.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return told


async def _until_first(running: Coroutine[Any, Any, None], *ends: asyncio.Future[None]) -> None:
    """Run until that, or one of `ends`, has ended; raises what it raised."""
    task = asyncio.create_task(running)
    done, _ = await asyncio.wait([task, *ends], return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    for each in done:
        each.result()


async def _ready(deployment: Deployment, stores: Backends) -> None:
    """HTTP answers, SMTP greets, and a binding can send."""
    directory = Directory(stores.state)
    try:
        async with asyncio.timeout(READY_WITHIN), httpx.AsyncClient(trust_env=False) as client:
            while not await _is_ready(client, deployment, directory):  # noqa: ASYNC110 - it happens in other processes
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise StartFailed(f"not ready within {READY_WITHIN:.0f} s; {_unready(directory)}") from None


def _unready(directory: Directory) -> str:
    dead = [f"{binding.name} ({binding.reason})" for binding in directory.bindings.values() if not binding.alive]
    return f"bindings that cannot send: {', '.join(dead)}" if dead else "the logs folder says why"


async def _is_ready(client: httpx.AsyncClient, deployment: Deployment, directory: Directory) -> bool:
    try:
        answer = await client.get(f"http://{deployment.http}/healthz")
        _, writer = await asyncio.open_connection(*split_address(deployment.smtp))
        writer.close()
    except (httpx.HTTPError, OSError):
        return False
    await directory.refresh()
    return answer.status_code == 200 and all(binding.alive for binding in directory.bindings.values())


def banner(data: DataDir, deployment: Deployment, credentials: Credentials) -> str:
    curl = (
        f"curl {credentials.http}/api/v1/transmissions -H 'Authorization: {credentials.api_key}' "
        "-H 'Content-Type: application/json' "
        '-d \'{"recipients": [{"address": "ada@inbox1.example"}], '
        f'"content": {{"from": "hello@{credentials.sending_domain}", "subject": "Hello", "text": "It works."}}}}\''
    )
    where = f"everything goes to {deployment.route}" if deployment.route else f"sandbox MX port {deployment.sink}"
    return "\n".join(
        (
            f"Postfleet is up: HTTP {credentials.http}, SMTP {credentials.smtp}, {where}; data in {data.path}",
            f"credentials in {data.credentials}; logs in {data.logs}; Ctrl-C stops",
            "",
            "Send a message:",
            "",
            f"  {curl}",
            "",
            *inbox_lines(data, deployment),
        )
    )
