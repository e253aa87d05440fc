"""`postfleet pool list`, `postfleet binding list`, `postfleet proxy ...`: the sending side."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Annotated

import typer
from msgspec import Struct

from postfleet.cli.options import (
    DATA,
    DataOption,
    Failed,
    JsonOption,
    open_backends,
    platform,
    print_json,
    print_table,
)
from postfleet.cli.platform import REPLACE
from postfleet.cli.story import clock_time
from postfleet.deployment import DataDir, split_address
from postfleet.directory import Binding, Directory
from postfleet.socks.token import Claims, sign

POLICY_VERSION = 0
"""Older than what any worker says."""
REPLACED_WITHIN = 15.0

pool = typer.Typer(no_args_is_help=True, help="IP pools.")
binding = typer.Typer(no_args_is_help=True, help="Bindings: one public sending IP each.")
proxy = typer.Typer(no_args_is_help=True, help="The proxies that own the sending IPs.")


class Pass(Struct, frozen=True):
    """What opens one target through the proxy that owns a binding's IP."""

    proxy: str
    user: str
    token: str
    expires: int
    curl: str


@pool.command("list")
def list_pools(as_json: JsonOption = False, data: DataOption = DATA) -> None:
    """List the pools with the weights of their bindings."""
    pools = asyncio.run(_directory(platform(data))).pools
    if as_json:
        return print_json(list(pools.values()))
    rows = ((name, " ".join(f"{ip}={weight}" for ip, weight in each.weights.items())) for name, each in pools.items())
    print_table(("pool", "weights"), rows)


@binding.command("list")
def list_bindings(as_json: JsonOption = False, data: DataOption = DATA) -> None:
    """List the bindings, the proxies that own their IPs, and whether they can send."""
    bindings = asyncio.run(_directory(platform(data))).bindings
    if as_json:
        return print_json(list(bindings.values()))
    header = ("binding", "ip", "ehlo", "proxy", "state", "since", "reason")
    print_table(header, map(_row, bindings.values()))


def _row(each: Binding) -> tuple[str, ...]:
    since = clock_time(each.since, time.time()) if each.since else ""
    return each.name, each.ip, each.ehlo, each.proxy, "alive" if each.alive else "dead", since, each.reason


@proxy.command("replace")
def replace(data: DataOption = DATA) -> None:
    """Replace the proxies of `up` by new processes: no connection is refused, none is cut, and every limit holds."""
    found = platform(data)
    before = _pids(found)
    try:
        os.kill(int((found.path / "lock").read_text()), REPLACE)
    except (ValueError, OSError) as error:
        raise Failed(f"no platform runs on {found.path}: {error}") from None
    deadline = time.monotonic() + REPLACED_WITHIN
    while any(_pids(found)[name] == pid for name, pid in before.items()):
        if time.monotonic() > deadline:
            raise Failed(f"the proxies were not replaced within {REPLACED_WITHIN:.0f} s; {found.logs} says why")
        time.sleep(0.05)
    for name, pid in _pids(found).items():
        typer.echo(f"{name}  process {before[name]} -> {pid}")


def _pids(data: DataDir) -> dict[str, str]:
    return {
        site.name: (data.path / "run" / f"{site.name}.pid").read_text().strip() for site in data.deployment().proxies
    }


@proxy.command("token")
def token(
    name: Annotated[str, typer.Option("--binding", metavar="IP", help="Connect from this binding.")],
    target: Annotated[str, typer.Option(metavar="IP:PORT", help="Connect to this address.")],
    limit_key: Annotated[str, typer.Option(help="What connections are counted by; default: the target's IP.")] = "",
    connections: Annotated[int, typer.Option(min=1, help="Most open connections for this limit key.")] = 20,
    expires: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="For how long it opens the target.")] = 600,
    as_json: JsonOption = False,
    data: DataOption = DATA,
) -> None:
    """Make a user name and a token for any SOCKS5 client, and a curl command line that uses them."""
    made = asyncio.run(_make_pass(data, name, target, limit_key, connections, expires))
    if as_json:
        return print_json(made)
    typer.echo(f"proxy  {made.proxy}\nuser   {made.user}\ntoken  {made.token}\n\n  {made.curl}")


async def _make_pass(path: Path, name: str, target: str, limit_key: str, connections: int, expires: int) -> Pass:
    data = platform(path)
    try:
        host, port = split_address(target)
    except ValueError as error:
        raise Failed(f"--target: {error}") from None
    owned = _owned(await _directory(data), name)
    claims = Claims(
        source=owned.ip,
        host=host,
        port=port,
        limit_key=limit_key or host,
        max_connections=connections,
        policy_version=POLICY_VERSION,
        expires=int(time.time()) + expires,
    )
    try:
        signed = sign(bytes.fromhex(data.secrets().proxy_key), claims)
    except ValueError as error:
        raise Failed(f"--target {target}: {error}: a token opens one IP address, not a name") from None
    curl = f"curl -sv --proxy socks5://{owned.proxy} --proxy-user {owned.ip}:{signed} -X NOOP smtp://{target}"
    return Pass(owned.proxy, owned.ip, signed, claims.expires, curl)


def _owned(directory: Directory, name: str) -> Binding:
    found = directory.bindings.get(name)
    if found is None:
        raise Failed(f"no binding {name}; there are {', '.join(directory.bindings)}")
    if not found.proxy:
        raise Failed(f"no proxy owns binding {name}: {found.reason or 'none was seen yet'}")
    return found


async def _directory(data: DataDir) -> Directory:
    async with open_backends(data) as backends:
        directory = Directory(backends.state)
        await directory.refresh()
    return directory
