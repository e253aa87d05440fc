from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from postfleet.backends import local_blobs
from postfleet.backends.local import LocalBackends, open_local
from postfleet.backends.local_blobs import blob_keys, blob_path
from postfleet.clock import SystemClock
from postfleet.ports import StoreFull, Unavailable


@pytest.mark.parametrize("key", ["..", "../../etc/passwd", "/etc/passwd", "a//b", ".", "a/", "%2E", "a+/b+", "~ *"])
def test_no_key_leaves_the_directory(tmp_path: Path, key: str) -> None:
    """Whatever the key, its file is below the root and leads back to the key."""
    path = Path(blob_path(tmp_path, key))
    assert path.resolve().is_relative_to(tmp_path.resolve()) and path != tmp_path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    assert list(blob_keys(str(tmp_path))) == [key]


async def test_new_mail_is_refused_below_the_reserve(tmp_path: Path) -> None:
    """With too little free space mail is StoreFull, while what finishes accepted mail still goes."""
    async with await open_local(tmp_path, clock=SystemClock(), visibility=30.0, reserve=2**62) as backends:
        with pytest.raises(StoreFull):
            await backends.blobs.put("mail/a", b"")
        with pytest.raises(StoreFull):
            await backends.blobs.put_if_absent("mail/a", b"")
        await backends.blobs.put("events/a", b"")
        assert await backends.blobs.list("") == ["events/a"]


@pytest.mark.parametrize(
    ("code", "error"), [(errno.ENOSPC, StoreFull), (errno.EDQUOT, StoreFull), (errno.EIO, Unavailable)]
)
async def test_a_failed_sync_stores_nothing(
    local: LocalBackends, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, error: type[Exception]
) -> None:
    """A blob whose data did not reach the disk gets no name, and is not synced a second time."""
    synced: list[int] = []

    def fail(fd: int) -> None:
        synced.append(fd)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(local_blobs.os, "fdatasync", fail)
    with pytest.raises(error):
        await local.blobs.put("mail/a", b"data")
    assert len(synced) == 1
    assert await local.blobs.list("") == []
    assert list((tmp_path / "incoming").iterdir()) == []


async def test_a_deleted_blob_is_not_read_from_an_open_file(local: LocalBackends, tmp_path: Path) -> None:
    """A file kept open for range reads does not outlive its blob, whichever process deleted it."""
    await local.blobs.put("mail/a", b"data")
    assert await local.blobs.get("mail/a", 0, 4) == b"data"
    os.unlink(blob_path(tmp_path / "blobs", "mail/a"))
    await local.blobs.put("mail/a", b"DATA")
    assert await local.blobs.get("mail/a", 0, 4) == b"DATA"


async def test_a_put_survives_the_removal_of_its_directory(local: LocalBackends, tmp_path: Path) -> None:
    """A directory that vanished since the last put is made again."""
    await local.blobs.put("mail/d/a", b"data")
    await local.blobs.delete(["mail/d/a"])
    os.rmdir(tmp_path / "blobs" / "mail+" / "d+")
    await local.blobs.put("mail/d/b", b"data")
    assert await local.blobs.list("mail/") == ["mail/d/b"]


async def test_open_clears_what_was_left_half_written(tmp_path: Path) -> None:
    """Files without a place that are older than an hour go."""
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    (incoming / "old").write_bytes(b"half")
    (incoming / "young").write_bytes(b"half")
    os.utime(incoming / "old", (time.time() - 7200,) * 2)
    async with await open_local(tmp_path, clock=SystemClock(), visibility=30.0):
        assert [file.name for file in incoming.iterdir()] == ["young"]
