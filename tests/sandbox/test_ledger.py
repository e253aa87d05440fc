from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from postfleet.evidence import LedgerConnection, LedgerPeak, LedgerRecord, read_ledger
from sandbox.ledger import Ledger

FIRST = LedgerConnection(1.0, "r-1", "127.0.0.11", "127.1.1.1", "quit", 3)
SECOND = LedgerPeak(2.0, "127.0.0.11", "gmail", 4)


def read(path: Path) -> list[LedgerRecord]:
    return list(read_ledger(path.read_bytes().splitlines(keepends=True)))


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    """One line each, in order."""
    ledger = Ledger(tmp_path / "ledger")
    ledger.add(FIRST)
    ledger.add(SECOND)
    ledger.close()
    assert read(tmp_path / "ledger") == [FIRST, SECOND]


def test_flushed_records_do_not_wait_for_close(tmp_path: Path) -> None:
    """A killed process loses nothing that was flushed, and writes nothing that was not."""
    ledger = Ledger(tmp_path / "ledger")
    ledger.add(FIRST)
    assert read(tmp_path / "ledger") == []
    ledger.flush()
    assert read(tmp_path / "ledger") == [FIRST]
    ledger.close()


def test_a_torn_line_is_passed_over_by_readers(tmp_path: Path) -> None:
    """A writer may be killed in the middle of its last line."""
    ledger = Ledger(tmp_path / "ledger")
    ledger.add(FIRST)
    ledger.close()
    with open(tmp_path / "ledger", "ab") as file:
        file.write(b'{"record":"connec')
    assert read(tmp_path / "ledger") == [FIRST]


def test_a_torn_line_is_cut_by_the_next_writer(tmp_path: Path) -> None:
    """The ledger goes on after the last whole line."""
    (tmp_path / "ledger").write_bytes(b'{"record":"connec')
    ledger = Ledger(tmp_path / "ledger")
    ledger.add(FIRST)
    ledger.close()
    assert read(tmp_path / "ledger") == [FIRST]


def test_a_line_that_is_no_record_is_an_error(tmp_path: Path) -> None:
    """Only the last line may be incomplete."""
    with pytest.raises(ValueError, match="line 1 is no record"):
        list(read_ledger([b"{}\n", b""]))


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Files of this process cannot grow past 300 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_disk")
def test_records_that_could_not_be_written_whole_are_gone(tmp_path: Path) -> None:
    """Their messages are refused, so that neither they nor parts of them may be found later."""
    ledger = Ledger(tmp_path / "ledger")
    ledger.add(FIRST)
    ledger.flush()
    for _ in range(3):
        ledger.add(FIRST)
    with pytest.raises(OSError, match="File too large"):
        ledger.flush()
    ledger.add(SECOND)
    ledger.close()
    assert read(tmp_path / "ledger") == [FIRST, SECOND]
