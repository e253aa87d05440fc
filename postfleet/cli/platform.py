"""What `up` decides before anything runs: addresses, keys, rows, processes."""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import socket
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

from postfleet.cli.supervisor import Service, StartFailed
from postfleet.deployment import AwsPlaces, DataDir, Deployment, ProxySite, Secrets, split_address, write_private
from postfleet.directory import (
    API_KEYS,
    BINDINGS,
    DOMAINS,
    POOLS,
    Binding,
    Pool,
    SendingDomain,
    new_api_key,
    store,
)
from postfleet.ports import Backends

SENDING_DOMAIN = "shop.example"
PROXY_SOURCES = (("proxy-a", ("127.0.0.11", "127.0.0.12")), ("proxy-b", ("127.0.0.21", "127.0.0.22")))
POOLS_AT_START = {"default": ("127.0.0.11", "127.0.0.21"), "bulk": ("127.0.0.12", "127.0.0.22")}
"""Each pool has one IP on each proxy."""

REPLACE = signal.SIGUSR2
"""Tells `up` to replace its proxies."""


class Credentials(Struct, frozen=True):
    """`credentials.json`, for scripts."""

    http: str
    smtp: str
    sink: str
    api_key: str
    sending_domain: str
    ledger: str
    source_ips: dict[str, list[str]]
    """By pool."""


class AwsChoices(Struct, frozen=True):
    """Names that are empty are chosen."""

    sandbox: bool = False
    bucket: str = ""
    table: str = ""
    queue_prefix: str = ""


class Choices(Struct, frozen=True):
    """The options of `up`."""

    http: str
    smtp: str
    sink: str
    route: str
    trust: tuple[str, ...]
    workers: int
    aws: AwsChoices | None = None
    """None keeps the stores in the data directory."""


def lock(data: DataDir) -> IO[str]:
    """Keep the file open for as long as the platform runs. Raises `StartFailed` where one runs already."""
    data.path.mkdir(parents=True, exist_ok=True)
    file = open(data.path / "lock", "a+")  # noqa: SIM115 - the caller keeps it open
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise StartFailed(f"a platform runs on {data.path} already; give another --data DIR") from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def free_address(option: str, address: str) -> str:
    """`address` itself, with a free port where its port is 0. Raises `StartFailed` when it is taken."""
    try:
        host, port = split_address(address)
    except ValueError as error:
        raise StartFailed(f"--{option}: {error}") from None
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = f"{address} cannot be used ({error.strerror}); choose another with --{option} HOST:PORT"
            raise StartFailed(reason) from None
        return f"{host}:{probe.getsockname()[1]}"


def decide(data: DataDir, choices: Choices, aws: AwsPlaces | None = None) -> Deployment:
    """Addresses for everything; written to `run.json`."""
    sink = "" if choices.route else free_address("sink", choices.sink)
    deployment = Deployment(
        http=free_address("http", choices.http),
        smtp=free_address("smtp", choices.smtp),
        proxies=tuple(
            ProxySite(name, free_address("", "127.0.0.1:0"), free_address("", "127.0.0.1:0"), sources)
            for name, sources in PROXY_SOURCES
        ),
        delivery_port=split_address(choices.route or sink)[1],
        dns="" if choices.route else free_address("", "127.0.0.1:0"),
        sink=sink,
        route=choices.route,
        trust=choices.trust,
        ledger="" if choices.route else str(data.ledger.resolve()),
        sending_domain=SENDING_DOMAIN,
        aws=aws,
    )
    write_private(data.path / "run.json", msgspec.json.format(msgspec.json.encode(deployment)))
    return deployment


def keep_secrets(data: DataDir) -> None:
    """Made once; what was signed with them must stay readable."""
    if not (data.path / "secrets.json").exists():
        made = Secrets(proxy_key=secrets.token_hex(32), return_path_key=secrets.token_hex(32))
        write_private(data.path / "secrets.json", msgspec.json.format(msgspec.json.encode(made)))
    write_private(data.path / "proxy.key", data.secrets().proxy_key.encode() + b"\n")


async def furnish(data: DataDir, deployment: Deployment, backends: Backends) -> Credentials:
    """The rows that a new platform starts with, and the credentials file. Repeatable."""
    state = backends.state
    key = _known_key(data.credentials)
    if not key or await state.get(API_KEYS, key[:8]) is None:
        key, record = new_api_key(0, "up")
        await store(state, API_KEYS, record.prefix, record)
    await store(state, DOMAINS, SENDING_DOMAIN, SendingDomain(SENDING_DOMAIN, 0, True, f"bounces.{SENDING_DOMAIN}"))
    for site in deployment.proxies:
        for ip in site.sources:
            host = f"out{ip.rpartition('.')[2]}.postfleet.example"
            await state.put_if_absent(BINDINGS, ip, msgspec.json.encode(Binding(name=ip, ip=ip, ehlo=host)))
    for name, ips in POOLS_AT_START.items():
        await state.put_if_absent(POOLS, name, msgspec.json.encode(Pool(name, dict.fromkeys(ips, 1))))
    credentials = Credentials(
        http=f"http://{deployment.http}",
        smtp=deployment.smtp,
        sink=deployment.sink,
        api_key=key,
        sending_domain=SENDING_DOMAIN,
        ledger=deployment.ledger,
        source_ips={name: list(ips) for name, ips in POOLS_AT_START.items()},
    )
    write_private(data.credentials, msgspec.json.format(msgspec.json.encode(credentials)))
    return credentials


def _known_key(path: Path) -> str:
    if not path.exists():
        return ""
    return msgspec.json.decode(path.read_bytes(), type=Credentials).api_key


def services(data: DataDir, deployment: Deployment, workers: int) -> list[Service]:
    """Every process, in the order of starting."""
    here = ("--data", str(data.path.resolve()))
    found = [] if deployment.route else [Service("sandbox", "sandbox", here, rank=6)]
    found += [
        Service(site.name, "ip_proxy", _proxy_arguments(data, deployment, site), 5, takes_over=True)
        for site in deployment.proxies
    ]
    found.append(Service("control", "control", here, rank=4))
    found.append(Service("reporting", "reporting", here, rank=4))
    found.append(Service("router", "router", here, rank=2))
    found += [Service(f"worker-{n}", "mta_worker", here, rank=3, grace=30.0) for n in range(1, workers + 1)]
    found.append(Service("ingest", "ingest", here, rank=1))
    return found


def _proxy_arguments(data: DataDir, deployment: Deployment, site: ProxySite) -> tuple[str, ...]:
    sources = [part for ip in site.sources for part in ("--source", ip)]
    key = str((data.path / "proxy.key").resolve())
    takeover = str((data.path / "run" / f"{site.name}.sock").resolve())
    where = ["--listen", site.socks, "--health", site.health, "--key-file", key, "--takeover", takeover]
    return (*where, *sources, "--allow-loopback", "--port", str(deployment.delivery_port))
