"""What `postfleet up` decided about this platform: `run.json` and `secrets.json` in the data directory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from postfleet.providers import Providers, parse_profiles
from postfleet.settings import LOCAL, ON_AWS, Settings, load_settings


class ProxySite(Struct, frozen=True):
    """One outbound proxy and the addresses that it may bind."""

    name: str
    socks: str
    """host:port"""
    health: str
    """host:port"""
    sources: tuple[str, ...]


class LiveSource(Struct, frozen=True):
    """A sending IP on the internet."""

    host: str
    """EHLO name: its A record is the IP, and the IP's PTR record names it."""
    local: str
    """What to bind for the IP: itself, or the address behind NAT."""


class AwsPlaces(Struct, frozen=True):
    """The bucket, the table and the queues of a platform on AWS, in the account of the SDK's environment."""

    bucket: str
    table: str
    queue_prefix: str
    """Before the name of each queue, its `-` included."""
    variables: Mapping[str, str] = {}
    """Of the SDK's environment, for processes that do not inherit it: region and endpoints, never a secret. The
    sandbox's credentials are here too, which are no secret."""

    @property
    def sandbox(self) -> bool:
        """Whether that is no AWS, but what stands in for it on this machine."""
        return "AWS_ACCESS_KEY_ID" in self.variables


class Deployment(Struct, frozen=True, kw_only=True):
    """Addresses are `host:port`."""

    http: str
    smtp: str
    proxies: tuple[ProxySite, ...]
    delivery_port: int = 25
    """The port of recipients' MX hosts: 25, or the sandbox's."""
    dns: str = ""
    """Nameserver; empty for the system's."""
    sink: str = ""
    """The sandbox's MX; empty where there is none."""
    route: str = ""
    """Deliver everything here instead of resolving."""
    live: Mapping[str, LiveSource] = {}
    """By sending IP, where mail goes to the internet; there A and PTR records must agree with a binding."""
    trust: tuple[str, ...] = ()
    """CIDRs whose clients submit by SMTP without AUTH."""
    ledger: str = ""
    sending_domain: str = ""
    host_name: str = "postfleet.localhost"
    """What the SMTP server calls itself."""
    aws: AwsPlaces | None = None
    """Where the stores are on AWS; None for those in the data directory."""


class Secrets(Struct, frozen=True):
    """Hexadecimal keys."""

    proxy_key: str
    """Signs the proxies' tokens."""
    return_path_key: str
    """Signs VERP addresses."""


class DataDir:
    """The folder that holds one platform."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def store(self) -> Path:
        return self.path / "store"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.ndjson"

    @property
    def inbox(self) -> Path:
        """The last messages that the sandbox took: `postfleet.inbox`."""
        return self.path / "inbox"

    @property
    def loads(self) -> Path:
        """Folder of the load generator's logs, one file a run: `postfleet.evidence`."""
        return self.path / "loads"

    @property
    def credentials(self) -> Path:
        return self.path / "credentials.json"

    def settings(self) -> Settings:
        """Those of `settings.toml`; the rest as it suits the stores that the platform runs on."""
        return load_settings(self.path / "settings.toml", ON_AWS if self._on_aws() else LOCAL)

    def _on_aws(self) -> bool:
        return (self.path / "run.json").exists() and self.deployment().aws is not None

    def providers(self) -> Providers:
        """The shipped profiles and those of `providers.toml`. Raises `ValueError` that names what is wrong with it."""
        path = self.path / "providers.toml"
        return Providers(parse_profiles(path.read_text(), str(path))) if path.exists() else Providers()

    def deployment(self) -> Deployment:
        return msgspec.json.decode((self.path / "run.json").read_bytes(), type=Deployment)

    def secrets(self) -> Secrets:
        return msgspec.json.decode((self.path / "secrets.json").read_bytes(), type=Secrets)


def write_private(path: Path, data: bytes) -> None:
    """Replace a file that only its owner may read, durably and whole."""
    temporary = path.with_name(path.name + ".new")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def split_address(address: str) -> tuple[str, int]:
    """`host:port` -> (host, port); IPv6 hosts in brackets. Raises `ValueError`."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or not 0 <= int(port) < 65536 or not host:
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host.strip("[]"), int(port)
