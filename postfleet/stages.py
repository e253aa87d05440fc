"""The records that cross seams: frozen, versioned by addition only.

Array-like records gain fields at the end, with defaults; decoders ignore what
they do not know, so that the last release's bytes still decode and a newer
release's bytes do not stop an older process.
"""

from __future__ import annotations

import base64
import hashlib

import msgspec
from msgspec import Raw, Struct

# ---------------------------------------------------------------- identity

_LONGEST_ID = 64


def derived_id(parent: str, suffix: str) -> str:
    """An id that depends on nothing but its parent and suffix, and never grows past 64 characters."""
    name = parent + suffix
    if len(name) <= _LONGEST_ID:
        return name
    digest = hashlib.sha256(name.encode()).digest()[:20]
    return "h" + base64.b32encode(digest).decode().lower()


def order_id(unit: str, cut: int) -> str:
    return derived_id(unit, f"/{cut}")


def park_id(parent: str, j: int) -> str:
    """`parent` is an Order or a unit."""
    return derived_id(parent, f"~{j}")


def message_id(transmission: str, index: int) -> str:
    return f"{transmission}.{index}"


# ---------------------------------------------------------------- mail


class BlobRef(Struct, frozen=True, array_like=True):
    key: str
    offset: int
    length: int


class Transmission(Struct, frozen=True, array_like=True):
    """What all recipients of one hand-over share. `id` is a string of digits."""

    id: str
    tenant: int
    accepted_at: float
    expires_at: float
    content: BlobRef
    """`postfleet.content` bytes: see `content_kind`."""
    content_kind: str
    """`raw`: a finished message without trace headers, ready but for per-recipient ones.
    `template`: a compiled template, rendered per recipient."""
    sending_domain: str
    pool: str = "default"
    campaign: str = ""
    friendly_from: str = ""
    subject: str = ""
    method: str = "esmtp"
    """How it came: `esmtp`, `rest` or `sqs`."""
    bounce_domain: str = ""
    data: Raw = Raw(b"null")
    """Transmission-wide substitution data, a JSON object or null."""


class Message(Struct, frozen=True, array_like=True):
    """One recipient's copy: identity (transmission, index)."""

    index: int
    address: str
    name: str = ""
    header_to: str = ""
    data: Raw = Raw(b"null")
    """Recipient substitution data, a JSON object or null."""
    attempts: int = 0
    """Attempts that the far end answered, so far."""
    binding: str = ""
    """Where a retry wants to go again; empty lets the router choose."""
    avoid: tuple[str, ...] = ()
    """Bindings that this message's destination has blocked."""


class Submission(Struct, frozen=True):
    """One hand-over, valid in itself: everything that can be refused has been refused before."""

    id: str
    tenant: int
    content: bytes
    content_kind: str
    messages: tuple[Message, ...]
    sending_domain: str
    bounce_domain: str
    pool: str = "default"
    campaign: str = ""
    friendly_from: str = ""
    subject: str = ""
    method: str = "esmtp"
    data: Raw = Raw(b"null")


class Group(Struct, frozen=True, array_like=True):
    """Messages of one transmission."""

    transmission: Transmission
    messages: tuple[Message, ...]


class Unit(Struct, frozen=True, array_like=True):
    """What is planned at once, never renamed, never cut again: a pack, a chunk or a park."""

    id: str
    tenant: int
    groups: tuple[Group, ...]
    fresh: bool = True
    """Accepted just now (pack, chunk) rather than parked."""
    page: BlobRef | None = None
    """A chunk's messages (a JSON array of Message) when they are not in `groups`, which then has one group."""


class Manifest(Struct, frozen=True, array_like=True):
    """A large transmission: pages of recipients, each to become the chunk (transmission, k)."""

    transmission: Transmission
    pages: tuple[BlobRef, ...]


class UnitEntry(Struct, frozen=True, array_like=True, omit_defaults=True):
    """Container on the queue `units`; all things in one entry belong to one tenant."""

    units: tuple[Unit, ...] = ()
    manifests: tuple[Manifest, ...] = ()


class Order(Struct, frozen=True, array_like=True):
    """Unit of claim and ack of a worker: at most about 50 messages of one tenant, pool and lane."""

    id: str
    tenant: int
    pool: str
    binding: str
    lane: str
    groups: tuple[Group, ...]


class OrderEntry(Struct, frozen=True, array_like=True):
    """Container on a lane's queue."""

    orders: tuple[Order, ...] = ()


# ---------------------------------------------------------------- plan

DELIVERED = "delivered"
BOUNCED = "bounced"
EXPIRED = "expired"
SUPPRESSED = "suppressed"
CANCELLED = "cancelled"
FAILED = "failed"
TERMINAL = frozenset({DELIVERED, BOUNCED, EXPIRED, SUPPRESSED, CANCELLED, FAILED})

DEFERRED = "deferred"
"""Tried, to be tried again when due."""
REBIND = "rebind"
"""Not tried: the binding could not be used; to be planned again."""


class PlannedOrder(Struct, frozen=True, array_like=True):
    """`positions` count the unit's messages in the order of its groups."""

    pool: str
    binding: str
    lane: str
    positions: tuple[int, ...]


class PlannedPark(Struct, frozen=True, array_like=True):
    due: float
    reason: str
    positions: tuple[int, ...]


class PlannedEnd(Struct, frozen=True, array_like=True):
    """A message that ends without being tried (expired, suppressed, cancelled)."""

    position: int
    kind: str
    reason: str


class Plan(Struct, frozen=True, array_like=True):
    """Stored once per unit; everything that the router does follows from the unit and this row."""

    at: float
    orders: tuple[PlannedOrder, ...] = ()
    parks: tuple[PlannedPark, ...] = ()
    ends: tuple[PlannedEnd, ...] = ()


# ---------------------------------------------------------------- outcomes


class Outcome(Struct, frozen=True, array_like=True):
    """What became of one message of an Order: journalled before anything follows from it."""

    n: int
    """Position in the Order, counted over its groups."""
    kind: str
    at: float
    due: float = 0.0
    """For deferred and re-bound: when to plan it again."""
    code: int = 0
    """SMTP reply code, 0 where no reply decided."""
    reply: str = ""
    """The reply, or what happened instead."""
    mx: str = ""
    """Host name [address] that answered."""
    source_ip: str = ""
    block: bool = False
    """The reply blocks the binding here: the next try goes by another."""
    bounce_class: int = 0


class Claim(Struct, frozen=True):
    """The claim row of an Order."""

    state: str
    """`open`, `released` or `done`."""
    owner: str
    """Incarnation."""
    nonce: str
    start: int
    """The owner's journal sequence number when it claimed: its outcomes stand from there on."""
    takeovers: int = 0
    outcomes: tuple[Outcome, ...] = ()
    mark: int = -1
    """Which message is being tried, once the Order runs alone."""
    deaths: dict[int, int] = {}
    """Deaths of workers while this message was the marked one."""


# ---------------------------------------------------------------- events


class Event(Struct, frozen=True, omit_defaults=True):
    """One thing that happened to one message. Ids and times derive from plan rows and outcomes, so a
    repeated step writes the same event again and readers drop it by `event_id`."""

    event_id: str
    type: str
    """injection, delivery, bounce, delay, and for ends of our own: expired, suppressed, cancelled, failed;
    rebind says that a message went back to the router untried. generation_rejection tells of what came by SQS and
    never became a message: it has no message_id, and for an entry that was refused whole no transmission_id."""
    timestamp: float
    transmission_id: str
    message_id: str
    subaccount_id: int
    rcpt_to: str
    sending_domain: str = ""
    ip_pool: str = ""
    binding: str = ""
    sending_ip: str = ""
    campaign_id: str = ""
    friendly_from: str = ""
    subject: str = ""
    recv_method: str = ""
    msg_size: int = 0
    num_retries: int = 0
    injection_time: float = 0.0
    error_code: int = 0
    raw_reason: str = ""
    routing: str = ""
    """Host name [address] of the MX."""
    bounce_class: int = 0
    due: float = 0.0
    order: str = ""


class EventSegment(Struct, frozen=True, array_like=True):
    """Entry on the queue `events`: an NDJSON blob of Events that is durable already."""

    key: str
    count: int
    first: float
    last: float


encode = msgspec.json.Encoder().encode
decode_unit_entry = msgspec.json.Decoder(UnitEntry).decode
decode_order_entry = msgspec.json.Decoder(OrderEntry).decode
decode_messages = msgspec.json.Decoder(tuple[Message, ...]).decode
decode_plan = msgspec.json.Decoder(Plan).decode
decode_claim = msgspec.json.Decoder(Claim).decode
decode_event = msgspec.json.Decoder(Event).decode
decode_segment = msgspec.json.Decoder(EventSegment).decode
