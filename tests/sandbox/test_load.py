from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from support.eventually import eventually
from uvicorn import Config, Server

from postfleet.evidence import HandOver, read_hand_overs
from sandbox.load import HandOverLog, Load, Progress, drafts, run_load, text_of

START = Any
"""The fixture `start_sink`."""
LOAD = Load(transport="smtp", target="", sender="a@a.example", count=10, domains={"x.example": 1}, size=100)


def load_of(**changes: Any) -> Load:
    return msgspec.structs.replace(LOAD, **changes)


async def submit(load: Load, path: Path) -> list[HandOver]:
    with closing(HandOverLog(path)) as log:
        await run_load(load, log)
    return logged(path)


def logged(path: Path) -> list[HandOver]:
    return list(read_hand_overs(path.read_bytes().splitlines(keepends=True)))


# ---------------------------------------------------------------- drafts


def test_every_recipient_is_another() -> None:
    """Unanswered submissions are found again by their recipients."""
    recipients = [r for draft in drafts(load_of(count=25, recipients=10), "run") for r in draft.recipients]
    assert len(set(recipients)) == 25


def test_transmissions_are_cut_to_size() -> None:
    """The last one takes the rest."""
    assert [len(d.recipients) for d in drafts(load_of(count=25, recipients=10), "run")] == [10, 10, 5]


def test_weights_decide_over_domains_and_behaviours() -> None:
    """A share of each kind, the same for the same seed."""
    load = load_of(count=1000, domains={"x.example": 3, "y.example": 1}, local_parts={"ann": 9, "bounce": 1}, seed=1)
    recipients = [draft.recipients[0] for draft in drafts(load, "run")]
    assert recipients == [draft.recipients[0] for draft in drafts(load, "run")]
    domains = Counter(recipient.rpartition("@")[2] for recipient in recipients)
    assert 700 < domains["x.example"] < 800
    assert 50 < sum(recipient.startswith("bounce-run-") for recipient in recipients) < 150


@pytest.mark.parametrize("size", [2, 79, 80, 4096])
def test_the_text_has_its_size(size: int) -> None:
    """In whole lines of mail."""
    assert len(text_of(size)) == size
    assert text_of(size).endswith("\r\n")


# ---------------------------------------------------------------- SMTP


async def test_all_is_submitted_by_smtp(start_sink: START, tmp_path: Path) -> None:
    """Every recipient is at the server once, and the log says ok."""
    sink = await start_sink()
    target = f"127.0.0.1:{sink.port}"
    log = await submit(load_of(target=target, count=25, recipients=3), tmp_path / "log")
    assert {h.status for h in log} == {"ok"}
    submitted = [recipient for h in log for recipient in h.recipients]
    assert sorted(message.recipient for message in sink.messages()) == sorted(submitted)


async def test_refused_submissions_are_logged_as_failed(start_sink: START, tmp_path: Path) -> None:
    """With the reply that refused."""
    sink = await start_sink()
    load = load_of(target=f"127.0.0.1:{sink.port}", count=2, local_parts={"bounce": 1})
    log = await submit(load, tmp_path / "log")
    assert [h.status for h in log] == ["failed"] * 2
    assert log[0].detail.startswith("550 5.1.1")


async def test_a_lost_reply_is_indeterminate(start_sink: START, tmp_path: Path) -> None:
    """The final dot was sent: nobody knows, and nobody asks again."""
    sink = await start_sink()
    load = load_of(target=f"127.0.0.1:{sink.port}", count=3, local_parts={"drop": 1}, concurrency=1)
    log = await submit(load, tmp_path / "log")
    assert [h.status for h in log] == ["indeterminate"] * 3
    assert len(sink.messages()) == 3


async def test_a_connection_lost_before_the_final_dot_is_made_again(start_sink: START, tmp_path: Path) -> None:
    """Nothing was handed over, so asking again doubles nothing."""
    sink = await start_sink(idle_timeout=0.05)
    load = load_of(target=f"127.0.0.1:{sink.port}", count=3, rate=6, concurrency=1)
    log = await submit(load, tmp_path / "log")
    assert [h.status for h in log] == ["ok"] * 3
    assert len(sink.messages()) == 3


async def test_the_rate_is_kept(start_sink: START, tmp_path: Path) -> None:
    """Messages a second, not transmissions."""
    sink = await start_sink()
    load = load_of(target=f"127.0.0.1:{sink.port}", count=9, recipients=3, rate=20)
    started = asyncio.get_running_loop().time()
    await submit(load, tmp_path / "log")
    assert asyncio.get_running_loop().time() - started >= 0.3


async def test_a_stopped_load_logs_what_is_under_way(start_sink: START, tmp_path: Path) -> None:
    """Without having read the reply it cannot say more."""
    sink = await start_sink()
    load = load_of(target=f"127.0.0.1:{sink.port}", count=1, local_parts={"slow9": 1})
    running = asyncio.create_task(submit(load, tmp_path / "log"))
    await eventually(sink.messages)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    (hand_over,) = logged(tmp_path / "log")
    assert hand_over.status == "indeterminate"


async def test_progress_is_told(start_sink: START, tmp_path: Path) -> None:
    """At the end at the latest."""
    sink = await start_sink()
    told: list[Progress] = []
    with closing(HandOverLog(tmp_path / "log")) as log:
        await run_load(load_of(target=f"127.0.0.1:{sink.port}"), log, told.append)
    assert (told[-1].submitted, told[-1].ok) == (10, 10)


# ---------------------------------------------------------------- HTTP

Answer = Callable[[Request], Awaitable[Response]]


@pytest.fixture
async def serve(unused_tcp_port: int) -> AsyncIterator[Callable[[Answer], Awaitable[str]]]:
    """Starts uvicorn with one endpoint; gives its address."""
    servers: list[tuple[Server, asyncio.Task[None]]] = []

    async def start(answer: Answer) -> str:
        app = Starlette(routes=[Route("/api/v1/transmissions", answer, methods=["POST"])])
        server = Server(Config(app, port=unused_tcp_port, log_level="error", lifespan="off"))
        servers.append((server, asyncio.create_task(server.serve())))
        await eventually(lambda: server.started)
        return f"127.0.0.1:{unused_tcp_port}"

    yield start
    for server, task in servers:
        server.should_exit = True
        await task


async def test_all_is_submitted_by_http(serve: Any, tmp_path: Path) -> None:
    """With the key, in the API's form, and the transmission's id goes to the log."""
    bodies: list[Any] = []

    async def answer(request: Request) -> Response:
        assert request.headers["authorization"] == "key"
        bodies.append(await request.json())
        return JSONResponse({"results": {"id": f"10{len(bodies)}", "total_accepted_recipients": 2}})

    load = load_of(transport="http", target=await serve(answer), key="key", recipients=2, count=4, concurrency=1)
    log = await submit(load, tmp_path / "log")
    assert [(h.status, h.transmission, len(h.recipients)) for h in log] == [("ok", "101", 2), ("ok", "102", 2)]
    assert [to["address"]["email"] for to in bodies[0]["recipients"]] == list(log[0].recipients)
    assert bodies[0]["content"]["from"] == "a@a.example"
    assert len(bodies[0]["content"]["text"]) == 100


@pytest.mark.parametrize(("code", "status"), [(400, "failed"), (429, "failed"), (503, "indeterminate")])
async def test_http_errors_are_told_apart(serve: Any, tmp_path: Path, code: int, status: str) -> None:
    """A client's error is a refusal; a server's error says that it does not know."""

    async def answer(request: Request) -> Response:
        return JSONResponse({"errors": [{"message": "no"}]}, code)

    load = load_of(transport="http", target=await serve(answer), count=1)
    (hand_over,) = await submit(load, tmp_path / "log")
    assert hand_over.status == status
    assert hand_over.detail.startswith(f"{code} ")


async def test_a_lost_http_answer_is_indeterminate(tmp_path: Path) -> None:
    """The request was sent, and the connection closed without a response."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    target = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    log = await submit(load_of(transport="http", target=target, count=2, concurrency=1), tmp_path / "log")
    assert [h.status for h in log] == ["indeterminate"] * 2
    server.close()


async def test_a_server_that_is_away_is_waited_for(serve: Any, unused_tcp_port: int, tmp_path: Path) -> None:
    """Servers may be killed and come back during a load."""

    async def answer(request: Request) -> Response:
        return JSONResponse({"results": {"id": "1"}})

    load = load_of(transport="http", target=f"127.0.0.1:{unused_tcp_port}", count=1)
    submitting = asyncio.create_task(submit(load, tmp_path / "log"))
    await asyncio.sleep(0.1)
    await serve(answer)
    assert [h.status for h in await submitting] == ["ok"]
