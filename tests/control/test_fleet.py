"""The fleet controller against health servers and a state table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
import pytest
from structlog.testing import capture_logs
from support.memory_backends import MemoryState

from control.fleet import FleetController
from control.ownership import Report, SourceReport
from control.probe import probe
from postfleet.clock import SystemClock
from postfleet.deployment import ProxySite
from postfleet.directory import BINDINGS, Binding, load_all, store

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
Serve = Callable[[bytes | None], Awaitable[str]]


async def test_a_report_is_read(serve: Serve) -> None:
    """Fields that the controller does not know are passed over."""
    body = b'{"status":"ok","sources":[{"public":"192.0.2.1","bindable":true,"open":3}],"draining":false,"open":3}'
    assert await probe(await serve(HEAD + body), 2) == Report((SourceReport("192.0.2.1", True),))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "no answer within 0.1 s"),
        (b"", "empty answer"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "HTTP/1.1 503 Service Unavailable"),
        (b"220 mx ESMTP\r\n\r\n", "220 mx ESMTP"),
        (HEAD + b"{", "truncated"),
        (HEAD + b'{"sources":1}', "Expected `array`"),
        (HEAD + b"x" * 2_000_000, "longer than"),
    ],
)
async def test_what_is_not_a_report_is_said_in_words(serve: Serve, answer: bytes | None, words: str) -> None:
    """Silence, errors and nonsense are a reason, and name the address."""
    health = await serve(answer)
    result = await probe(health, 0.1 if answer is None else 2)
    assert isinstance(result, str)
    assert result.startswith(health)
    assert words in result


async def test_nobody_there_is_a_reason() -> None:
    """A refused connection is a reason, not an error."""
    assert isinstance(await probe("127.0.0.1:1", 2), str)


class Fleet:
    """A controller over one proxy whose answer the test sets."""

    def __init__(self) -> None:
        self.state = MemoryState()
        self.answer: Report | str = Report((SourceReport("192.0.2.1", True),))
        site = ProxySite("p", "127.0.0.1:1080", "127.0.0.1:1081", ())
        self.controller = FleetController(self.state, [site], self.probe, SystemClock())

    async def probe(self, _health: str) -> Report | str:
        return self.answer

    async def round(self) -> Binding:
        await self.controller.round()
        return (await load_all(self.state, BINDINGS, Binding))["one"]


@pytest.fixture
async def fleet() -> Fleet:
    fleet = Fleet()
    await store(fleet.state, BINDINGS, "one", Binding("one", "192.0.2.1", "mx.example"))
    return fleet


async def test_a_round_writes_who_owns_a_binding(fleet: Fleet) -> None:
    """The binding's row names the proxy's SOCKS address; name, IP and EHLO name stay."""
    binding = await fleet.round()
    assert (binding.proxy, binding.alive) == ("127.0.0.1:1080", True)
    assert (binding.name, binding.ip, binding.ehlo) == ("one", "192.0.2.1", "mx.example")


async def test_quiet_rounds_write_nothing(fleet: Fleet) -> None:
    """The row's version stays while nothing changes, alive or dead."""
    await fleet.round()
    await fleet.round()
    assert fleet.state.rows[BINDINGS, "one"].version == 2
    fleet.answer = "gone"
    for _ in range(5):
        await fleet.round()
    assert fleet.state.rows[BINDINGS, "one"].version == 3


async def test_transitions_are_logged_with_their_reason(fleet: Fleet) -> None:
    """One line per change of a binding."""
    with capture_logs() as lines:
        await fleet.round()
        fleet.answer = "timeout"
        for _ in range(3):
            await fleet.round()
    assert [(line["event"], line["reason"]) for line in lines] == [
        ("binding_alive", ""),
        ("binding_dead", "p: no answer: timeout"),
    ]


async def test_changes_of_others_are_kept(fleet: Fleet) -> None:
    """A row changed between reading and writing keeps that change."""
    query = fleet.state.query

    async def query_then_rename(partition: str, **options: object) -> object:
        rows = await query(partition, **options)
        await store(fleet.state, BINDINGS, "one", Binding("one", "192.0.2.1", "new.example"))
        fleet.state.query = query
        return rows

    fleet.state.query = query_then_rename
    binding = await fleet.round()
    assert (binding.ehlo, binding.alive) == ("new.example", True)


async def test_an_ip_without_a_binding_is_named_once(fleet: Fleet) -> None:
    """A source that no binding names is logged when it appears and never made into a binding."""
    fleet.answer = Report((SourceReport("192.0.2.1", True), SourceReport("192.0.2.9", True)))
    with capture_logs() as lines:
        await fleet.round()
        await fleet.round()
    assert [line["ip"] for line in lines if line["event"] == "source_without_binding"] == ["192.0.2.9"]
    assert list(await load_all(fleet.state, BINDINGS, Binding)) == ["one"]


async def test_rounds_probe_over_the_network(serve: Serve, fleet: Fleet) -> None:
    """Controller and probe together turn an HTTP answer into a row."""
    report = msgspec.json.encode(Report((SourceReport("192.0.2.1", True),)))
    site = ProxySite("q", "127.0.0.1:1090", await serve(HEAD + report), ())
    fleet.controller = FleetController(fleet.state, [site], partial(probe, timeout=2), SystemClock())
    assert (await fleet.round()).proxy == "127.0.0.1:1090"


async def test_a_refused_binding_is_dead_with_the_reason(fleet: Fleet) -> None:
    """Whoever owns its IP, a binding that is refused sends nothing until it is not refused any more."""
    refusal = "PTR of 192.0.2.1 names other.example, not mx.example"

    async def refuse(_binding: Binding) -> str:
        return refusal

    site = ProxySite("p", "127.0.0.1:1080", "127.0.0.1:1081", ())
    fleet.controller = FleetController(fleet.state, [site], fleet.probe, SystemClock(), refuse)
    binding = await fleet.round()
    assert (binding.alive, binding.proxy, binding.reason) == (False, "", refusal)
    await fleet.round()
    assert fleet.state.rows[BINDINGS, "one"].version == 2
    refusal = ""
    assert (await fleet.round()).alive
