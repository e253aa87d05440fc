"""What an operator can set. Read from `settings.toml` in the data directory; every key is optional."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
from msgspec import Struct

HOUR = 3600.0
DAY = 24 * HOUR
MIB = 1024 * 1024


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Times in seconds, sizes in bytes."""

    # ownership
    lease_renew: float = 5.0
    lease_time: float = 15.0
    visibility: float = 60.0
    visibility_extend: float = 20.0
    # side tasks
    snapshot_refresh: float = 1.0
    """How old what a process knows of pools, bindings, keys and domains may be."""
    sweep_every: float = 5.0
    receive_linger: float = 0.05
    """Least time between two receives from one queue that both find something."""
    # acceptance
    accept_linger: float = 0.003
    """While several submissions come at a time, a commit waits so long for more."""
    # journal
    journal_window: float = 0.003
    events_window: float = 0.1
    # retries
    retry_first: float = 20 * 60.0
    retry_factor: float = 2.0
    message_lifetime: float = 72 * HOUR
    rebind_delay: float = 5.0
    """A message that lost its binding, or found no way out at all, is planned again after this long."""
    disk_reserve: int = 256 * MIB
    """Free bytes of the store's file system below which no new mail is accepted."""
    # limits
    max_message_size: int = 20 * MIB
    max_recipients: int = 10_000
    connections_per_key: int = 20
    """Open connections of one binding to one limit key."""
    messages_per_connection: int = 100
    worker_sessions: int = 200
    worker_orders: int = 100
    connect_timeout: float = 30.0
    # retention
    row_retention: float = 14 * DAY
    """Plan, claim and done rows live this long after the last message of theirs can have been tried."""
    event_retention: float = 10 * DAY

    def ownership_expiry(self, now: float) -> float:
        """Until when claim, lease and journal rows written at `now` are kept, Unix seconds."""
        return now + self.row_retention + self.message_lifetime


def load_settings(path: Path) -> Settings:
    """Raises `ValueError` that names the file, the key and what is wrong with it."""
    if not path.exists():
        return Settings()
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Settings)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"{path}: {error}") from None
