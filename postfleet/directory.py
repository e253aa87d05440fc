"""Who may send, from which domains, through which pools and bindings: rows of the state table.

`Directory` is a snapshot, renewed about once a second by the process that
holds it, so that nothing on the path of a message reads a row for it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from msgspec import Struct

from postfleet.ports import StateTable

API_KEYS, DOMAINS, POOLS, BINDINGS, SUSPENSIONS = "apikey", "domain", "pool", "binding", "suspension"


class ApiKey(Struct, frozen=True):
    """`digest` is SHA-256 of the whole key: keys are 160 random bits, so no slow hash is needed."""

    prefix: str
    digest: str
    tenant: int
    label: str = ""


class SendingDomain(Struct, frozen=True):
    domain: str
    tenant: int
    verified: bool
    bounce_domain: str


class Pool(Struct, frozen=True):
    """`weights` by binding name; a weight of 0 drains."""

    name: str
    weights: dict[str, int]


class Binding(Struct, frozen=True):
    """One public sending IP. `proxy` is the SOCKS5 address that owns it now, `host:port`; empty while none does."""

    name: str
    ip: str
    ehlo: str
    proxy: str = ""
    alive: bool = False
    since: float = 0.0
    reason: str = ""


class Suspension(Struct, frozen=True):
    """No mail from a binding to a limit key until a time, Unix seconds."""

    binding: str
    limit_key: str
    since: float
    until: float
    reason: str

    @property
    def sort(self) -> str:
        return f"{self.binding}|{self.limit_key}"


T = TypeVar("T", bound=Struct)
_CHANGES = ("directory", "changes")
"""Key of a row whose version moves when something here was changed."""


async def load_all(state: StateTable, partition: str, kind: type[T]) -> dict[str, T]:
    """All rows of a partition by sort key."""
    found: dict[str, T] = {}
    start = ""
    while True:
        rows = await state.query(partition, start=start)
        for row in rows:
            found[row.sort] = msgspec.json.decode(row.body, type=kind)
        if len(rows) < 1000:
            return found
        start = rows[-1].sort + "\0"


async def announce(state: StateTable) -> None:
    """Let snapshots be renewed, after a change. Losing the race says that another announced after my change."""
    row = await state.get(*_CHANGES)
    if row is None:
        await state.put_if_absent(*_CHANGES, b"")
    else:
        await state.put_if(row, b"")


async def store(state: StateTable, partition: str, sort: str, record: Struct, expires: float | None = None) -> None:
    """Last writer wins."""
    body = msgspec.json.encode(record)
    written = await state.put_if_absent(partition, sort, body, expires)
    while not written.ok:
        if written.row is None:
            written = await state.put_if_absent(partition, sort, body, expires)
        elif written.row.body == body:
            break
        else:
            written = await state.put_if(written.row, body, expires)
    await announce(state)


def new_api_key(tenant: int, label: str = "") -> tuple[str, ApiKey]:
    """(the key to show once, the record to store)."""
    prefix = secrets.token_hex(4)
    key = prefix + secrets.token_hex(20)
    return key, ApiKey(prefix, hashlib.sha256(key.encode()).hexdigest(), tenant, label)


class Directory:
    """Every `whole_every`-th refresh reads everything; those between only when a change was announced."""

    def __init__(self, state: StateTable, whole_every: int = 1) -> None:
        self._state = state
        self._whole_every = whole_every
        self._until_whole = 0
        self._seen = 0
        """Version of the announcements that the snapshot includes."""
        self.api_keys: Mapping[str, ApiKey] = {}
        self.domains: Mapping[str, SendingDomain] = {}
        self.pools: Mapping[str, Pool] = {}
        self.bindings: Mapping[str, Binding] = {}
        self.suspensions: Mapping[str, Suspension] = {}

    async def refresh(self) -> None:
        seen = await self._announced() if self._whole_every > 1 else 0
        if self._until_whole > 0 and seen == self._seen:
            self._until_whole -= 1
            return
        await self._read()
        self._until_whole, self._seen = self._whole_every - 1, seen

    async def _announced(self) -> int:
        row = await self._state.get(*_CHANGES)
        return row.version if row is not None else 0

    async def _read(self) -> None:
        self.api_keys = await load_all(self._state, API_KEYS, ApiKey)
        self.domains = await load_all(self._state, DOMAINS, SendingDomain)
        self.pools = await load_all(self._state, POOLS, Pool)
        self.bindings = await load_all(self._state, BINDINGS, Binding)
        self.suspensions = await load_all(self._state, SUSPENSIONS, Suspension)

    def tenant_of(self, key: str) -> int | None:
        """Whose API key this is; None for nobody's. Compares in constant time."""
        record = self.api_keys.get(key[:8])
        digest = hashlib.sha256(key.encode()).hexdigest()
        if record is None or not hmac.compare_digest(record.digest, digest):
            return None
        return record.tenant

    def may_send_from(self, tenant: int, domain: str) -> SendingDomain | None:
        record = self.domains.get(domain.lower())
        if record is None or not record.verified or record.tenant != tenant:
            return None
        return record
