"""Acceptance by a real ingest process: durable before the 250, and refused where it cannot be."""

from __future__ import annotations

import os
import re
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import pytest
from support.eventually import wait_for
from support.platform import FREE, ROOT

from postfleet.backends.local import open_local
from postfleet.backends.local_inspect import inspect
from postfleet.cli.platform import Choices, decide, furnish, keep_secrets
from postfleet.cli.supervisor import die_with_parent
from postfleet.clock import SystemClock
from postfleet.deployment import DataDir, split_address

MIB = 1024 * 1024


async def furnished(path: Path) -> DataDir:
    """A data directory as `up` leaves it, with nothing running."""
    data = DataDir(path)
    http, smtp, sink = FREE[1::2]
    deployment = decide(data, Choices(http, smtp, sink, "", ("127.0.0.0/8",), 1))
    keep_secrets(data)
    async with await open_local(data.store, clock=SystemClock(), visibility=60) as backends:
        await furnish(data, deployment, backends)
    return data


@contextmanager
def ingest(data: DataDir, *under: str) -> Iterator[None]:
    """The process, once it listens."""
    data.logs.mkdir(exist_ok=True)
    log = data.logs / "ingest.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [*under, sys.executable, "-P", "-m", "ingest", "--data", str(data.path)],
            stderr=errors,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            preexec_fn=die_with_parent(15),
        ) as process,
    ):
        try:
            wait_for(lambda: "smtp_listening" in log.read_text())
            yield
            process.terminate()
            process.wait(20)
        finally:
            process.kill()


def submit_by_smtp(data: DataDir, text: str) -> tuple[int, str]:
    with smtplib.SMTP(*split_address(data.deployment().smtp), timeout=20) as client:
        try:
            client.ehlo()
            client.mail("a@shop.example")
            client.rcpt("b@inbox1.example")
            code, said = client.data(f"From: a@shop.example\r\nSubject: x\r\n\r\n{text}\r\n")
        except smtplib.SMTPResponseException as error:
            return error.smtp_code, str(error.smtp_error)
    return code, said.decode()


def submit_by_http(data: DataDir, text: str) -> httpx.Response:
    credentials = msgspec.json.decode(data.credentials.read_bytes())
    content = {"from": "a@shop.example", "subject": "x", "text": text}
    return httpx.post(
        f"{credentials['http']}/api/v1/transmissions",
        json={"recipients": [{"address": "c@inbox1.example"}], "content": content},
        headers={"Authorization": credentials["api_key"]},
        trust_env=False,
    )


def stored(data: DataDir) -> tuple[int, int]:
    """(queue entries, blobs of mail)."""
    with inspect(data.store, SystemClock()) as inspection:
        entries = len(list(inspection.entries()))
    return entries, sum(path.is_file() for path in (data.store / "blobs").rglob("mail+/**/*"))


async def test_a_full_store_refuses_before_the_250(tmp_path: Path) -> None:
    """452 over SMTP, 503 over HTTP, and nothing is kept."""
    data = await furnished(tmp_path)
    (tmp_path / "settings.toml").write_text(f"disk_reserve = {2**60}\n")
    with ingest(data):
        code, said = submit_by_smtp(data, "text")
        answer = submit_by_http(data, "text")
    assert (code, said[:5]) == (452, "4.3.1")
    assert answer.status_code == 503 and answer.headers["retry-after"] and "nothing was accepted" in answer.text
    assert stored(data) == (0, 0)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    path = tmp_path / "volume"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", path], capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


@pytest.mark.foreign
async def test_a_file_system_that_fills_up_keeps_what_was_accepted(volume: Path) -> None:
    """ENOSPC itself, with no reserve to soften it: refusals name the trouble, every 250 has its entry and content."""
    data = await furnished(volume)
    (volume / "settings.toml").write_text("disk_reserve = 0\n")
    with ingest(data):
        codes = [submit_by_smtp(data, f"{'y' * 70}\r\n" * 2000)[0] for _ in range(30)]
        answer = submit_by_http(data, "z" * 2 * MIB)
    accepted = codes.count(250)
    print(f"{accepted} accepted, then {sorted({*codes} - {250})}; HTTP {answer.status_code}")
    assert 0 < accepted < 30 and {*codes} == {250, 452}
    assert answer.status_code == 503
    assert stored(data)[0] == accepted


# ---------------------------------------------------------------- system calls

CALLS = "trace=openat,write,pwrite64,writev,sendto,sendmsg,fsync,fdatasync,rename"
_LINE = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)(.*)$")


def completed(trace: str) -> list[tuple[str, str]]:
    """(call, its arguments and result), at the moment when it returned; writes when they began."""
    begun: dict[tuple[str, str], str] = {}
    done = []
    for line in trace.splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        thread, call, rest = found.groups()
        if rest.endswith("<unfinished ...>"):
            begun[thread, call] = rest
            if call not in ("fsync", "fdatasync", "rename"):
                done.append((call, rest))
        elif " resumed>" in rest:
            arguments = begun.pop((thread, call), "")
            if call in ("fsync", "fdatasync", "rename"):
                done.append((call, arguments + rest))
        else:
            done.append((call, rest))
    return done


def position(calls: list[tuple[str, str]], names: str, *parts: str, after: int = -1) -> int:
    """Of the first such call after another. Raises `AssertionError`."""
    for index, (call, text) in enumerate(calls):
        if index > after and call in names.split() and all(part in text for part in parts):
            return index
    raise AssertionError(f"no {names} with {parts} after call {after}")


@pytest.mark.foreign
@pytest.mark.parametrize(
    ("submit", "answered"),
    [(submit_by_smtp, '"250 2.0.0 OK'), (submit_by_http, '"HTTP/1.1 200 OK')],
    ids=["smtp", "http"],
)
async def test_nothing_is_answered_before_it_is_on_disk(tmp_path: Path, submit: object, answered: str) -> None:
    """Content, its name and the queue entry are synced, and the calls have returned, before the first byte of a 250."""
    data = await furnished(tmp_path)
    trace = tmp_path / "trace"
    with ingest(data, "strace", "-D", "-f", "-y", "-s", "3000", "-o", str(trace), "-e", CALLS):
        for n in range(5):
            submit(data, f"marker-{n}-of-this-content")  # type: ignore[operator]
    calls = completed(trace.read_text())
    for n in range(5):
        named = position(calls, "fsync", "/store/blobs/mail+/", " = 0")
        content = position(calls, "pwrite64", "/store/blobs/mail+/", f"marker-{n}-")
        synced = position(calls, "fdatasync", "/store/blobs/mail+/", " = 0", after=content)
        entry = position(calls, "pwrite64", "/store/queues.db-wal", after=synced)
        durable = position(calls, "fdatasync fsync", "/store/queues.db-wal", " = 0", after=entry)
        reply = position(calls, "write writev sendto sendmsg", answered, after=content)
        assert named < content < synced < entry < durable < reply
