"""`postfleet up`: the whole platform on this machine, until it is told to stop."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import sys
from collections.abc import Awaitable
from typing import Annotated

import httpx
import typer

from postfleet.backends.local import LocalBackends, open_local
from postfleet.cli.options import DATA, DataOption
from postfleet.cli.platform import Choices, Credentials, decide, furnish, keep_secrets, lock, services
from postfleet.cli.supervisor import StartFailed, Supervisor
from postfleet.clock import SystemClock
from postfleet.deployment import DataDir, Deployment, split_address
from postfleet.directory import Directory

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
) -> None:
    """Run the platform on this machine, against the sandbox's simulated internet unless --route is given."""
    choices = Choices(http, smtp, sink, route, tuple(trust or ()), workers)
    try:
        asyncio.run(run_platform(DataDir(data), choices))
    except (StartFailed, ValueError) as error:
        typer.echo(f"postfleet up: {error}", err=True)
        raise typer.Exit(1) from None


async def run_platform(data: DataDir, choices: Choices) -> None:
    told = _told_to_stop()
    with lock(data):
        _check(choices)
        settings = data.settings()
        deployment = decide(data, choices)
        keep_secrets(data)
        if not deployment.route:
            await _keep_sandbox_profiles(data)
        backends = await open_local(data.store, clock=SystemClock(), visibility=settings.visibility)
        async with backends:
            credentials = await furnish(data, deployment, backends)
            supervisor = Supervisor(
                services(data, deployment, choices.workers), logs=data.logs, run=data.path / "run", say=typer.echo
            )
            await supervisor.start()
            try:
                await _first(_ready(deployment, backends), supervisor.broken, told)
                if not told.done():
                    typer.echo(banner(data, deployment, credentials))
                    await _first(supervisor.broken, told)
            finally:
                typer.echo("stopping")
                await supervisor.stop()


async def _keep_sandbox_profiles(data: DataDir) -> None:
    """`providers.toml`, which router and workers read when they start."""
    command = (sys.executable, "-P", "-m", "sandbox.profiles", "--data", str(data.path))
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    if process.returncode:
        raise StartFailed(f"the sandbox's profiles were not written: {said.decode(errors='replace').strip()}")


def _check(choices: Choices) -> None:
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


async def _first(*awaitables: Awaitable[None]) -> None:
    """Until one of them ends; raises what it raised."""
    tasks = [asyncio.ensure_future(each) for each in awaitables]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def _ready(deployment: Deployment, backends: LocalBackends) -> None:
    """HTTP answers, SMTP greets, and a binding can send."""
    directory = Directory(backends.state)
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
        )
    )
