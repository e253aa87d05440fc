from __future__ import annotations

import asyncio

import pytest
from simulation.mx import Behaviour, cut
from simulation.net import SimNetwork
from simulation.toy import Client, Setting
from simulation.world import before, crash, landed, pause

from postfleet.evidence import CUT, EOF, QUIT, LedgerConnection, LedgerMessage
from postfleet.socks.client import Connected, SocksClient, first_bytes


def _talk(setting: Setting, recipients: list[str], quits: bool = True) -> list[str]:
    process, _ = setting.process()
    replies: list[str] = []

    async def body() -> None:
        _, client = await SimNetwork(process, setting.mx).connect(lambda: Client(recipients, quits), "proxy", 1080)
        client.replies = replies
        await client.done

    async def main() -> None:
        process.start(body())
        await asyncio.wait([asyncio.create_task(process.ended.wait())], timeout=60.0)
        process.crash()
        await asyncio.sleep(5.0)

    setting.run(main())
    return replies


def _taken(setting: Setting) -> list[tuple[str, int]]:
    return [(record.message_id, record.order) for record in setting.mx.ledger if isinstance(record, LedgerMessage)]


def _ends(setting: Setting) -> list[str]:
    return [record.end for record in setting.mx.ledger if isinstance(record, LedgerConnection)]


def test_messages_of_a_connection_are_in_the_ledger(setting: Setting) -> None:
    """The ledger names each message, its place on its connection, and that the connection ended with QUIT."""
    replies = _talk(setting, ["a@x.test", "b@x.test"])
    assert replies == ["220", "250", "250", "250", "354", "250", "250", "250", "354", "250", "221"]
    assert _taken(setting) == [("t.0", 1), ("t.1", 2)]
    assert _ends(setting) == [QUIT]


@pytest.mark.parametrize(
    ("behaviour", "reply", "taken"),
    [
        (Behaviour(defer=1), "503", 0),
        (Behaviour(bounce=True), "503", 0),
        (Behaviour(bounce=True, at_dot=True), "550", 0),
        (Behaviour(defer=1, at_dot=True), "451", 0),
        (Behaviour(slow=20.0), "250", 1),
        (Behaviour(cut=1), "354", 1),
    ],
)
def test_recipients_behave_as_the_table_says(setting: Setting, behaviour: Behaviour, reply: str, taken: int) -> None:
    """Deferrals, bounces, slow replies and cuts come at the phase that is asked for."""
    setting.mx.behaviours["a@x.test"] = behaviour
    assert reply in _talk(setting, ["a@x.test"], quits=False)
    assert len(_taken(setting)) == taken


def test_a_crash_after_the_final_dot_leaves_a_message_and_no_quit(setting: Setting) -> None:
    """When the dialling process dies, its connections end with EOF and without QUIT."""
    setting.world.on("w1", landed("mx.dot", "a@x.test"), crash)
    assert _talk(setting, ["a@x.test", "b@x.test"])[-1] == "354"
    assert _taken(setting) == [("t.0", 1)]
    assert _ends(setting) == [EOF]


def test_a_cut_before_the_message_is_taken_leaves_nothing(setting: Setting) -> None:
    """A hook at the arrival of the final dot can lose message and reply."""
    setting.world.on("w1", before("mx.dot"), cut)
    _talk(setting, ["a@x.test"])
    assert _taken(setting) == []
    assert _ends(setting) == [CUT]


def test_a_paused_process_keeps_its_connections(setting: Setting) -> None:
    """During a pause the MX's replies wait, and afterwards the dialogue goes on."""
    setting.world.on("w1", landed("mx.dot", "a@x.test"), pause(30.0))
    assert _talk(setting, ["a@x.test"])[-1] == "221"
    assert setting.world.loop.time() > 30.0
    assert _ends(setting) == [QUIT]


def test_replies_wait_while_reading_is_paused(setting: Setting) -> None:
    """A transport that does not read gets nothing, and all of it in order afterwards."""
    process, _ = setting.process()
    heard: list[bytes] = []

    class Listener(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            heard.append(data)

    async def body() -> list[bytes]:
        transport, _ = await SimNetwork(process, setting.mx).connect(Listener, "proxy", 1080)
        transport.write(first_bytes("192.0.2.1", "token", "198.51.100.1", 25))
        transport.pause_reading()
        transport.write(b"EHLO client\r\nNOOP\r\n")
        await asyncio.sleep(5.0)
        before = list(heard)
        transport.resume_reading()
        await asyncio.sleep(5.0)
        return before

    async def main() -> list[bytes]:
        return await process.spawn(body())

    assert setting.run(main()) == []
    connected = SocksClient().receive(b"".join(heard))
    assert isinstance(connected, Connected)
    replies = connected.rest.splitlines()
    assert (replies[0], replies[-2:]) == (b"220 mx.simulated ESMTP", [b"250 SIZE 52428800", b"250 ok"])


def test_the_proxy_says_that_an_mx_is_down(setting: Setting) -> None:
    """A target that is down is a SOCKS reply, and leaves no connection in the ledger."""
    setting.mx.down.add("198.51.100.1")
    assert _talk(setting, ["a@x.test"]) == []
    assert setting.mx.ledger == []


def test_a_refused_dial_raises(setting: Setting) -> None:
    """While the MX is down, dials fail as the operating system's do."""
    setting.mx.down.add("proxy")
    process, _ = setting.process()

    async def main() -> None:
        await process.spawn(SimNetwork(process, setting.mx).connect(asyncio.Protocol, "proxy", 1080))

    with pytest.raises(ConnectionRefusedError):
        setting.run(main())
