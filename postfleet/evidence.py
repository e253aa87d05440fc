"""What an audit reads: the MX sink's ledger and the load generator's log, one JSON object a line.

Whoever writes them may be killed at any instant, so a last line that is cut short is passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec
from msgspec import Struct

OK, FAILED, INDETERMINATE = "ok", "failed", "indeterminate"

QUIT, EOF, CUT, RESET, TIMEOUT = "quit", "eof", "cut", "reset", "timeout"


class LedgerMessage(Struct, frozen=True, tag="message", tag_field="record"):
    """One recipient's copy as an MX received it; written before its 250."""

    time: float
    connection: str
    order: int
    """Position among the messages of its connection, from 1."""
    peer: str
    """IP address that it came from."""
    host: str
    """IP address of the MX."""
    ehlo: str
    tls: bool
    sender: str
    """Empty for the null sender."""
    recipient: str
    size: int
    sha256: str
    """Of the data as it came, dots unstuffed."""
    message_id: str


class LedgerConnection(Struct, frozen=True, tag="connection", tag_field="record"):
    """How one connection ended. A connection without such a record did not end while the sink lived."""

    time: float
    connection: str
    peer: str
    host: str
    end: str
    """`quit`, `eof`, `cut` (by the sink), `reset` or `timeout`."""
    messages: int


class LedgerPeak(Struct, frozen=True, tag="peak", tag_field="record"):
    """`connections` from `peer` to `site` were open at once: more than ever before in this run of the sink."""

    time: float
    peer: str
    site: str
    connections: int


LedgerRecord = LedgerMessage | LedgerConnection | LedgerPeak


class HandOver(Struct, frozen=True):
    """What a client knows of one submission: accepted (`ok`), refused (`failed`), or without an answer
    (`indeterminate`). No two submissions share a recipient."""

    time: float
    transport: str
    """`http` or `smtp`."""
    transmission: str
    """Id from the reply; empty where none was read."""
    recipients: tuple[str, ...]
    status: str
    detail: str = ""


T = TypeVar("T")


def read_ledger(lines: Iterable[bytes]) -> Iterator[LedgerRecord]:
    """Records in the order of writing. Raises `ValueError` that names a line which is no record."""
    return _records(lines, msgspec.json.Decoder(LedgerRecord))


def read_hand_overs(lines: Iterable[bytes]) -> Iterator[HandOver]:
    """Records in the order of writing. Raises `ValueError` that names a line which is no record."""
    return _records(lines, msgspec.json.Decoder(HandOver))


def _records(lines: Iterable[bytes], decoder: msgspec.json.Decoder[T]) -> Iterator[T]:
    for number, line in enumerate(lines, 1):
        try:
            yield decoder.decode(line)
        except msgspec.DecodeError as error:
            if line.endswith(b"\n"):
                raise ValueError(f"line {number} is no record: {error}") from None
