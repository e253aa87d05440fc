from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from support.api import SETTINGS, directory, request

from ingest import inbox as inbox_module
from ingest.inbox import InboxConsumer, comes_back
from ingest.producers import KnownProducer
from postfleet.accept import UNITS, Acceptor
from postfleet.arrivals import DEAD, INBOX, Arrival
from postfleet.backends.aws_clients import AwsClients, open_clients
from postfleet.backends.aws_inbox import AwsInbox
from postfleet.backends.aws_queue import ensure_queue
from postfleet.backends.local import LocalBackends, open_local
from postfleet.clock import SystemClock
from postfleet.event_log import read_events
from postfleet.events import EVENTS, EventWriter
from postfleet.handover import MAX_HANDOVER
from postfleet.ports import StoreFull, Unavailable
from postfleet.stages import Event, Transmission, decode_unit_entry

SENDER = "AIDAIT2UOQQY3AUEKVGXU"
"""Who sends everything, says moto."""
BUCKET = "acme-mail"
_numbers = itertools.count(1)


def entry(name: str = "a1", **changes: Any) -> str:
    """A change to None takes the field away."""
    fields = {"version": 1, "id": name, "transmission": request()} | changes
    return json.dumps({key: value for key, value in fields.items() if value is not None})


def referring(key: str, name: str = "a1", bucket: str = BUCKET, **more: str) -> str:
    return entry(name, transmission=None, transmission_in={"bucket": bucket, "key": key, **more})


@dataclass
class Post:
    """An ingest with an inbox on moto and all else on disk, and what a producer does."""

    clients: AwsClients
    prefix: str
    stores: LocalBackends
    acceptor: Acceptor
    events: EventWriter

    def consumer(self, *producers: KnownProducer) -> InboxConsumer:
        known = producers or (KnownProducer(SENDER, 7, f"{BUCKET}/out/"),)
        return InboxConsumer(
            inbox=AwsInbox(self.clients, self.prefix, 60.0),
            producers={producer.id: producer for producer in known},
            directory=directory(),
            acceptor=self.acceptor,
            events=self.events,
            settings=SETTINGS,
        )

    async def hand_over(self, *bodies: str) -> None:
        """As a producer does that has nothing of ours."""
        sqs, url = boto3.client("sqs"), await self.url(INBOX)
        for body in bodies:
            await asyncio.to_thread(sqs.send_message, QueueUrl=url, MessageBody=body)
        sqs.close()

    async def url(self, queue: str) -> str:
        return str((await self.clients.sqs.get_queue_url(QueueName=self.prefix + queue))["QueueUrl"])

    async def left(self) -> int:
        stats = await AwsInbox(self.clients, self.prefix, 60.0).queue.stats()
        return stats.visible + stats.in_flight + stats.delayed

    async def work(self, consumer: InboxConsumer | None = None) -> None:
        """Until the inbox is empty."""
        async with running(consumer or self.consumer()), asyncio.timeout(20):
            while await self.left():  # noqa: ASYNC110 - what is awaited is in another process
                await asyncio.sleep(0.01)

    async def accepted(self) -> list[Transmission]:
        received = await self.stores.queue(UNITS).receive(100, 0.0)
        return [g.transmission for each in received for u in decode_unit_entry(each.body).units for g in u.groups]

    async def dead(self) -> list[tuple[str, dict[str, str]]]:
        reply = await self.clients.sqs.receive_message(
            QueueUrl=await self.url(DEAD), MaxNumberOfMessages=10, MessageAttributeNames=["All"]
        )
        return [(each["Body"], _texts(each["MessageAttributes"])) for each in reply.get("Messages", ())]

    async def told(self) -> list[Event]:
        return [event async for event in read_events(self.stores.blobs)]

    async def refused_once(self, body: str) -> dict[str, str]:
        """Asserts that all there is of this entry is one dead letter and one event. What the dead letter says."""
        assert await self.left() == 0 and await self.accepted() == []
        ((dead, said),) = await self.dead()
        (event,) = await self.told()
        assert dead == body and said["sender_id"] == SENDER
        assert event.type == "generation_rejection" and event.recv_method == "sqs"
        assert said["message_id"] in event.raw_reason and said["description"] in event.raw_reason
        return said


def _texts(attributes: Mapping[str, Any]) -> dict[str, str]:
    return {name: value["StringValue"] for name, value in attributes.items()}


@asynccontextmanager
async def running(consumer: InboxConsumer) -> AsyncIterator[None]:
    task = asyncio.create_task(consumer.run())
    try:
        yield
    finally:
        consumer.stop()
        await task


@pytest.fixture
async def post(moto: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Post]:
    for variable, value in moto.items():
        monkeypatch.setenv(variable, value)
    clock, rng = SystemClock(), random.Random(1)
    prefix = f"inbox-test-{next(_numbers)}-"
    async with (
        await open_clients() as clients,
        await open_local(tmp_path, clock=clock, visibility=60.0) as stores,
    ):
        await ensure_queue(clients.sqs, prefix + INBOX, 60.0)
        await clients.s3.create_bucket(Bucket=BUCKET)
        acceptor = Acceptor(
            blobs=stores.blobs,
            units=stores.queue(UNITS),
            state=stores.state,
            clock=clock,
            settings=SETTINGS,
            rng=rng,
        )
        events = EventWriter(
            blobs=stores.blobs, announcements=stores.queue(EVENTS), clock=clock, settings=SETTINGS, rng=rng
        )
        yield Post(clients, prefix, stores, acceptor, events)


async def test_accepts_for_the_senders_tenant(post: Post) -> None:
    """An entry becomes a transmission of the tenant whose producer sent it, and is gone from the queue."""
    await post.hand_over(entry())
    await post.work()
    (transmission,) = await post.accepted()
    assert (transmission.tenant, transmission.method, transmission.subject) == (7, "sqs", "Hi")
    assert await post.dead() == [] and await post.told() == []


async def test_a_tenant_in_the_body_changes_nothing(post: Post) -> None:
    """What an entry says of tenants inside its transmission is not asked for: SQS says who sent it."""
    claims = {"tenant": 8, "subaccount_id": 8, "metadata": {"tenant": 8}}
    await post.hand_over(entry(transmission=request(**claims)))
    await post.work()
    assert [transmission.tenant for transmission in await post.accepted()] == [7]


async def test_a_senders_domain_is_of_its_own_tenant(post: Post) -> None:
    """A producer of another tenant may not send from this one's domain."""
    await post.hand_over(entry())
    await post.work(post.consumer(KnownProducer(SENDER, 8)))
    assert (await post.refused_once(entry()))["code"] == "7001"
    assert [event.subaccount_id for event in await post.told()] == [8]


async def test_accepted_once_though_handed_over_twice(post: Post) -> None:
    """A producer's retry, and what SQS delivers again, are one transmission."""
    await post.hand_over(entry("a1"), entry("a1"), entry("b2"))
    await post.work()
    await post.hand_over(entry("a1"))
    await post.work()
    assert len({transmission.id for transmission in await post.accepted()}) == 2
    assert await post.dead() == []


async def test_the_same_id_with_another_body(post: Post) -> None:
    """It is a dead letter, and what came first stays accepted."""
    await post.hand_over(entry())
    await post.work()
    other = entry(transmission=request(content={"subject": "Other"}))
    await post.hand_over(other)
    await post.work()
    assert [transmission.subject for transmission in await post.accepted()] == ["Hi"]
    ((dead, said),) = await post.dead()
    assert dead == other and (said["reason"], said["code"]) == ("id_conflict", "1602")


async def test_an_unknown_sender(post: Post) -> None:
    """Nobody's entry is a dead letter, and the primary account is told."""
    await post.hand_over(entry())
    await post.work(post.consumer(KnownProducer("AIDASOMEBODYELSE", 7)))
    assert (await post.refused_once(entry()))["reason"] == "unknown_sender"
    assert [event.subaccount_id for event in await post.told()] == [0]


@pytest.mark.parametrize(
    ("body", "reason", "code"),
    [
        ("{", "invalid_entry", ""),
        (entry(tenant=8), "invalid_entry", ""),
        (entry(version=2), "invalid_entry", ""),
        (entry(transmission={}), "invalid_transmission", "1400"),
        (entry(transmission=[1]), "invalid_transmission", "1300"),
        (entry(transmission=request(recipients=[{"address": "bob"}])), "invalid_transmission", "5002"),
        (entry(transmission=request(content={"from": "ann@unknown.example"})), "invalid_transmission", "7001"),
        (entry(transmission=request(content={"text": "{{"})), "invalid_transmission", "3000"),
        (entry(transmission=request(content={"template_id": "t"})), "invalid_transmission", "1300"),
        (referring("out/none.json"), "unreadable_object", ""),
        (referring("out/none.json", bucket="foreign"), "foreign_object", ""),
        (referring("secret/1.json"), "foreign_object", ""),
    ],
)
async def test_refused_entries(post: Post, body: str, reason: str, code: str) -> None:
    """A dead letter holds the entry as it was and the reason, with the code that HTTP would answer; an event tells."""
    await post.hand_over(body)
    await post.work()
    said = await post.refused_once(body)
    assert (said["reason"], said.get("code", "")) == (reason, code)


async def test_the_reason_may_quote_anything(post: Post) -> None:
    """Control characters and long texts of strangers do not stop their dead letter."""
    body = entry(transmission=request(recipients=[{"address": "\x00\x1bä\n" + "x" * 2000}]))
    await post.hand_over(body)
    await post.work()
    ((dead, said),) = await post.dead()
    assert dead == body and len(said["description"]) <= 1000 and said["description"].isprintable()


async def test_the_largest_entry(post: Post) -> None:
    """What SQS takes is accepted up to the entries' limit, and is past it a dead letter of that size."""
    empty = len(entry(transmission={"x": ""}))
    largest = entry("fits", transmission={"x": "x" * (MAX_HANDOVER - empty - 2)})
    over = entry("over", transmission={"x": "x" * (1024 * 1024 - empty - 2)})
    assert len(largest) == MAX_HANDOVER and len(over) == 1024 * 1024
    await post.hand_over(largest, over)
    await post.work()
    dead = {body[:30]: (len(body), said["reason"]) for body, said in [*await post.dead(), *await post.dead()]}
    assert sorted(dead.values()) == [(MAX_HANDOVER, "invalid_entry"), (MAX_HANDOVER, "invalid_transmission")]


async def test_some_recipients_are_refused(post: Post) -> None:
    """The others are sent to, and an event tells of each of those, once however often the entry comes."""
    body = entry(transmission=request(recipients=[{"address": "bob"}, {"address": "bob@example.org"}]))
    await post.hand_over(body, body)
    await post.work()
    (name,) = {transmission.id for transmission in await post.accepted()}
    (event,) = await post.told()
    assert (event.type, event.transmission_id, event.subaccount_id) == ("generation_rejection", name, 7)
    assert event.raw_reason == "554 5.7.1 1300 invalid data format/type: invalid recipient address.email: bob"
    assert await post.dead() == []


async def test_a_transmission_in_s3(post: Post) -> None:
    """It is read before acceptance: what the producer does to its object later changes nothing."""
    await post.clients.s3.put_object(Bucket=BUCKET, Key="out/1.json", Body=json.dumps(request()).encode())
    await post.hand_over(referring("out/1.json"))
    await post.work()
    await post.clients.s3.delete_object(Bucket=BUCKET, Key="out/1.json")
    (transmission,) = await post.accepted()
    content = transmission.content
    assert b"Hello " in await post.stores.blobs.get(content.key, content.offset, content.length)


async def test_inline_and_in_s3_are_the_same_entry(post: Post) -> None:
    """The id and the transmission decide, not the way: a retry by the other way sends nothing twice."""
    body = json.dumps(request())
    await post.clients.s3.put_object(Bucket=BUCKET, Key="out/2.json", Body=body.encode())
    await post.hand_over(entry(), referring("out/2.json"))
    await post.work()
    assert len({transmission.id for transmission in await post.accepted()}) == 1
    assert await post.dead() == []


async def test_a_version_of_an_object(post: Post) -> None:
    """An entry may name the version that it means."""
    versioning = {"Status": "Enabled"}
    await post.clients.s3.create_bucket(Bucket="acme-versions")
    await post.clients.s3.put_bucket_versioning(Bucket="acme-versions", VersioningConfiguration=versioning)
    place = {"Bucket": "acme-versions", "Key": "out/1.json"}
    first = await post.clients.s3.put_object(**place, Body=json.dumps(request()).encode())
    await post.clients.s3.put_object(**place, Body=b"{}")
    await post.hand_over(referring("out/1.json", bucket="acme-versions", version_id=first["VersionId"]))
    await post.work(post.consumer(KnownProducer(SENDER, 7, "acme-versions/out/")))
    assert len(await post.accepted()) == 1


async def test_an_object_over_the_limit(post: Post) -> None:
    """It is refused by its length, unread."""
    await post.clients.s3.put_object(Bucket=BUCKET, Key="out/big.json", Body=b" " * (SETTINGS.max_message_size + 1))
    await post.hand_over(referring("out/big.json"))
    await post.work()
    assert (await post.refused_once(referring("out/big.json")))["reason"] == "too_large"


@pytest.mark.parametrize("trouble", [Unavailable("no answer"), StoreFull("no room")])
async def test_storage_trouble(post: Post, monkeypatch: pytest.MonkeyPatch, trouble: Exception) -> None:
    """The entry comes back until it is accepted; it is no dead letter, and no event tells of it."""
    monkeypatch.setattr(inbox_module, "BRAKE", 0.0)
    monkeypatch.setattr(inbox_module, "COMES_BACK", 1.0)
    put, stored = post.stores.blobs.put_if_absent, asyncio.Event()

    async def succeed(key: str, data: bytes) -> bool:
        created = await put(key, data)
        stored.set()
        return created

    async def fail_once(key: str, data: bytes) -> bool:
        monkeypatch.setattr(post.stores.blobs, "put_if_absent", succeed)
        raise trouble

    monkeypatch.setattr(post.stores.blobs, "put_if_absent", fail_once)
    await post.hand_over(entry())
    async with running(post.consumer()), asyncio.timeout(20):
        await stored.wait()
    await post.work()
    assert len(await post.accepted()) == 1
    assert await post.dead() == [] and await post.told() == []


async def test_an_error_of_ours(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw is no fault of the entry: it comes back."""

    def fail(sender_id: str, known: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(inbox_module, "BRAKE", 0.0)
    monkeypatch.setattr(inbox_module, "producer_of", fail)
    assert await post.consumer().take(Arrival("m1", SENDER, 1_800_000_000.0, 1, entry())) == comes_back(1)
    assert await post.dead() == []


async def test_a_dead_letter_that_cannot_be_written(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry stays, and the event of its next try is the same one."""
    monkeypatch.setattr(inbox_module, "BRAKE", 0.0)
    consumer = post.consumer()
    arrival = Arrival("m1", SENDER, 1_800_000_000.0, 2, "{")
    url = await post.url(DEAD)
    await post.clients.sqs.delete_queue(QueueUrl=url)
    assert await consumer.take(arrival) == comes_back(2)
    await post.clients.sqs.create_queue(QueueName=post.prefix + DEAD)
    assert await consumer.take(arrival) is None
    assert len(await post.told()) == 1 and len(await post.dead()) == 1


def test_when_it_comes_back() -> None:
    """Later each time, up to what a queue can delay: days of an outage do not use up what a queue lets an entry try."""
    assert [comes_back(receives) for receives in (1, 2, 3, 6, 7, 1000)] == [30.0, 60.0, 120.0, 900.0, 900.0, 900.0]
