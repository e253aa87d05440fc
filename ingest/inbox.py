"""The inbox: what producers put into a queue of ours is accepted once, or becomes a dead letter with its reason.

Only SQS says who sent an entry, and only the configured producers say whose tenant that is. Storage trouble is nobody's
fault: the entry comes back.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence

import msgspec
import structlog
from msgspec import UNSET

from ingest.errors import ApiError, Refusal
from ingest.producers import KnownProducer, producer_of
from ingest.transmissions import Checked, check_transmission
from postfleet.accept import Acceptor, KeyConflict
from postfleet.arrivals import Arrival, Inbox, Reason, UnreadableObject, decode_arrival
from postfleet.consume import Consumer
from postfleet.directory import Directory
from postfleet.events import EventWriter, event_id
from postfleet.handover import S3Object, UnreadableHandover, read_handover
from postfleet.ports import MAX_DELAY, StorageError, TooLarge
from postfleet.settings import Settings
from postfleet.stages import Event, Submission

IN_FLIGHT = 128
"""Entries at a time, at most 1 MiB each."""
OBJECTS = 4
"""Transmissions at a time that are read from S3: each may be as large as a request."""
COMES_BACK = 30.0
"""Seconds until an entry that met trouble of ours is received again; doubled each time, up to the longest delay."""
BRAKE = 2.0
"""Seconds that it keeps its place before: in an outage the queue is not read through over and over."""

METHOD = "sqs"
REJECTION = "generation_rejection"
_ADMIN_FAILURE = 25
_DETAILS = 3
"""Refused recipients that a reason names."""

log = structlog.get_logger()


class Rejected(Exception):
    """The entry will never be accepted as it is."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.description)
        self.reason = reason


class InboxConsumer:
    def __init__(
        self,
        *,
        inbox: Inbox,
        producers: Mapping[str, KnownProducer],
        directory: Directory,
        acceptor: Acceptor,
        events: EventWriter,
        settings: Settings,
    ) -> None:
        self._inbox = inbox
        self._producers = producers
        self._directory = directory
        self._acceptor = acceptor
        self._events = events
        self._settings = settings
        self._objects = asyncio.Semaphore(OBJECTS)
        self._consumer = Consumer(
            inbox.queue,
            _decode,
            self.take,
            room=lambda: IN_FLIGHT - self._consumer.in_flight,
            extend_every=settings.visibility_extend,
            linger=settings.receive_linger,
        )

    async def run(self) -> None:
        """Until `stop`; then returns when what was taken is finished."""
        await self._consumer.run()

    def stop(self) -> None:
        self._consumer.stop()

    async def take(self, arrival: Arrival) -> float | None:
        """None once the entry is accepted, or a dead letter; else the seconds after which it shall come back."""
        try:
            await self._take(arrival)
            return None
        except StorageError as error:
            log.warning("inbox_entry_comes_back", error=str(error), receives=arrival.receives)
        except Exception:
            log.exception("inbox_entry_failed", message_id=arrival.message_id, receives=arrival.receives)
        await asyncio.sleep(BRAKE)
        return comes_back(arrival.receives)

    async def _take(self, arrival: Arrival) -> None:
        producer = producer_of(arrival.sender_id, self._producers)
        try:
            if producer is None:
                raise _rejected("unknown_sender", f"no producer is configured for sender {arrival.sender_id}")
            await self._accept(arrival, producer)
        except Rejected as rejected:
            await self._refuse(arrival, producer.tenant if producer else 0, rejected.reason)

    async def _refuse(self, arrival: Arrival, tenant: int, reason: Reason) -> None:
        """Both steps are repeated when the second one fails: the event is the same again, a dead letter may be there
        twice."""
        await self._events.write([refused_entry(arrival, tenant, reason)])
        await self._inbox.bury(arrival, reason)

    async def _accept(self, arrival: Arrival, producer: KnownProducer) -> None:
        """Raises `Rejected`."""
        try:
            handover = read_handover(arrival.body.encode())
        except UnreadableHandover as error:
            raise _rejected("invalid_entry", str(error)) from None
        if handover.transmission_in is UNSET:
            assert handover.transmission is not UNSET
            await self._accept_once(arrival, producer, handover.id, bytes(handover.transmission))
            return
        async with self._objects:
            body = await self._fetched(handover.transmission_in, producer)
            await self._accept_once(arrival, producer, handover.id, body)

    async def _fetched(self, place: S3Object, producer: KnownProducer) -> bytes:
        """Raises `Rejected`."""
        if not producer.may_refer_to(place):
            allowed = producer.prefix or "nothing"
            raise _rejected("foreign_object", f"{place.bucket}/{place.key}: this producer may refer to {allowed}")
        most = self._settings.max_message_size
        try:
            return await self._inbox.read(place, most)
        except TooLarge:
            raise _rejected("too_large", f"{place.bucket}/{place.key} is over the limit of {most} bytes") from None
        except UnreadableObject as error:
            raise _rejected("unreadable_object", str(error)) from None

    async def _accept_once(self, arrival: Arrival, producer: KnownProducer, name: str, body: bytes) -> None:
        """Raises `Rejected`."""
        try:
            checked = check_transmission(body, producer.tenant, self._directory, self._settings.max_recipients)
        except Refusal as refusal:
            raise _refused("invalid_transmission", refusal) from None

        def build(transmission: str) -> Submission:
            return msgspec.structs.replace(checked.submission(transmission), method=METHOD)

        digest = hashlib.sha256(body).hexdigest()
        try:
            transmission, _ = await self._acceptor.accept_keyed(producer.tenant, inbox_key(name), digest, build)
        except KeyConflict:
            raise _rejected("id_conflict", f"id {name!r} came before with another transmission", "1602") from None
        except TooLarge:
            raise _rejected("too_large", "the transmission is larger than can be stored", "1300") from None
        await self._events.write(refused_recipients(transmission, arrival, checked))


def comes_back(receives: int) -> float:
    """Seconds. A queue moves away what was received too often, so that a long outage must not use that up."""
    return min(COMES_BACK * 2.0 ** min(receives - 1, 10), MAX_DELAY)


def inbox_key(name: str) -> str:
    """The idempotency key of an entry. HTTP's keys have no spaces, so that they never meet."""
    return f"inbox {name}"


def refused_entry(arrival: Arrival, tenant: int, reason: Reason) -> Event:
    """What one entry gives each time that it is refused. Nobody's entry is told to the primary account."""
    return Event(
        event_id=event_id("inbox", arrival.message_id),
        type=REJECTION,
        timestamp=arrival.sent_at,
        transmission_id="",
        message_id="",
        subaccount_id=tenant,
        rcpt_to="",
        recv_method=METHOD,
        error_code=554,
        bounce_class=_ADMIN_FAILURE,
        raw_reason=f"554 5.7.1 inbox entry {arrival.message_id}: {reason.kind}: {reason.code} {reason.description}",
    )


def refused_recipients(transmission: str, arrival: Arrival, checked: Checked) -> list[Event]:
    """Those whom an accepted transmission is not sent to: there is no response that could say so."""
    return [
        Event(
            event_id=event_id(transmission, "refused", number),
            type=REJECTION,
            timestamp=arrival.sent_at,
            transmission_id=transmission,
            message_id="",
            subaccount_id=checked.tenant,
            rcpt_to="",
            sending_domain=checked.sender.domain,
            ip_pool=checked.pool,
            campaign_id=checked.campaign,
            friendly_from=checked.friendly_from,
            subject=checked.subject,
            recv_method=METHOD,
            error_code=554,
            bounce_class=_ADMIN_FAILURE,
            raw_reason=f"554 5.7.1 {_said(error)}",
        )
        for number, error in enumerate(checked.errors)
    ]


def _decode(body: bytes) -> Sequence[Arrival]:
    return (decode_arrival(body),)


def _rejected(kind: str, description: str, code: str = "") -> Rejected:
    return Rejected(Reason(kind, code, description))


def _refused(kind: str, refusal: Refusal) -> Rejected:
    details = "".join(f"; {_said(error)}" for error in refusal.details[:_DETAILS])
    return _rejected(kind, _text(refusal.error) + details, refusal.error.code)


def _said(error: ApiError) -> str:
    return f"{error.code} {_text(error)}"


def _text(error: ApiError) -> str:
    return f"{error.message}: {error.description}" if error.description else error.message
