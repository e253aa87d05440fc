from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from postfleet.backends import local_segments
from postfleet.backends.local_segments import STEP, SegmentWriter
from postfleet.ports import StoreFull


@pytest.fixture
def segments(tmp_path: Path) -> Iterator[SegmentWriter]:
    (tmp_path / "minute").mkdir()
    (tmp_path / "next").mkdir()
    writer = SegmentWriter(tmp_path / "lock", lambda key: str(tmp_path / key), lambda directory: None)
    yield writer
    writer.close()


def test_appends_of_a_directory_share_a_file(segments: SegmentWriter) -> None:
    """It is named after the first of them."""
    assert [segments.append(f"minute/{n}", b"data") for n in range(3)] == [("minute/0", n * 4) for n in range(3)]


def test_another_directory_begins_another_segment(segments: SegmentWriter, tmp_path: Path) -> None:
    """The one before gives back the room that it did not use."""
    segments.append("minute/a", b"data")
    assert (tmp_path / "minute/a").stat().st_size == STEP
    assert segments.append("next/b", b"more") == ("next/b", 0)
    assert (tmp_path / "minute/a").read_bytes() == b"data"


def test_a_full_segment_is_followed_by_another(segments: SegmentWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments have a largest size."""
    monkeypatch.setattr(local_segments, "MAX_SEGMENT", 10)
    assert segments.append("minute/a", b"12345678") == ("minute/a", 0)
    assert segments.append("minute/b", b"123") == ("minute/b", 0)


def test_a_deleted_segment_takes_nothing_more(segments: SegmentWriter, tmp_path: Path) -> None:
    """What retention removed is not written to: a writer that slept goes on in a new file."""
    segments.append("minute/a", b"data")
    (tmp_path / "minute/a").unlink()
    assert segments.append("minute/b", b"more") == ("minute/b", 0)
    assert (tmp_path / "minute/b").read_bytes()[:4] == b"more"


def test_a_full_disk_refuses(segments: SegmentWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room is laid out before anything is written."""

    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreFull):
        segments.append("minute/a", b"data")


def test_a_failed_sync_ends_the_segment(segments: SegmentWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages of a failed sync may be gone though the next one succeeds."""
    segments.append("minute/a", b"data")
    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", lambda fd: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        with pytest.raises(OSError, match="broken"):
            segments.append("minute/b", b"lost")
    assert segments.append("minute/c", b"more") == ("minute/c", 0)
