"""The proxy as a process: its command line, signals, descriptors, and a foreign client."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from postfleet.socks.token import Claims, sign

KEY = b"k" * 32
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class Process:
    """A running proxy."""

    def __init__(self, process: asyncio.subprocess.Process, socks: int, health: int, target: int) -> None:
        self.process, self.socks, self.health, self.target = process, socks, health, target

    def token(self, host: str = "127.0.0.1") -> str:
        return sign(
            KEY,
            Claims(
                source="127.0.0.21",
                host=host,
                port=self.target,
                limit_key="site",
                max_connections=1000,
                policy_version=1,
                expires=2**40,
            ),
        )

    async def logged(self, event: bytes) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            if event in line:
                return
        raise AssertionError(f"ended without {event!r}")

    async def begin(self) -> asyncio.StreamWriter:
        """A session that has begun its handshake."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.socks)
        writer.write(b"\x05\x01\x02")
        assert await asyncio.wait_for(reader.readexactly(2), 10) == b"\x05\x02"
        return writer

    async def curl(self, token: str) -> tuple[int, bytes]:
        """(exit code, what came back)."""
        url = f"http://127.0.0.1:{self.target}/"
        process = await asyncio.create_subprocess_exec(
            "curl", "-s", "--max-time", "5", "--socks5", f"127.0.0.21:{token}@127.0.0.1:{self.socks}", url,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output

    async def healthz(self, request: bytes = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") -> tuple[bytes, bytes]:
        """(status line, body)."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.health)
        writer.write(request)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return head.split(b"\r\n")[0], body


async def answer_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
    writer.close()


Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    running: list[asyncio.subprocess.Process] = []
    server = await asyncio.start_server(answer_http, "127.0.0.1", 0)
    target = server.sockets[0].getsockname()[1]
    (tmp_path / "key").write_text(KEY.hex() + "\n")

    async def start(*options: str, descriptors: int = 1024) -> Process:
        socks, health = free_port(), free_port()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "ip_proxy", "--listen", f"127.0.0.1:{socks}",
            "--health", f"127.0.0.1:{health}", "--key-file", str(tmp_path / "key"), "--allow-loopback",
            "--source", "127.0.0.21", "--source", "198.51.100.9=192.0.2.99", "--port", str(target), *options,
            cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, stderr=asyncio.subprocess.PIPE,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors)),
        )  # fmt: skip
        running.append(process)
        proxy = Process(process, socks, health, target)
        await proxy.logged(b"proxy_started")
        return proxy

    yield start
    server.close()
    for process in running:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.foreign
async def test_curl_passes_with_a_token(start: Start) -> None:
    """A foreign SOCKS5 client with user name and token reaches the target."""
    proxy = await start()
    assert await proxy.curl(proxy.token()) == (0, b"hi")


@pytest.mark.foreign
async def test_curl_is_refused_with_the_token_of_another_target(start: Start) -> None:
    """The same client with a token for another host gets nothing (curl's code 97: proxy refused)."""
    proxy = await start()
    assert await proxy.curl(proxy.token(host="127.0.0.2")) == (97, b"")


async def test_health_tells_what_can_be_bound(start: Start) -> None:
    """Each source is listed with whether it can be bound now."""
    proxy = await start()
    status, body = await proxy.healthz()
    health = json.loads(body)
    assert status == b"HTTP/1.1 200 OK"
    assert [(source["public"], source["local"], source["bindable"]) for source in health["sources"]] == [
        ("127.0.0.21", "127.0.0.21", True),
        ("198.51.100.9", "192.0.2.99", False),
    ]
    assert (health["status"], health["draining"], health["open"]) == ("degraded", False, 0)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /healthz HTTP/1.1\r\n\r\n", b"405"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"x" * 9000, b"431"),
    ],
)
async def test_health_answers_nothing_else(start: Start, request_bytes: bytes, status: bytes) -> None:
    """Other paths, methods and protocols get an HTTP error."""
    proxy = await start()
    assert status in (await proxy.healthz(request_bytes))[0]


async def test_running_out_of_descriptors_stops_no_listener(start: Start) -> None:
    """After more connections than descriptors the proxy serves again once they are gone."""
    proxy = await start(descriptors=64)
    opened = [await asyncio.open_connection("127.0.0.1", proxy.socks) for _ in range(100)]
    await proxy.logged(b"accept_failed")
    for _, writer in opened:
        writer.close()
    (await proxy.begin()).close()
    assert b"200" in (await proxy.healthz())[0]


async def test_an_idle_proxy_exits_on_the_first_signal(start: Start) -> None:
    """SIGTERM without sessions is exit 0."""
    proxy = await start()
    proxy.process.send_signal(signal.SIGTERM)
    assert await proxy.process.wait() == 0


async def test_a_second_signal_ends_the_drain(start: Start) -> None:
    """SIGTERM with an open session drains, health says so, and another SIGTERM exits at once."""
    proxy = await start()
    writer = await proxy.begin()
    proxy.process.send_signal(signal.SIGTERM)
    await proxy.logged(b"draining")
    assert json.loads((await proxy.healthz())[1])["draining"] is True
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", proxy.socks)
    proxy.process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(proxy.process.wait(), 2)
    writer.close()


async def test_the_drain_time_is_a_setting(start: Start) -> None:
    """A session that outlasts the drain time does not keep the process."""
    proxy = await start("--drain-timeout", "0.1")
    writer = await proxy.begin()
    proxy.process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(proxy.process.wait(), 4) == 0
    writer.close()


@pytest.mark.parametrize(("key", "message"), [("zz", b"non-hexadecimal"), ("00ff", b"at least 16")])
async def test_a_bad_key_is_named(tmp_path: Path, key: str, message: bytes) -> None:
    """A key file that is not a key stops the start with the file's name and the reason."""
    (tmp_path / "key").write_text(key)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "ip_proxy", "--listen", "127.0.0.1:1", "--health", "127.0.0.1:2",
        "--key-file", str(tmp_path / "key"), "--source", "127.0.0.21",
        cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert message in errors
    assert str(tmp_path / "key").encode() in errors
