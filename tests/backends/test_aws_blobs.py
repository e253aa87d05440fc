from __future__ import annotations

import asyncio

import pytest
from support.aws_places import PLACES
from support.fault_proxy import FaultProxy, Request, reply, s3_error

from postfleet.backends.aws_blobs import AwsBlobStore
from postfleet.backends.aws_clients import AwsClients
from postfleet.ports import NotFound, Unavailable


@pytest.fixture
async def blobs(aws_clients: AwsClients) -> AwsBlobStore:
    return AwsBlobStore(aws_clients.s3, PLACES.bucket)


def puts(request: Request) -> bool:
    return request.method == "PUT"


def gets(request: Request) -> bool:
    return request.method == "GET"


def deletions(request: Request) -> bool:
    return request.method == "POST" and "delete" in request.path


async def test_a_put_whose_reply_was_lost_created_the_blob(blobs: AwsBlobStore, proxy: FaultProxy, unique: str) -> None:
    """The SDK's repetition is refused for the blob of this very call: still, this call created it."""
    proxy.lose_reply(puts)
    assert await blobs.put_if_absent(unique, b"mine")
    assert proxy.count(puts) == 2


async def test_another_calls_equal_bytes_are_not_mine(blobs: AwsBlobStore, unique: str) -> None:
    """Who created a blob is told by the call, not by its contents."""
    assert await blobs.put_if_absent(unique, b"same")
    assert not await blobs.put_if_absent(unique, b"same")


async def test_a_lost_reply_does_not_win_a_lost_race(blobs: AwsBlobStore, proxy: FaultProxy, unique: str) -> None:
    """A refusal whose reply was lost stays a refusal."""
    await blobs.put(unique, b"theirs")
    proxy.lose_reply(puts)
    assert not await blobs.put_if_absent(unique, b"mine")
    assert await blobs.get(unique) == b"theirs"


async def test_a_conflict_of_writers_is_asked_again(blobs: AwsBlobStore, proxy: FaultProxy, unique: str) -> None:
    """409 says that another write is under way, not how it ends."""
    proxy.answer(puts, s3_error(409, "ConditionalRequestConflict"))
    assert await blobs.put_if_absent(unique, b"mine")
    assert await blobs.get(unique) == b"mine"


async def test_a_blob_that_went_meanwhile_is_put_again(blobs: AwsBlobStore, proxy: FaultProxy, unique: str) -> None:
    """Refused for a blob that is gone when it is looked at: absent, so this call creates it."""
    proxy.answer(puts, s3_error(412, "PreconditionFailed"))
    assert await blobs.put_if_absent(unique, b"mine")


async def test_one_of_twenty_racers_with_lost_replies_wins(blobs: AwsBlobStore, proxy: FaultProxy, unique: str) -> None:
    """However many of them hear nothing the first time."""
    for _ in range(5):
        proxy.lose_reply(puts)
    won = await asyncio.gather(*(blobs.put_if_absent(unique, b"%d" % n) for n in range(20)))
    assert won.count(True) == 1
    assert await blobs.get(unique) == b"%d" % won.index(True)


async def test_puts_carry_a_checksum(blobs: AwsBlobStore, proxy: FaultProxy, unique: str) -> None:
    """CRC-32 of the body, in base64, for S3 to check: here that of `123456789`."""
    await blobs.put(unique, b"123456789")
    await blobs.put_if_absent(unique + "/2", b"123456789")
    assert [seen.header("x-amz-checksum-crc32") for seen in proxy.seen] == ["y/Q5Jg==", "y/Q5Jg=="]


async def test_range_reads_at_a_time_are_one_request(blobs: AwsBlobStore, proxy: FaultProxy, unique: str) -> None:
    """Fifty contents of one pack cost one GET."""
    pack = bytes(range(250)) * 400
    await blobs.put(unique, pack)
    parts = await asyncio.gather(*(blobs.get(unique, n * 2000, 500) for n in range(50)))
    assert parts == [pack[n * 2000 : n * 2000 + 500] for n in range(50)]
    assert [seen.header("Range") for seen in proxy.seen if gets(seen)] == ["bytes=0-98499"]


async def test_a_range_of_nothing_still_needs_the_blob(blobs: AwsBlobStore, unique: str) -> None:
    """No bytes of a blob that is there; NotFound for one that is not."""
    with pytest.raises(NotFound):
        await blobs.get(unique, 0, 0)
    await blobs.put(unique, b"123")
    assert await blobs.get(unique, 1, 0) == b""


async def test_a_range_behind_the_end_is_empty(blobs: AwsBlobStore, unique: str) -> None:
    """As in a file; of an empty blob too."""
    await blobs.put(unique, b"")
    assert await blobs.get(unique, 0, 10) == b""
    await blobs.put(unique, b"123")
    assert await blobs.get(unique, 3, 10) == b""


async def test_a_list_longer_than_a_page_is_complete(blobs: AwsBlobStore, proxy: FaultProxy, unique: str) -> None:
    """S3 lists at most a thousand keys, and may list fewer, before it says that there are more."""
    keys = [f"{unique}/{n}" for n in range(4)]
    await asyncio.gather(*(blobs.put(key, b"") for key in keys))
    page = f"<Contents><Key>{keys[0]}</Key></Contents><Contents><Key>{keys[1]}</Key></Contents>"
    body = f"<ListBucketResult><IsTruncated>true</IsTruncated>{page}</ListBucketResult>".encode()
    proxy.answer(gets, lambda request: reply(200, body, "application/xml"))
    assert await blobs.list(f"{unique}/") == keys


async def test_many_deletes_are_few_requests(blobs: AwsBlobStore, proxy: FaultProxy, unique: str) -> None:
    """A thousand keys a request."""
    await blobs.put(f"{unique}/1", b"")
    await blobs.delete([f"{unique}/{n}" for n in range(1001)])
    assert await blobs.list(f"{unique}/") == []
    assert proxy.count(deletions) == 2


async def test_keys_that_were_not_deleted_are_asked_again(blobs: AwsBlobStore, proxy: FaultProxy, unique: str) -> None:
    """One request may fail for some of its keys only."""
    await asyncio.gather(*(blobs.put(f"{unique}/{n}", b"") for n in range(2)))
    failure = f"<Error><Key>{unique}/1</Key><Code>InternalError</Code><Message>again</Message></Error>"
    body = f"<DeleteResult>{failure}</DeleteResult>".encode()
    proxy.answer(deletions, lambda request: reply(200, body, "application/xml"))
    await blobs.delete([f"{unique}/0", f"{unique}/1"])
    assert await blobs.list(f"{unique}/") == [f"{unique}/0"]


async def test_a_bucket_that_slows_down_is_unavailable(blobs: AwsBlobStore, proxy: FaultProxy, unique: str) -> None:
    """After the SDK's own repetitions it is for the caller to repeat."""
    for _ in range(3):
        proxy.answer(puts, s3_error(503, "SlowDown"))
    with pytest.raises(Unavailable, match="SlowDown"):
        await blobs.put(unique, b"")
    await blobs.put(unique, b"")


async def test_a_whole_blob_is_checked_as_it_is_read(blobs: AwsBlobStore, proxy: FaultProxy, unique: str) -> None:
    """Bytes that do not fit the checksum are not handed out."""
    head = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\nx-amz-checksum-crc32: y/Q5Jg==\r\n\r\n"
    for _ in range(3):
        proxy.answer(gets, lambda request: head.encode() + b"1234")
    with pytest.raises(Unavailable):
        await blobs.get(unique)
