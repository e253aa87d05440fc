from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postfleet.backends.aws_ranges import GAP, Range, RangeReader, coalesce
from postfleet.ports import Unavailable

BLOB = bytes(range(256)) * 16 * 1024
ranges = st.lists(st.builds(Range, st.integers(0, 300), st.integers(1, 60)), max_size=30)


@given(ranges, st.integers(0, 40), st.integers(1, 200))
def test_every_range_is_in_one_run(wanted: list[Range], gap: int, most: int) -> None:
    """Nothing is left out, nothing is read twice for the same asker, and runs ascend."""
    runs = coalesce(wanted, gap, most)
    assert [each for run in runs for each in run] == sorted(wanted)
    assert all(runs)


@given(ranges, st.integers(0, 40), st.integers(1, 200))
def test_a_run_is_worth_one_read(wanted: list[Range], gap: int, most: int) -> None:
    """Parts of a run are close together, and a run of several is not too long."""
    for run in coalesce(wanted, gap, most):
        ends = [max(each.end for each in run[: n + 1]) for n in range(len(run))]
        assert all(following.offset - end <= gap for end, following in zip(ends, run[1:], strict=False))
        assert len(run) == 1 or ends[-1] - run[0].offset <= most


@given(ranges, st.integers(0, 40))
def test_without_a_bound_runs_are_apart(wanted: list[Range], gap: int) -> None:
    """Two runs that one read could serve are one run."""
    runs = coalesce(wanted, gap, most=1_000_000)
    assert all(after[0].offset - max(each.end for each in run) > gap for run, after in pairwise(runs))


class Requests:
    """Reads of one blob, by what was asked for."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.made: list[tuple[str, int, int]] = []
        self.failure = failure

    async def read(self, key: str, offset: int, length: int) -> bytes:
        self.made.append((key, offset, length))
        if self.failure:
            raise self.failure
        return BLOB[offset : offset + length]


async def test_reads_of_a_turn_are_one_request() -> None:
    """Fifty contents of one pack that are asked for together cost one request, and each asker gets its own bytes."""
    requests = Requests()
    reader = RangeReader(requests.read)
    wanted = [(n * 80_000, 4_000) for n in range(50)]
    answers = await asyncio.gather(*(reader.get("mail/a", *each) for each in wanted))
    assert answers == [BLOB[offset : offset + length] for offset, length in wanted]
    assert requests.made == [("mail/a", 0, 49 * 80_000 + 4_000)]


async def test_distant_reads_and_other_blobs_are_requests_of_their_own() -> None:
    """A gap over the bound, or another key, is not read across."""
    requests = Requests()
    reader = RangeReader(requests.read)
    await asyncio.gather(reader.get("a", 0, 10), reader.get("a", GAP + 11, 10), reader.get("b", 0, 10))
    assert sorted(requests.made) == [("a", 0, 10), ("a", GAP + 11, 10), ("b", 0, 10)]


async def test_the_end_of_the_blob_cuts_only_what_passes_it() -> None:
    """A read that begins before the end gets what is there; one behind it nothing."""
    reader = RangeReader(Requests().read)
    end = len(BLOB)
    assert await asyncio.gather(
        reader.get("a", end - 8, 4), reader.get("a", end - 2, 4), reader.get("a", end + 5, 4)
    ) == [
        BLOB[-8:-4],
        BLOB[-2:],
        b"",
    ]


async def test_a_failed_request_fails_all_whom_it_served() -> None:
    """Each asker hears of it; the next read is a new request."""
    requests = Requests(Unavailable("no"))
    reader = RangeReader(requests.read)
    answers = await asyncio.gather(reader.get("a", 0, 10), reader.get("a", 20, 10), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable, Unavailable]
    requests.failure = None
    assert await reader.get("a", 0, 4) == BLOB[:4]


async def test_an_asker_that_gives_up_costs_the_others_nothing() -> None:
    """A cancelled read takes only itself away."""
    reader = RangeReader(Requests().read)
    impatient, patient = (asyncio.create_task(reader.get("a", 0, 10)) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    assert await patient == BLOB[:10]
