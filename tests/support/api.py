"""A transmissions API over an acceptor that remembers instead of storing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import httpx
from starlette.applications import Starlette

from ingest.http import make_app
from postfleet.accept import KeyConflict
from postfleet.directory import ApiKey, Directory, Pool, SendingDomain
from postfleet.ports import StorageError
from postfleet.settings import Settings
from postfleet.stages import Submission


def fixed_api_key(tenant: int, digit: str) -> tuple[str, ApiKey]:
    """The same in every process that collects the tests."""
    key = digit * 48
    return key, ApiKey(key[:8], hashlib.sha256(key.encode()).hexdigest(), tenant)


KEY, KEY_RECORD = fixed_api_key(7, "7")
PRIMARY_KEY, PRIMARY_KEY_RECORD = fixed_api_key(0, "a")
SETTINGS = Settings(max_message_size=200_000, max_recipients=50)


class RecordingAcceptor:
    """Accepts everything, or fails as told."""

    def __init__(self) -> None:
        self.accepted: list[Submission] = []
        self.failure: StorageError | None = None
        self._keys: dict[tuple[int, str], tuple[str, str]] = {}
        self._last = 100

    def new_id(self) -> str:
        self._last += 1
        return str(self._last)

    async def accept(self, submission: Submission) -> None:
        if self.failure is not None:
            raise self.failure
        self.accepted.append(submission)

    async def accept_keyed(
        self, tenant: int, key: str, body_digest: str, build: Callable[[str], Submission]
    ) -> tuple[str, bool]:
        known = self._keys.get((tenant, key))
        if known is None:
            submission = build(self.new_id())
            await self.accept(submission)
            self._keys[tenant, key] = submission.id, body_digest
            return submission.id, False
        if known[1] != body_digest:
            raise KeyConflict(key)
        return known[0], True


class NoTable:
    """A state table that no test reads."""


def directory() -> Directory:
    made = Directory(NoTable())  # type: ignore[arg-type]
    made.api_keys = {record.prefix: record for record in (KEY_RECORD, PRIMARY_KEY_RECORD)}
    made.domains = {
        "example.com": SendingDomain("example.com", 7, True, "bounce.example.com"),
        "xn--bcher-kva.example": SendingDomain("xn--bcher-kva.example", 7, True, "bounce.example.com"),
        "new.example": SendingDomain("new.example", 7, False, "bounce.example.com"),
        "foreign.example": SendingDomain("foreign.example", 8, True, "bounce.example.com"),
        "primary.example": SendingDomain("primary.example", 0, True, "bounce.example.com"),
    }
    made.pools = {name: Pool(name, {}) for name in ("default", "Marketing")}
    return made


def make(acceptor: RecordingAcceptor) -> Starlette:
    return make_app(directory(), acceptor, SETTINGS)


def client(app: Starlette, **headers: str) -> httpx.AsyncClient:
    """Speaks to the app without a socket; an exception in it becomes its 500."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app, raise_app_exceptions=False),
        base_url="http://ingest",
        headers={"Authorization": KEY, **headers},
    )


def request(**changes: Any) -> dict[str, Any]:
    """A small valid request; a change to `content` is merged into it."""
    content = {"from": "ann@example.com", "subject": "Hi", "text": "Hello {{name}}"} | changes.pop("content", {})
    return {"content": content, "recipients": [{"address": "bob@example.org"}]} | changes
