from __future__ import annotations

import random

import pytest

from bench import aws_calls, prices
from bench.aws_calls import ITEM_OVERHEAD, AwsCall
from postfleet.ports import MAX_ENTRY, Outgoing, Received, Row

KB = 1024


def noise(size: int) -> bytes:
    """What does not get smaller when it is stored."""
    return random.Random(size).randbytes(size)


def row(size: int) -> Row:
    return Row("p", "s", 1, noise(size - ITEM_OVERHEAD - 2))


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        ([], []),
        ([100], [1]),
        ([100] * 10, [10]),
        ([100] * 21, [10, 10, 1]),
        ([MAX_ENTRY // 2] * 3, [2, 1]),
        ([MAX_ENTRY, 1], [1, 1]),
    ],
)
def test_entries_go_out_ten_and_a_megabyte_at_a_time(sizes: list[int], batches: list[int]) -> None:
    """As few requests as SQS takes."""
    entries = [Outgoing(b"x" * size) for size in sizes]
    assert [len(batch) for batch in aws_calls.send_batches(entries)] == batches


@pytest.mark.parametrize(
    ("sizes", "group", "price", "units"),
    [
        ([1], "", prices.SQS, 1),
        ([1], "7", prices.SQS_FAIR, 1),
        ([64 * KB], "7", prices.SQS_FAIR, 1),
        ([64 * KB, 1], "7", prices.SQS_FAIR, 2),
        ([20 * KB] * 10, "7", prices.SQS_FAIR, 4),
    ],
)
def test_a_send_counts_each_64_kb_begun(sizes: list[int], group: str, price: str, units: int) -> None:
    """Of the whole request, at a higher price with a message group."""
    batch = [Outgoing(b"x" * size, group) for size in sizes]
    assert aws_calls.send(batch) == AwsCall("sqs", "SendMessageBatch", price, units)


@pytest.mark.parametrize(("sizes", "units"), [([], 1), ([1, 1], 1), ([60 * KB, 60 * KB], 2)])
def test_a_receive_counts_what_it_brings(sizes: list[int], units: int) -> None:
    """Also when it brings nothing."""
    entries = [Received(b"x" * size, "h", 1) for size in sizes]
    assert aws_calls.receive(entries) == AwsCall("sqs", "ReceiveMessage", prices.SQS, units)


@pytest.mark.parametrize(("handles", "calls"), [(0, 0), (1, 1), (10, 1), (11, 2)])
def test_handles_go_ten_at_a_time(handles: int, calls: int) -> None:
    """Acks and changes of visibility."""
    assert len(aws_calls.on_handles("DeleteMessageBatch", ["h"] * handles)) == calls


@pytest.mark.parametrize(
    ("call", "price", "units"),
    [
        (aws_calls.put_object(), prices.S3_WRITE, 1),
        (aws_calls.get_object(), prices.S3_READ, 1),
        (aws_calls.put_item(1), prices.DYNAMODB_WRITE, 1),
        (aws_calls.put_item(KB), prices.DYNAMODB_WRITE, 1),
        (aws_calls.put_item(KB + 1), prices.DYNAMODB_WRITE, 2),
        (aws_calls.put_item(10, 3 * KB), prices.DYNAMODB_WRITE, 3),
        (aws_calls.delete_item(0), prices.DYNAMODB_WRITE, 1),
        (aws_calls.delete_item(2 * KB), prices.DYNAMODB_WRITE, 2),
        (aws_calls.update_item(), prices.DYNAMODB_WRITE, 1),
        (aws_calls.get_item(0), prices.DYNAMODB_READ, 1),
        (aws_calls.get_item(4 * KB + 1), prices.DYNAMODB_READ, 2),
        (aws_calls.query([]), prices.DYNAMODB_READ, 1),
        (aws_calls.query([row(3 * KB)] * 3), prices.DYNAMODB_READ, 3),
    ],
)
def test_what_a_request_counts(call: AwsCall, price: str, units: float) -> None:
    """Rows by the KB written and by 4 KB read, objects by the request."""
    assert (call.price, call.units) == (price, units)


@pytest.mark.parametrize(("found", "calls"), [(0, 1), (1000, 1), (1001, 2)])
def test_a_listing_has_pages(found: int, calls: int) -> None:
    """An empty one too."""
    assert len(aws_calls.list_objects(found)) == calls


def test_each_row_of_a_batch_counts_by_itself() -> None:
    """An absent one as the smallest."""
    (call,) = aws_calls.batch_get([row(5 * KB), row(1 * KB)], asked=3)
    assert call.units == 4


def test_what_shrinks_is_counted_as_it_is_stored() -> None:
    """Large bodies are compressed."""
    assert aws_calls.item_size("p", "s", b"x" * 100 * KB) < KB
    assert aws_calls.item_size("p", "s", noise(KB)) == KB + 2 + ITEM_OVERHEAD


def test_dollars_follow_the_price_list() -> None:
    """A million S3 PUTs are five dollars, deletions free."""
    assert 1e6 * aws_calls.put_object().dollars == pytest.approx(5.0)
    assert sum(call.dollars for call in aws_calls.delete_objects(["a"])) == 0
