"""Keeps the last messages in memory and puts them on file once it is quiet, so that a load does not wait for it."""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path

import structlog

from postfleet.inbox import Letter, read_inbox, write_inbox

MAX_LETTERS = 1000
MAX_BYTES = 16 * 1024 * 1024
QUIET = 0.3
"""Seconds without a message after which the inbox is written."""
LONGEST_WAIT = 10.0
"""Under steady load it is written this often."""

log = structlog.get_logger()


class Inbox:
    """At most `MAX_LETTERS` letters of `MAX_BYTES` in all; the oldest go first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._letters = deque(read_inbox(path))
        self._bytes = sum(len(letter.data) for letter in self._letters)
        self._unwritten = asyncio.Event()
        self._newest = 0.0

    def add(self, letter: Letter) -> None:
        self._letters.append(letter)
        self._bytes += len(letter.data)
        while len(self._letters) > MAX_LETTERS or self._bytes > MAX_BYTES:
            self._bytes -= len(self._letters.popleft().data)
        self._newest = letter.time
        self._unwritten.set()

    async def keep_written(self) -> None:
        """Runs until cancelled, and then writes a last time."""
        try:
            while True:
                await self._unwritten.wait()
                await self._quiet()
                self._unwritten.clear()
                await asyncio.to_thread(self._write, self.letters())
        finally:
            self._write(self.letters())

    async def _quiet(self) -> None:
        for _ in range(int(LONGEST_WAIT / QUIET)):
            newest = self._newest
            await asyncio.sleep(QUIET)
            if newest == self._newest:
                return

    def letters(self) -> list[Letter]:
        """Oldest first."""
        return list(self._letters)

    def _write(self, letters: list[Letter]) -> None:
        try:
            write_inbox(self._path, letters)
        except OSError as error:
            log.warning("inbox_not_written", path=str(self._path), error=str(error))
