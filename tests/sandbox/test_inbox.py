from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.eventually import eventually

from postfleet.inbox import Letter, read_inbox
from sandbox import inbox as module
from sandbox.inbox import Inbox


def letter(number: int, size: int = 10) -> Letter:
    return Letter(f"r-1.{number}", float(number), "127.0.0.1", "127.1.1.1", "", ("ann@x.example",), b"x" * size)


def test_no_inbox_is_an_empty_one(tmp_path: Path) -> None:
    """Nothing came yet."""
    assert read_inbox(tmp_path / "inbox") == []


async def test_letters_are_on_file_once_it_is_quiet(tmp_path: Path) -> None:
    """Without anybody asking for it."""
    inbox = Inbox(tmp_path / "inbox")
    writing = asyncio.create_task(inbox.keep_written())
    inbox.add(letter(1))
    assert await eventually(lambda: read_inbox(tmp_path / "inbox")) == [letter(1)]
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)


async def test_a_stop_writes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters outlive the sink, and the next one goes on from them; the oldest are dropped."""
    monkeypatch.setattr(module, "MAX_LETTERS", 3)
    for first in (1, 3):
        inbox = Inbox(tmp_path / "inbox")
        writing = asyncio.create_task(inbox.keep_written())
        await asyncio.sleep(0)
        inbox.add(letter(first))
        inbox.add(letter(first + 1))
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    assert read_inbox(tmp_path / "inbox") == [letter(2), letter(3), letter(4)]


def test_the_inbox_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large messages push out more of the old ones."""
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    inbox = Inbox(tmp_path / "inbox")
    for number in range(4):
        inbox.add(letter(number, size=40))
    assert inbox.letters() == [letter(2, 40), letter(3, 40)]
