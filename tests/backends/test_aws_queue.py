from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.eventually import eventually
from support.fault_proxy import FaultProxy, Matches, Request, json_error, reply

from postfleet.backends.aws_clients import AwsClients
from postfleet.backends.aws_queue import AwsQueue, ensure_queue, packed
from postfleet.ports import Outgoing, Refused, Unavailable

KIB = 1024
CHUNK = 64 * KIB
VISIBILITY = 30.0
ATTEMPTS = 3
"""How often the SDK sends a request before it gives up."""
_numbers = itertools.count(1)


@pytest.fixture
async def queue(aws_clients: AwsClients) -> AsyncIterator[AwsQueue]:
    queue = AwsQueue(aws_clients, f"special-{next(_numbers)}", VISIBILITY)
    yield queue
    await queue.close()


def operation(name: str) -> Matches:
    return lambda request: request.operation == name


SEND, RECEIVE, ACK = operation("SendMessageBatch"), operation("ReceiveMessage"), operation("DeleteMessageBatch")


def batch_reply(request: Request, failing: Sequence[int], code: str, *, our_fault: bool) -> bytes:
    """What SQS answers when these entries of a batch failed and the others did not."""
    failed = [
        {"Id": entry["Id"], "Code": code, "SenderFault": our_fault, "Message": "by proxy"}
        for index, entry in enumerate(request.json["Entries"])
        if index in failing
    ]
    ids = {failure["Id"] for failure in failed}
    fields = {"MessageId": "m", "MD5OfMessageBody": "d"}
    successful = [{"Id": entry["Id"], **fields} for entry in request.json["Entries"] if entry["Id"] not in ids]
    return reply(200, json.dumps({"Successful": successful, "Failed": failed}).encode())


def bodies(request: Request) -> list[str]:
    return [entry["MessageBody"] for entry in request.json["Entries"]]


async def drain(queue: AwsQueue) -> list[bytes]:
    received: list[bytes] = []
    while entries := await queue.receive(100, 0):
        await queue.ack([entry.handle for entry in entries])
        received += [entry.body for entry in entries]
    return sorted(received)


# How entries are packed into requests.


@pytest.mark.parametrize(
    ("sizes", "requests"),
    [
        ([], []),
        ([1], [1]),
        ([6 * KIB] * 10, [10]),
        ([1] * 11, [10, 1]),
        ([1024 * KIB], [1]),
        ([1024 * KIB, 1], [1, 1]),
        ([512 * KIB, 512 * KIB], [2]),
        ([512 * KIB, 513 * KIB], [1, 1]),
        ([1, 700 * KIB, 1, 700 * KIB, 1], [4, 1]),
        ([300 * KIB, 700 * KIB, 300 * KIB, 700 * KIB], [2, 2]),
    ],
)
def test_entries_are_packed_by_count_and_bytes(sizes: list[int], requests: list[int]) -> None:
    """Ten entries and 1 MiB fit a request; what is left over fills those before it."""
    assert [len(batch) for batch in packed(sizes)] == requests


@given(st.lists(st.integers(1, 1024 * KIB) | st.integers(1, 20 * KIB), max_size=60))
def test_no_two_requests_fit_into_one(sizes: list[int]) -> None:
    """Every entry is in one request, no request is too large, and none could take another along."""
    batches = packed(sizes)
    loads = [(len(batch), sum(sizes[index] for index in batch)) for batch in batches]
    assert sorted(index for batch in batches for index in batch) == list(range(len(sizes)))
    assert all(count <= 10 and load <= 1024 * KIB for count, load in loads)
    pairs = itertools.combinations(loads, 2)
    assert all(one[0] + two[0] > 10 or one[1] + two[1] > 1024 * KIB for one, two in pairs)


@given(st.lists(st.integers(1, 60 * KIB), min_size=1, max_size=60))
def test_a_request_wastes_less_than_a_billed_chunk(sizes: list[int]) -> None:
    """Of small entries as few chunks are billed as there are bytes for, and at most one more a further request."""
    batches = packed(sizes)
    billed = sum(math.ceil(sum(sizes[index] for index in batch) / CHUNK) for batch in batches)
    assert len(batches) == math.ceil(len(sizes) / 10)
    assert billed <= math.ceil(sum(sizes) / CHUNK) + len(batches) - 1


# What is sent, and how often.


async def test_a_send_takes_one_request_for_ten(queue: AwsQueue, proxy: FaultProxy) -> None:
    """57 entries are 6 requests, and the queue is looked for once."""
    await queue.send([Outgoing(b"%d" % n) for n in range(57)])
    assert (proxy.count(SEND), proxy.count(operation("GetQueueUrl"))) == (6, 1)


async def test_a_delay_is_rounded_up(queue: AwsQueue, proxy: FaultProxy) -> None:
    """SQS counts in whole seconds, and an entry never comes early."""
    await queue.send([Outgoing(b"a", delay=1.2), Outgoing(b"b")])
    (request,) = filter(SEND, proxy.seen)
    assert [entry.get("DelaySeconds") for entry in request.json["Entries"]] == [2, None]


async def test_entries_put_off_are_sent_again_alone(queue: AwsQueue, proxy: FaultProxy) -> None:
    """Of a batch that failed in part for a fault of SQS only those entries are repeated."""
    proxy.answer(SEND, lambda request: batch_reply(request, [1, 3], "InternalError", our_fault=False))
    await queue.send([Outgoing(body) for body in (b"a", b"b", b"c", b"d")])
    first, second = (bodies(request) for request in proxy.seen if SEND(request))
    assert second == [first[1], first[3]]


async def test_throttled_entries_are_sent_again(queue: AwsQueue, proxy: FaultProxy) -> None:
    """Though SQS calls it the sender's fault."""
    proxy.answer(SEND, lambda request: batch_reply(request, [0], "RequestThrottled", our_fault=True))
    await queue.send([Outgoing(b"a")])
    assert await drain(queue) == [b"a"]


async def test_a_throttled_request_is_repeated(queue: AwsQueue, proxy: FaultProxy) -> None:
    """Nobody above needs to know of it."""
    proxy.answer(SEND, json_error(400, "RequestThrottled"))
    proxy.answer(SEND, json_error(503, "ServiceUnavailable"))
    await queue.send([Outgoing(b"a")])
    assert await drain(queue) == [b"a"]


async def test_a_send_whose_replies_are_lost_is_unknown(queue: AwsQueue, proxy: FaultProxy) -> None:
    """`Unavailable`, and it took effect."""
    for _ in range(ATTEMPTS):
        proxy.lose_reply(SEND)
    with pytest.raises(Unavailable, match="send_message_batch"):
        await queue.send([Outgoing(b"a")])
    assert set(await drain(queue)) == {b"a"}


async def test_refused_entries_are_refused(queue: AwsQueue, proxy: FaultProxy) -> None:
    """Where SQS takes none of a send, nothing is stored and the text has its reason."""
    proxy.answer(SEND, lambda request: batch_reply(request, [0, 1], "InvalidMessageContents", our_fault=True))
    with pytest.raises(Refused, match="2 of 2 entries refused: InvalidMessageContents"):
        await queue.send([Outgoing(b"a"), Outgoing(b"b")])


async def test_a_send_refused_in_part_is_unavailable(queue: AwsQueue, proxy: FaultProxy) -> None:
    """Something is stored, so that it is not `Refused`, be it in the same request or in another."""
    proxy.answer(SEND, lambda request: batch_reply(request, [0], "InvalidMessageContents", our_fault=True))
    with pytest.raises(Unavailable, match="1 of 2 entries refused"):
        await queue.send([Outgoing(b"a"), Outgoing(b"b")])
    proxy.answer(SEND, json_error(403, "AccessDenied"))
    with pytest.raises(Unavailable, match="done in part"):
        await queue.send([Outgoing(b"%d" % n) for n in range(11)])


async def test_who_may_not_send_is_told_what_to_allow(queue: AwsQueue, proxy: FaultProxy) -> None:
    """The text names the queue, the call, and what to do."""
    proxy.answer(SEND, json_error(403, "AccessDenied"))
    with pytest.raises(Refused, match=r"queue special-\d+: .* access denied: allow SendMessageBatch in the role"):
        await queue.send([Outgoing(b"a")])


async def test_an_ack_put_off_is_repeated(queue: AwsQueue, proxy: FaultProxy) -> None:
    """The entry does not come back for one failure of SQS."""
    await queue.send([Outgoing(b"a")])
    (entry,) = await queue.receive(1, 1)
    proxy.answer(ACK, lambda request: batch_reply(request, [0], "InternalError", our_fault=False))
    await queue.ack([entry.handle])
    assert proxy.count(ACK) == 2
    assert (await queue.stats()).in_flight == 0


# Receiving.


async def test_a_receive_takes_more_than_one_reply_holds(queue: AwsQueue, proxy: FaultProxy) -> None:
    """A full first reply has others asked for, together."""
    await queue.send([Outgoing(b"%d" % n) for n in range(30)])
    assert len(await queue.receive(25, 1)) == 25
    assert [request.json["MaxNumberOfMessages"] for request in filter(RECEIVE, proxy.seen)] == [10, 10, 5]


async def test_a_reply_that_is_not_full_is_enough(queue: AwsQueue, proxy: FaultProxy) -> None:
    """An almost empty queue is not asked again and again."""
    await queue.send([Outgoing(b"a")])
    assert len(await queue.receive(100, 1)) == 1
    assert proxy.count(RECEIVE) == 1


async def test_what_was_received_is_returned_though_more_fails(queue: AwsQueue, proxy: FaultProxy) -> None:
    """A failure of the further requests does not hide what the first brought."""
    await queue.send([Outgoing(b"%d" % n) for n in range(20)])
    proxy.answer(
        lambda request: RECEIVE(request) and request.json["WaitTimeSeconds"] == 0, json_error(403, "AccessDenied")
    )
    assert len(await queue.receive(20, 1)) == 10


async def test_a_long_wait_is_cut_in_pieces(queue: AwsQueue, proxy: FaultProxy) -> None:
    """SQS waits for 20 s at most; then it is asked again."""
    proxy.answer(RECEIVE, lambda request: reply(200, b"{}"))
    await queue.send([Outgoing(b"a")])
    assert len(await queue.receive(1, 3600)) == 1
    assert [request.json["WaitTimeSeconds"] for request in filter(RECEIVE, proxy.seen)] == [20, 20]


async def test_a_cancelled_receive_gives_back_what_it_took(queue: AwsQueue, proxy: FaultProxy) -> None:
    """An entry whose reply was on its way is not hidden for its whole visibility time."""
    await queue.send([Outgoing(b"a")])
    receiving = asyncio.create_task(queue.receive(1, 20))
    await eventually(lambda: proxy.count(RECEIVE))
    receiving.cancel()
    await asyncio.wait([receiving])
    await queue.close()
    assert [entry.receives for entry in await queue.receive(1, 1)] == [2]


async def test_closing_does_not_wait_for_a_cancelled_poll(queue: AwsQueue, proxy: FaultProxy) -> None:
    """A poll of an empty queue is left alone soon, not after its 20 s."""
    receiving = asyncio.create_task(queue.receive(1, 20))
    await eventually(lambda: proxy.count(RECEIVE))
    receiving.cancel()
    await asyncio.wait([receiving])
    async with asyncio.timeout(3):
        await queue.close()


# The queue itself.


async def attributes(clients: AwsClients, name: str) -> dict[str, Any]:
    url = (await clients.sqs.get_queue_url(QueueName=name))["QueueUrl"]
    reply = await clients.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
    found: dict[str, Any] = reply["Attributes"]
    return found


async def test_a_queue_is_made_with_its_dead_letter_queue(aws_clients: AwsClients) -> None:
    """14 days, encrypted, and a last net for what is received without end."""
    await ensure_queue(aws_clients.sqs, "made", 59.5)
    made, dead = await attributes(aws_clients, "made"), await attributes(aws_clients, "made-dead")
    redrive = json.loads(made["RedrivePolicy"])
    assert made["MessageRetentionPeriod"] == dead["MessageRetentionPeriod"] == "1209600"
    assert (made["VisibilityTimeout"], made["SqsManagedSseEnabled"]) == ("60", "true")
    assert (redrive["deadLetterTargetArn"], int(redrive["maxReceiveCount"])) == (dead["QueueArn"], 1000)


async def test_a_queue_that_is_there_stays_as_it_is(aws_clients: AwsClients) -> None:
    """What a template or an operator has set is not changed."""
    url = await ensure_queue(aws_clients.sqs, "kept", 30)
    assert await ensure_queue(aws_clients.sqs, "kept", 60) == url
    assert (await attributes(aws_clients, "kept"))["VisibilityTimeout"] == "30"


async def test_a_queue_that_was_deleted_is_made_again(queue: AwsQueue, aws_clients: AwsClients) -> None:
    """The call that finds it gone is `Unavailable`; the next one is served."""
    await queue.send([Outgoing(b"a")])
    await aws_clients.sqs.delete_queue(QueueUrl=await ensure_queue(aws_clients.sqs, queue.name, VISIBILITY))
    with pytest.raises(Unavailable, match="is gone, or too new"):
        await queue.send([Outgoing(b"b")])
    await queue.send([Outgoing(b"c")])
    assert await drain(queue) == [b"c"]
