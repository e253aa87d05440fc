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
    snapshot_whole: int = 1
    """Every so many refreshes read everything, the others only if something was announced as changed."""
    receive_linger: float = 0.05
    """Least time between two receives from one queue that both find something, but not all that they could take."""
    receive_batch: int = 64
    """Most entries that the router takes at a time."""
    # writes under load: 0 makes each a write of its own
    send_window: float = 0.0
    """While Orders of several units come at a time, they wait so long for each other."""
    ack_window: float = 0.0
    """While several entries are done at a time, their acks wait so long for each other."""
    park_window: float = 0.0
    """While several Orders park at a time, their parks wait so long for each other."""
    # acceptance
    accept_gather: float = 0.02
    """A commit waits at most so long for SMTP messages that have begun to arrive."""
    accept_linger: float = 0.003
    """While several submissions come at a time, a commit waits so long for more."""
    # journal
    journal_window: float = 0.003
    """A row of the journal takes the outcomes of so long."""
    journal_window_busy: float = 0.003
    """The same once the row before had several outcomes."""
    events_window: float = 0.1
    events_window_busy: float = 0.1
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
    """Entries that a worker has in hand."""
    worker_messages: int = 5000
    """With so many messages in hand a worker takes no more entries."""
    router_units: int = 64
    """Entries that a router has in hand."""
    connect_timeout: float = 30.0
    # retention
    row_retention: float = 14 * DAY
    """Plan, claim and done rows live this long after the last message of theirs can have been tried."""
    event_retention: float = 10 * DAY

    def ownership_expiry(self, now: float) -> float:
        """Until when claim, lease and journal rows written at `now` are kept, Unix seconds."""
        return now + self.row_retention + self.message_lifetime


LOCAL = Settings()
ON_AWS = Settings(
    snapshot_whole=10,
    receive_linger=0.25,
    receive_batch=10,
    send_window=0.1,
    ack_window=0.5,
    park_window=1.0,
    accept_gather=0.0,
    accept_linger=0.1,
    journal_window=0.02,
    journal_window_busy=0.1,
    events_window_busy=1.0,
    worker_orders=2000,
    router_units=2000,
)
"""Where each request costs money and a millisecond of CPU, a busy process waits for more to go with it."""


def load_settings(path: Path, defaults: Settings = LOCAL) -> Settings:
    """Raises `ValueError` that names the file, the key and what is wrong with it."""
    if not path.exists():
        return defaults
    try:
        return msgspec.convert(msgspec.structs.asdict(defaults) | tomllib.loads(path.read_text()), Settings)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"{path}: {error}") from None
