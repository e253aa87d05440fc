from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable

import pytest
from support.aws_places import PLACES
from support.fault_proxy import FaultProxy, Request, json_error, reply

from postfleet.backends.aws_clients import AwsClients
from postfleet.backends.aws_state import AwsStateTable, stored
from postfleet.ports import Row, TooLarge, Unavailable, Written

SDK_ATTEMPTS = 3


@pytest.fixture
async def state(aws_clients: AwsClients) -> AwsStateTable:
    return AwsStateTable(aws_clients.dynamodb, PLACES.table)


def calls(operation: str) -> Callable[[Request], bool]:
    return lambda request: request.operation == operation


async def test_a_first_write_whose_reply_was_lost_is_ok(state: AwsStateTable, proxy: FaultProxy, unique: str) -> None:
    """The row of this very call stands in the way of its repetition: it was written."""
    proxy.lose_reply(calls("PutItem"))
    assert await state.put_if_absent(unique, "a", b"mine") == Written(True, Row(unique, "a", 1, b"mine"))
    assert proxy.count(calls("PutItem")) == 2


async def test_a_replacement_whose_reply_was_lost_is_ok(state: AwsStateTable, proxy: FaultProxy, unique: str) -> None:
    """The version has moved on, by this call."""
    row = await written(state, unique, b"old")
    proxy.lose_reply(calls("PutItem"))
    assert await state.put_if(row, b"new") == Written(True, Row(unique, "a", 2, b"new"))


async def test_an_equal_body_of_another_writer_is_a_conflict(state: AwsStateTable, unique: str) -> None:
    """Bytes and version do not tell whose write it was."""
    row = await written(state, unique, b"old")
    first = await state.put_if(row, b"same")
    assert first.ok
    assert await state.put_if(row, b"same") == Written(False, first.row)


async def test_a_lost_reply_does_not_win_a_lost_race(state: AwsStateTable, proxy: FaultProxy, unique: str) -> None:
    """A conflict whose reply was lost stays a conflict."""
    theirs = await written(state, unique, b"theirs")
    proxy.lose_reply(calls("PutItem"))
    assert await state.put_if_absent(unique, "a", b"mine") == Written(False, theirs)


async def test_a_large_body_is_stored_compressed(state: AwsStateTable, proxy: FaultProxy, unique: str) -> None:
    """Each KB begun of a write costs; what is read is what was written."""
    body = b'["delivered","250 2.0.0 taken"],' * 1000
    row = await written(state, unique, body)
    assert await state.get(unique, "a") == row == Row(unique, "a", 1, body)
    assert len(stored(body)[1]) < len(body) / 50


def test_a_body_that_does_not_shrink_is_stored_as_it_is() -> None:
    """As is one that fits the least that is billed."""
    noise = random.Random(1).randbytes(2000)
    assert stored(noise) == ("b", noise)
    assert stored(b"a" * 1023) == ("b", b"a" * 1023)


async def test_a_deletion_whose_reply_was_lost_is_true(state: AwsStateTable, proxy: FaultProxy, unique: str) -> None:
    """The row is gone."""
    row = await written(state, unique, b"")
    proxy.lose_reply(calls("DeleteItem"))
    assert await state.delete_if(row)


async def test_an_add_whose_reply_was_lost_counts_once(state: AwsStateTable, proxy: FaultProxy, unique: str) -> None:
    """Also when it filled the counter, so that its repetition finds no room."""
    for expected in (6, 4):
        proxy.lose_reply(calls("UpdateItem"))
        assert await state.add(unique, "n", 6, 10) == expected
    assert await state.add(unique, "n", 6, 20) == 6
    assert await state.add(unique, "n", 6, 20) == 4


async def test_adds_with_lost_replies_keep_to_the_ceiling(state: AwsStateTable, proxy: FaultProxy, unique: str) -> None:
    """What others add between an add and its repetition may hide it: then too much is counted, never given out."""
    for _ in range(4):
        proxy.lose_reply(calls("UpdateItem"))
    added = await asyncio.gather(*(state.add(unique, "n", 3, 25) for _ in range(12)))
    assert sum(added) <= 25
    assert await state.add(unique, "n", 1, 25) == 0


async def test_an_engine_that_does_not_show_the_conflict_is_asked(
    state: AwsStateTable, proxy: FaultProxy, unique: str
) -> None:
    """A refusal without the row costs a consistent read."""
    row = await written(state, unique, b"theirs")
    proxy.answer(calls("PutItem"), json_error(400, "ConditionalCheckFailedException"))
    assert await state.put_if_absent(unique, "a", b"mine") == Written(False, row)
    (read,) = (seen.json for seen in proxy.seen if seen.operation == "GetItem")
    assert read["ConsistentRead"] is True


async def test_keys_that_were_left_out_are_asked_again(state: AwsStateTable, proxy: FaultProxy, unique: str) -> None:
    """A batch that DynamoDB answers in part is completed."""
    rows = [await written(state, unique, b"", f"{n}") for n in range(3)]

    def nothing(request: Request) -> bytes:
        return reply(200, json.dumps({"Responses": {}, "UnprocessedKeys": request.json["RequestItems"]}).encode())

    for _ in range(2):
        proxy.answer(calls("BatchGetItem"), nothing)
    found = await state.get_many([(unique, row.sort) for row in rows])
    assert found == {(unique, row.sort): row for row in rows}


async def test_a_key_asked_for_twice_is_read_once(state: AwsStateTable, unique: str) -> None:
    """DynamoDB refuses a batch that names a key twice."""
    row = await written(state, unique, b"")
    assert await state.get_many([(unique, "a"), (unique, "a"), (unique, "b")]) == {(unique, "a"): row}


async def test_a_query_goes_on_where_a_page_ends(state: AwsStateTable, proxy: FaultProxy, unique: str) -> None:
    """DynamoDB ends a page after a megabyte, whatever the limit."""
    rows = [await written(state, unique, b"", sort) for sort in ("a", "b", "c")]

    def first_page(request: Request) -> bytes:
        key = {"p": {"S": unique}, "s": {"S": "=a"}}
        item = {**key, "v": {"N": "1"}, "b": {"B": ""}, "n": {"B": "AAAA"}}
        return reply(200, json.dumps({"Items": [item], "LastEvaluatedKey": key}).encode())

    proxy.answer(calls("Query"), first_page)
    assert await state.query(unique, limit=3) == rows
    assert [seen.json["Limit"] for seen in proxy.seen if seen.operation == "Query"] == [3, 2]


async def test_a_query_that_cannot_find_anything_is_not_sent(
    state: AwsStateTable, proxy: FaultProxy, unique: str
) -> None:
    """DynamoDB refuses bounds that are the wrong way round."""
    assert await state.query(unique, start="b", end="a") == []
    assert await state.query(unique, prefix="a", end="a") == []
    assert proxy.seen == []


async def test_the_end_of_a_query_costs_no_row_of_its_limit(state: AwsStateTable, unique: str) -> None:
    """A row that lies just at the end is passed over, also where the query begins with it."""
    rows = [await written(state, unique, b"", sort) for sort in ("a", "b", "c")]
    assert await state.query(unique, end="c", descending=True, limit=2) == rows[1::-1]


async def test_a_throttled_write_is_repeated(state: AwsStateTable, proxy: FaultProxy, unique: str) -> None:
    """A partition that is too busy for a moment is not seen by the caller."""
    proxy.answer(calls("PutItem"), json_error(400, "ProvisionedThroughputExceededException"))
    assert (await state.put_if_absent(unique, "a", b"")).ok


async def test_a_table_that_stays_throttled_is_unavailable(
    state: AwsStateTable, proxy: FaultProxy, unique: str
) -> None:
    """After the SDK's own repetitions it is for the caller to repeat."""
    for _ in range(SDK_ATTEMPTS):
        proxy.answer(calls("GetItem"), json_error(400, "ThrottlingException"))
    with pytest.raises(Unavailable, match="Throttling"):
        await state.get(unique, "a")


async def test_expiries_are_whole_seconds(state: AwsStateTable, unique: str) -> None:
    """Rounded up; the row as written says what was kept."""
    result = await state.put_if_absent(unique, "a", b"", 1_900_000_000.25)
    assert result.row is not None and result.row.expires == 1_900_000_001.0
    assert await state.get(unique, "a") == result.row


async def test_keys_have_a_size_limit(state: AwsStateTable, unique: str) -> None:
    """The longest keys of the table are stored, longer ones are TooLarge."""
    await written(state, unique + "p" * (2048 - len(unique)), b"", "s" * 1023)
    with pytest.raises(TooLarge):
        await state.put_if_absent("p" * 2049, "s", b"")
    with pytest.raises(TooLarge):
        await state.put_if_absent(unique, "s" * 1024, b"")


async def written(state: AwsStateTable, partition: str, body: bytes, sort: str = "a") -> Row:
    result = await state.put_if_absent(partition, sort, body)
    assert result.ok and result.row is not None
    return result.row
