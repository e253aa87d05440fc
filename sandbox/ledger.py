"""The MX sink's ledger: what it received, on file before anybody is told. Read by `postfleet.evidence.read_ledger`."""

from __future__ import annotations

import os

import msgspec

from postfleet.evidence import LedgerRecord

_LONGEST_LINE = 64 * 1024


class Ledger:
    """Appends to a file, in one write all records since the last. A killed process loses nothing that was flushed."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._encoder = msgspec.json.Encoder()
        self._lines = bytearray()
        self._size = _cut_torn_line(self._file)

    def add(self, record: LedgerRecord) -> None:
        self._lines += self._encoder.encode(record)
        self._lines += b"\n"

    def flush(self) -> None:
        """Hand all records to the operating system. Raises `OSError` if it does not take them: then they are gone."""
        lines, self._lines = memoryview(self._lines), bytearray()
        try:
            written = 0
            while written < len(lines):
                written += os.write(self._file, lines[written:])
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(lines)

    def close(self) -> None:
        self.flush()
        os.close(self._file)


def _cut_torn_line(file: int) -> int:
    """A killed process may leave half a line, of a message that was never answered. The size that remains."""
    size = os.fstat(file).st_size
    tail = os.pread(file, _LONGEST_LINE, max(0, size - _LONGEST_LINE))
    whole = size - len(tail) + tail.rfind(b"\n") + 1
    os.ftruncate(file, whole)
    return whole
