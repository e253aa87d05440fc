from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import boto3
import pytest

from postfleet.backends.aws_clients import open_clients
from postfleet.handover import Content, Handover, Recipient, Transmission
from postfleet.producer import AsyncProducer, NotHandedOver, Producer, Target

PREFIX = "producer-test/out/"
_numbers = itertools.count(1)
Entry = Handover[Transmission]
Send = Callable[[Target, Sequence[Entry]], None]


def entry(name: str, size: int = 10) -> Entry:
    """`size` bytes of text."""
    content = Content(from_="ann@example.com", subject="Hi", text="x" * size)
    return Handover(id=name, transmission=Transmission(content=content, recipients=(Recipient("bob@example.org"),)))


@pytest.fixture(autouse=True)
def environment(moto: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in moto.items():
        monkeypatch.setenv(variable, value)


@pytest.fixture
def sqs() -> Iterator[Any]:
    client = boto3.client("sqs")
    yield client
    client.close()


@pytest.fixture
def s3() -> Iterator[Any]:
    client = boto3.client("s3")
    client.create_bucket(Bucket="producer-test")
    yield client
    client.close()


@pytest.fixture
def url(sqs: Any) -> str:
    return str(sqs.create_queue(QueueName=f"producer-test-{next(_numbers)}")["QueueUrl"])


@pytest.fixture(params=["boto3", "aiobotocore"])
def send(request: pytest.FixtureRequest, sqs: Any, s3: Any) -> Send:
    """Hands over by the one or the other."""

    def sync(target: Target, entries: Sequence[Entry]) -> None:
        Producer(target, sqs=sqs, s3=s3).send(entries)

    async def on_loop(target: Target, entries: Sequence[Entry]) -> None:
        async with await open_clients() as clients:
            await AsyncProducer(target, sqs=clients.sqs, s3=clients.s3).send(entries)

    return sync if request.param == "boto3" else lambda target, entries: asyncio.run(on_loop(target, entries))


def taken(sqs: Any, url: str) -> dict[str, Any]:
    """What is in the queue, by id."""
    found: dict[str, Any] = {}
    while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
        bodies = [json.loads(message["Body"]) for message in messages]
        found |= {body["id"]: body for body in bodies}
    return found


def test_hands_over_in_batches(send: Send, sqs: Any, url: str) -> None:
    """More entries than fit a batch, by number and by bytes, are all in the queue."""
    entries = [entry(f"e{number}", size) for number, size in enumerate([10] * 11 + [190_000] * 7)]
    send(Target(url), entries)
    assert set(taken(sqs, url)) == {each.id for each in entries}


def test_large_entries_go_by_s3(send: Send, sqs: Any, s3: Any, url: str) -> None:
    """What is over 200 KiB is put under the producer's prefix, and the entry refers to it."""
    large = entry("large", 300_000)
    send(Target(url, PREFIX), [entry("small"), large])
    bodies = taken(sqs, url)
    place = bodies["large"]["transmission_in"]
    stored = s3.get_object(Bucket=place["bucket"], Key=place["key"])["Body"].read()
    assert json.loads(stored)["content"]["text"] == "x" * 300_000
    assert place["key"] == f"out/{hashlib.sha256(stored).hexdigest()}.json"
    assert "transmission" not in bodies["large"] and "transmission" in bodies["small"]


def test_without_a_prefix_large_entries_stay_inline(send: Send, sqs: Any, url: str) -> None:
    """Up to what an entry may hold; a larger one is named, and the others are in the queue."""
    with pytest.raises(NotHandedOver) as raised:
        send(Target(url), [entry("inline", 900_000), entry("huge", 1_100_000), entry("small")])
    assert set(raised.value.failed) == {"huge"} and "prefix" in raised.value.failed["huge"]
    assert set(taken(sqs, url)) == {"inline", "small"}


def test_no_such_queue(send: Send, url: str) -> None:
    """When the queue does not take a batch at all, that batch and all after it are named."""
    with pytest.raises(NotHandedOver, match="and 20 more") as raised:
        send(Target(url + "-gone"), [entry(f"e{number}") for number in range(23)])
    assert len(raised.value.failed) == 23
    assert raised.value.failed["e22"].startswith("not tried: ")


class PickySqs:
    """Takes a batch in parts, as SQS may."""

    def __init__(self, *refusals: dict[int, bool]) -> None:
        self.batches: list[list[str]] = []
        self._refusals = list(refusals)

    def send_message_batch(self, QueueUrl: str, Entries: list[dict[str, str]]) -> dict[str, Any]:  # noqa: N803
        self.batches.append([json.loads(each["MessageBody"])["id"] for each in Entries])
        refusal = self._refusals.pop(0) if self._refusals else {}
        return {
            "Failed": [
                {"Id": str(number), "Code": "No", "Message": "not now", "SenderFault": fault}
                for number, fault in refusal.items()
            ]
        }


@pytest.fixture
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postfleet.producer.PAUSES", (0.0, 0.0))


@pytest.mark.usefixtures("_no_pauses")
def test_what_sqs_put_off_is_sent_again() -> None:
    """Only those entries, and then all is well."""
    sqs = PickySqs({0: False, 2: False}, {1: False})
    Producer(Target("url"), sqs=sqs).send([entry(name) for name in "abc"])
    assert sqs.batches == [["a", "b", "c"], ["a", "c"], ["c"]]


@pytest.mark.usefixtures("_no_pauses")
def test_what_stays_refused_is_named() -> None:
    """An entry that SQS blames on us is not sent again; one that it puts off too often is named too."""
    sqs = PickySqs({0: True, 1: False}, {0: False}, {0: False})
    with pytest.raises(NotHandedOver) as raised:
        Producer(Target("url"), sqs=sqs).send([entry(name) for name in "abc"])
    assert sqs.batches == [["a", "b", "c"], ["b"], ["b"]]
    assert raised.value.failed == {"a": "No: not now", "b": "No: not now"}
