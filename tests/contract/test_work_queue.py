from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from postfleet.ports import MAX_DELAY, MAX_ENTRY, Backends, Outgoing, Received, TooLarge, WorkQueue

LEASE_OVER = 1.3
"""Seconds: the fixture's visibility time, and a little."""


async def test_what_is_sent_is_received(queue: WorkQueue) -> None:
    """Body and group come back, received for the first time."""
    body = 'Grüße, 世界 \U0001f4ec\r\n\t"quoted" \\'.encode()
    await queue.send([Outgoing(body, group="tenant-7")])
    (entry,) = await queue.receive(10, 2)
    assert (entry.body, entry.group, entry.receives) == (body, "tenant-7", 1)


async def test_queues_are_apart(backends: Backends, unique: str) -> None:
    """An entry is received from the queue that it was sent to, however often the queue is asked for."""
    await backends.queue(f"{unique}-a").send([Outgoing(b"a")])
    assert await backends.queue(f"{unique}-b").receive(10, 0) == []
    assert len(await backends.queue(f"{unique}-a").receive(10, 2)) == 1


async def test_a_send_of_nothing_is_fine(queue: WorkQueue) -> None:
    """Empty batches change nothing."""
    await queue.send([])
    await queue.ack([])
    await queue.extend([])
    await queue.release([])
    assert await queue.receive(1, 0) == []


async def test_many_entries_arrive_once_each(queue: WorkQueue) -> None:
    """A batch longer than any store's request arrives whole; acked entries do not come again."""
    bodies = [b"%d" % n for n in range(57)]
    await queue.send([Outgoing(body) for body in bodies])
    received = await drain(queue)
    assert Counter(entry.body for entry in received) == Counter(bodies)


async def test_receive_keeps_to_its_limit(queue: WorkQueue) -> None:
    """Never more than asked for."""
    await queue.send([Outgoing(b"%d" % n, group=f"g{n % 2}") for n in range(12)])
    assert 1 <= len(await queue.receive(3, 2)) <= 3


async def test_a_received_entry_is_hidden(queue: WorkQueue) -> None:
    """Nobody else receives it while the visibility time runs."""
    await queue.send([Outgoing(b"a")])
    assert len(await queue.receive(10, 2)) == 1
    assert await queue.receive(10, 0.3) == []


async def test_an_entry_comes_back_when_its_lease_runs_out(queue: WorkQueue) -> None:
    """Unless acked it is received again after the visibility time, counted."""
    await queue.send([Outgoing(b"a")])
    first = await receive_one(queue)
    second = await receive_one(queue, wait=3)
    assert (second.body, first.receives, second.receives) == (b"a", 1, 2)


async def test_a_lease_that_begins_during_a_wait_ends_it_too(queue: WorkQueue) -> None:
    """A receiver that was waiting already gets the entry that another let go by silence."""
    waiting = [asyncio.create_task(queue.receive(10, 4)) for _ in range(2)]
    await asyncio.sleep(0)
    await queue.send([Outgoing(b"a")])
    received = [entry for entries in await asyncio.gather(*waiting) for entry in entries]
    assert sorted(entry.receives for entry in received) == [1, 2]


async def test_an_acked_entry_is_gone(queue: WorkQueue) -> None:
    """It does not come back when the visibility time is over."""
    await queue.send([Outgoing(b"a")])
    await queue.ack([(await receive_one(queue)).handle])
    assert await queue.receive(10, LEASE_OVER) == []


async def test_ack_twice_is_passed_over(queue: WorkQueue) -> None:
    """A handle of an entry that is gone is no error, and the others of the call are served."""
    await queue.send([Outgoing(b"a"), Outgoing(b"b")])
    one, two = await receive_all(queue, 2)
    await queue.ack([one.handle])
    await queue.ack([one.handle, two.handle])
    assert await queue.receive(10, LEASE_OVER) == []


async def test_a_stale_handle_acks_nothing(queue: WorkQueue) -> None:
    """Once the entry was received again, the older receipt cannot remove it; the newer can."""
    await queue.send([Outgoing(b"a")])
    stale = await receive_one(queue)
    await receive_one(queue, wait=3)
    await queue.ack([stale.handle])
    third = await receive_one(queue, wait=3)
    assert third.receives == 3
    await queue.ack([third.handle])
    assert await queue.receive(10, LEASE_OVER) == []


async def test_a_stale_handle_releases_nothing(queue: WorkQueue) -> None:
    """The older receipt cannot make the entry visible under its new holder."""
    await queue.send([Outgoing(b"a")])
    stale = await receive_one(queue)
    await receive_one(queue, wait=3)
    await queue.release([stale.handle])
    assert await queue.receive(10, 0.3) == []


async def test_a_stale_handle_extends_nothing(queue: WorkQueue) -> None:
    """The older receipt cannot keep the entry hidden past its new holder's lease."""
    await queue.send([Outgoing(b"a")])
    stale = await receive_one(queue)
    await receive_one(queue, wait=3)
    await asyncio.sleep(0.6)
    await queue.extend([stale.handle])
    assert (await receive_one(queue, wait=0.8)).receives == 3


async def test_extend_hides_for_a_full_time_from_now(queue: WorkQueue) -> None:
    """An extended entry outlives its first visibility time and comes back after the second."""
    await queue.send([Outgoing(b"a")])
    entry = await receive_one(queue)
    await asyncio.sleep(0.7)
    await queue.extend([entry.handle])
    assert await queue.receive(10, 0.6) == []
    assert (await receive_one(queue, wait=2)).receives == 2


async def test_release_makes_receivable_at_once(queue: WorkQueue) -> None:
    """A released entry need not wait for its lease to run out."""
    await queue.send([Outgoing(b"a")])
    await queue.release([(await receive_one(queue)).handle])
    assert (await receive_one(queue, wait=0.5)).receives == 2


async def test_release_with_a_delay_waits_for_it(queue: WorkQueue) -> None:
    """A delay longer than the lease counts, not the lease."""
    await queue.send([Outgoing(b"a")])
    await queue.release([(await receive_one(queue)).handle], delay=2.0)
    assert await queue.receive(10, LEASE_OVER) == []
    assert (await receive_one(queue, wait=2)).receives == 2


async def test_a_delayed_entry_waits_for_its_time(queue: WorkQueue) -> None:
    """Sent with a delay, it is received after it and not before, by a receiver that waits already."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    await queue.send([Outgoing(b"late", delay=1.0), Outgoing(b"now")])
    assert (await receive_one(queue)).body == b"now"
    assert (await receive_one(queue, wait=0.95 + 2)).body in (b"late", b"now")
    assert 0.95 <= loop.time() - begin < 2.5


async def test_a_waiting_receiver_is_woken_by_a_send(queue: WorkQueue) -> None:
    """Receive returns soon after the send, not at the end of its wait."""
    loop = asyncio.get_running_loop()
    waiting = asyncio.create_task(queue.receive(10, 20))
    await asyncio.sleep(0.2)
    await queue.send([Outgoing(b"a")])
    begin = loop.time()
    assert len(await waiting) == 1
    assert loop.time() - begin < 1.0


async def test_receive_returns_nothing_after_its_wait(queue: WorkQueue) -> None:
    """An empty queue gives an empty list when the wait is over."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    assert await queue.receive(10, 1) == []
    assert 0.95 <= loop.time() - begin < 2.5


async def test_concurrent_receivers_share_without_doubles(queue: WorkQueue) -> None:
    """Six receivers at once get each entry once between them."""
    bodies = [b"%d" % n for n in range(60)]
    await queue.send([Outgoing(body) for body in bodies])
    received = await asyncio.gather(*(drain(queue) for _ in range(6)))
    assert Counter(entry.body for entries in received for entry in entries) == Counter(bodies)


async def test_a_quiet_group_does_not_wait_behind_a_noisy_one(queue: WorkQueue) -> None:
    """Entries of small groups, sent last, are received early."""
    await queue.send([Outgoing(b"x", group="noisy") for _ in range(200)])
    await queue.send([Outgoing(b"x", group=f"quiet-{n}") for n in range(3)])
    seen = [entry.group for entry in await receive_all(queue, 20)]
    assert {"quiet-0", "quiet-1", "quiet-2"} <= set(seen)


async def test_the_group_without_a_name_takes_its_turn(queue: WorkQueue) -> None:
    """An entry of no group is as quiet as any."""
    await queue.send([Outgoing(b"x", group="noisy") for _ in range(100)])
    await queue.send([Outgoing(b"plain")])
    assert b"plain" in [entry.body for entry in await receive_all(queue, 20)]


async def test_one_group_alone_fills_a_receive(queue: WorkQueue) -> None:
    """Fairness costs a lone tenant nothing."""
    await queue.send([Outgoing(b"x", group="alone") for _ in range(10)])
    assert len(await receive_all(queue, 10)) == 10


async def test_an_entry_over_the_limit_is_too_large(queue: WorkQueue) -> None:
    """More than MAX_ENTRY is refused and nothing of the call is stored; just MAX_ENTRY is not."""
    with pytest.raises(TooLarge):
        await queue.send([Outgoing(b"small"), Outgoing(b"x" * (MAX_ENTRY + 1))])
    assert await queue.receive(10, 0.2) == []
    await queue.send([Outgoing(b"x" * (MAX_ENTRY - 1024))])
    assert len((await receive_one(queue)).body) == MAX_ENTRY - 1024


async def test_one_send_takes_any_number_of_entries(queue: WorkQueue) -> None:
    """Entries that are over MAX_ENTRY together, or more than a store takes at once, are all stored."""
    await queue.send([Outgoing(b"x" * (MAX_ENTRY // 2 + 1))] * 2 + [Outgoing(b"y")] * 10)
    assert len(await receive_all(queue, 12)) == 12


async def test_a_delay_over_the_limit_is_too_large(queue: WorkQueue) -> None:
    """Send and release refuse more than MAX_DELAY; MAX_DELAY itself is fine."""
    with pytest.raises(TooLarge):
        await queue.send([Outgoing(b"a", delay=MAX_DELAY + 1)])
    await queue.send([Outgoing(b"a", delay=MAX_DELAY), Outgoing(b"b")])
    entry = await receive_one(queue)
    assert entry.body == b"b"
    with pytest.raises(TooLarge):
        await queue.release([entry.handle], delay=MAX_DELAY + 1)
    await queue.ack([entry.handle])


async def test_stats_count_each_kind(queue: WorkQueue) -> None:
    """Visible, in flight, delayed."""
    await queue.send([Outgoing(b"a"), Outgoing(b"b"), Outgoing(b"c"), Outgoing(b"d", delay=60)])
    await receive_all(queue, 1)
    stats = await queue.stats()
    assert (stats.visible, stats.in_flight, stats.delayed) == (2, 1, 1)


async def test_stats_count_an_expired_lease_as_visible(queue: WorkQueue) -> None:
    """What can be received again is visible, also before anybody asked for it."""
    await queue.send([Outgoing(b"a")])
    await receive_one(queue)
    await asyncio.sleep(LEASE_OVER)
    stats = await queue.stats()
    assert (stats.visible, stats.in_flight) == (1, 0)


async def receive_one(queue: WorkQueue, wait: float = 2) -> Received:
    (entry,) = await queue.receive(1, wait)
    return entry


async def receive_all(queue: WorkQueue, count: int) -> Sequence[Received]:
    received: list[Received] = []
    while len(received) < count and (more := await queue.receive(min(10, count - len(received)), 2)):
        received += more
    return received


async def drain(queue: WorkQueue) -> list[Received]:
    """Receive and ack until nothing comes."""
    received: list[Received] = []
    while more := await queue.receive(10, 0.3):
        await queue.ack([entry.handle for entry in more])
        received += more
    return received
