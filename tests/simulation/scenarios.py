"""Named scenarios: for each rule one precise interleaving that is harmless with the rule and breaks a promise without.

The last two name no rule that can be taken out: a message that ends every process that renders it, and lanes
that share the room of a worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from msgspec.structs import replace
from simulation.breaks import BREAKS
from simulation.client import Client
from simulation.findings import violations
from simulation.loop import OWNER, Deadlock
from simulation.mx import Behaviour
from simulation.ports import duplicate
from simulation.scenario import Report
from simulation.services import SETTINGS, Platform, small_sizes
from simulation.world import Action, Call, Hook, Point, World, before, crash, fail, land_late, landed, lose_reply, pause

import mta_worker.contents
from postfleet.audit import END_OF_EVENT
from postfleet.event_log import read_events
from postfleet.stages import Message, Transmission

HORIZON = 3600.0
SEED = 1


class Stage:
    """One platform without faults of chance, and the hooks that direct what happens on it."""

    def __init__(self, connections: int = 2, **settings: Any) -> None:
        self.world = World(SEED, horizon=HORIZON)
        self.platform = Platform(self.world, settings=replace(SETTINGS, **settings), connections=connections)
        self.client = Client(self.platform)
        self._hooks: list[Hook] = []

    def behave(self, recipient: str, **behaviour: Any) -> None:
        self.platform.mx.behaviours[recipient] = Behaviour(**behaviour)

    def on(self, process: str, point: Point, *actions: Action) -> asyncio.Event:
        """A hook that has to fire; the event says that it has."""
        fired = asyncio.Event()
        self._hooks.append(self.world.on(process, point, *actions, lambda _: fired.set()))
        return fired

    async def open(self, *names: str) -> None:
        """Start these, and give them time for their leases and snapshots."""
        await self.platform.furnish()
        await self.start("ingest", "router-1", *names)

    async def start(self, *names: str) -> None:
        for name in names:
            self.platform.start(name)
        await asyncio.sleep(1.0)

    async def perform(self, play: Callable[[Stage], Awaitable[None]]) -> list[str]:
        await play(self)
        await self.platform.drain()
        idle = [hook for hook in self._hooks if not hook.fired]
        assert not idle, f"{len(idle)} hooks found nothing to take hold of"
        return await violations(self.platform, self.client)


def run_scenario(name: str, breaks: Collection[str] = ()) -> Report:
    stage = Stage(**OPTIONS.get(name, {}))
    with ExitStack() as stack:
        stack.enter_context(small_sizes())
        for each in breaks:
            stack.enter_context(BREAKS[each]())
        try:
            found = stage.world.run(stage.perform(SCENARIOS[name]))
        except Deadlock as error:
            found = [f"not drained: {error}"]
    return Report(SEED, found, stage.world)


def _is_done(call: Call) -> bool:
    return b'"state":"done"' in call.args[0]


def _has_entries(call: Call) -> bool:
    return bool(call.result)


# ---------------------------------------------------------------- accept, plan, park


async def _recut(stage: Stage) -> None:
    """The router dies when one of two Orders is sent; the next one finds the first Order's site suspended."""
    stage.on("router-1", before("queue.send", "tail-0"), fail)
    died = stage.on("router-1", landed("queue.send", "tail-1"), crash)
    await stage.open("worker-1")
    await stage.client.send(1, ["r1@a.test", "r2@a.test", "r3@c.test", "r4@c.test"])
    await died.wait()
    await asyncio.sleep(5.0)
    await stage.platform.suspend("b1", "a.test", 100.0)
    await stage.platform.suspend("b2", "a.test", 100.0)
    await stage.start("router-1")


async def _key_before_entry(stage: Stage) -> None:
    """Ingest dies before it sends the entry; the client comes again with its key."""
    died = stage.on("ingest", before("queue.send", "units"), crash)
    await stage.open("worker-1")
    sending = asyncio.ensure_future(stage.client.send_keyed(1, "key", ["r1@a.test"]))
    await died.wait()
    await stage.start("ingest")
    await sending


async def _sweep_loss(stage: Stage) -> None:
    """The router dies when it has deleted a due row."""
    stage.behave("r1@a.test", defer=1)
    died = stage.on("router-1", landed("state.delete_if", "due/"), crash)
    await stage.open("worker-1")
    await stage.client.send(1, ["r1@a.test"])
    await died.wait()
    await stage.start("router-1")


async def _early_ack(stage: Stage) -> None:
    """Of an entry's two Orders one is done and one open when the worker dies; its successor cannot take over yet."""
    stage.behave("r2@b.test", slow=8.0)
    await stage.platform.suspend("b1", "a.test", 600.0)
    await stage.platform.suspend("b2", "b.test", 600.0)
    died = stage.on("worker-1", landed("state.put_if", "claim/", where=_is_done), crash)
    await stage.open("worker-1")
    await stage.client.send(1, ["r1@a.test", "r2@b.test"])
    await died.wait()
    await asyncio.sleep(stage.platform.settings.visibility - 8.0)
    await stage.start("worker-2")


# ---------------------------------------------------------------- deliver, finish


async def _ack_before_park(stage: Stage) -> None:
    """The worker dies when the Order of a deferred message is done."""
    stage.behave("r1@a.test", defer=1)
    died = stage.on("worker-1", landed("state.put_if", "claim/", where=_is_done), crash)
    await stage.open("worker-1")
    await stage.client.send(1, ["r1@a.test"])
    await died.wait()
    await stage.start("worker-2")


async def _same_worker_dup(stage: Stage) -> None:
    """A second copy of the entry reaches the worker that is delivering it."""
    stage.behave("r1@a.test", slow=10.0)
    stage.on("worker-1", landed("queue.receive", "tail-1", where=_has_entries), duplicate(1.0))
    await stage.open("worker-1")
    await stage.client.send(1, ["r1@a.test"])


async def _late_dup(stage: Stage) -> None:
    """A second copy of the entry comes when the Order is done and acknowledged."""
    stage.on("worker-1", landed("queue.receive", "tail-1", where=_has_entries), duplicate(30.0))
    await stage.open("worker-1")
    await stage.client.send(1, ["r1@a.test"])


async def _merge_dup(stage: Stage) -> None:
    """Two messages are deferred until different times, one is due when the Order ends, and the worker dies when that
    one's park is stored."""
    stage.behave("r1@a.test", defer=1)
    stage.behave("r2@a.test", defer=1, at_dot=True, slow=50.0)
    died = stage.on("worker-1", landed("queue.send", "units"), crash)
    await stage.open("worker-1")
    await stage.client.send(1, ["r1@a.test", "r2@a.test"])
    await died.wait()
    await stage.start("worker-2")


async def _rebind_unjournalled(stage: Stage) -> None:
    """No binding has a proxy, so the message goes back; the worker dies when it is parked, and the proxies return."""
    died = stage.on("worker-1", landed("queue.send", "units"), crash)
    await stage.open()
    await stage.platform.set_binding("b1", proxy="")
    await stage.platform.set_binding("b2", proxy="")
    await stage.start("worker-1")
    await stage.client.send(1, ["r1@a.test"])
    await died.wait()
    await stage.platform.furnish()
    await stage.start("worker-2")


async def _journal_rewrite(stage: Stage) -> None:
    """A journal write lands and its reply is lost; before it is repeated, the next outcome comes. The worker dies
    when both connections have ended with QUIT."""
    stage.behave("r2@a.test", slow=0.12)
    stage.on("worker-1", before("state.put_if_absent", "journal/"), lose_reply)
    died = stage.on("worker-1", before("blobs.put", "events/"), crash)
    await stage.open("worker-1")
    await stage.client.send(1, ["r1@a.test", "r2@a.test"])
    await died.wait()
    await stage.start("worker-2")


# ---------------------------------------------------------------- ownership


async def _chain_takeover(stage: Stage) -> None:
    """A worker dies at its second message, its successor at its claim; the third must know of the first message."""
    first = stage.on("worker-1", landed("mx.dot", nth=2), crash)
    second = stage.on("worker-2", landed("state.put_if", "claim/"), crash)
    await stage.open("worker-1")
    await stage.client.send(1, ["r1@a.test", "r2@a.test", "r3@a.test"])
    await first.wait()
    await stage.start("worker-2")
    await second.wait()
    await stage.start("worker-3")


async def _unsealed_journal(stage: Stage) -> None:
    """A worker is cut off from the state table while the outcome of a deferred message is on its way there. The row
    lands after another worker has taken over and delivered; then the first one hears of it."""
    world, cut_off, late = stage.world, 40.0, 35.0
    stage.behave("r1@a.test", defer=1, at_dot=True)

    def isolate(call: Call) -> None:
        world.throttle(call.process, "state", cut_off)
        world.on("worker-1", before("state.put_if", "lease/", where=lambda renewal: renewal.begun > end), fail)
        end = world.loop.time() + cut_off

    held = stage.on("worker-1", landed("queue.receive", "tail-1", where=_has_entries), duplicate(20.0))
    stage.on("worker-1", before("state.put_if_absent", "journal/"), land_late(late), isolate)
    await stage.open("worker-1")
    await stage.client.send(1, ["r1@a.test"])
    await held.wait()
    await stage.start("worker-2")


async def _lease_gate(stage: Stage) -> None:
    """A worker stands still past its lease between two messages of a connection, and nobody takes over."""
    stage.on("worker-1", landed("mx.dot"), pause(30.0))
    await stage.open("worker-1")
    await stage.client.send(1, ["r1@a.test", "r2@a.test"])


async def _clock_steal(stage: Stage) -> None:
    """A copy of the entry reaches a worker whose wall clock is an hour ahead, while its owner delivers."""
    stage.behave("r1@a.test", slow=30.0)
    held = stage.on("worker-1", landed("queue.receive", "tail-1", where=_has_entries), duplicate(3.0))
    await stage.open("worker-1")
    await stage.client.send(1, ["r1@a.test"])
    await held.wait()
    await stage.start("worker-2")
    stage.platform.processes["worker-2"].clock.step(3600.0)


async def _poison(stage: Stage) -> None:
    """One of three messages ends every process that renders it."""
    with patch("mta_worker.order.build", _build_poison):
        await stage.open()
        stage.platform.keep("worker-1")
        await stage.client.send(1, ["r1@a.test", POISON, "r3@a.test"])
        await stage.platform.drain()
    events = [event async for event in read_events(stage.platform.stores.blobs)]
    ends = {event.rcpt_to: event.type for event in events if event.type in END_OF_EVENT}
    assert ends == {"r1@a.test": "delivery", POISON: "failed", "r3@a.test": "delivery"}


POISON = "poison@a.test"


def _build_poison(content: mta_worker.contents.Content, transmission: Transmission, message: Message) -> bytes:
    process = OWNER.get()
    if message.address == POISON and process is not None:
        process.crash()  # type: ignore[attr-defined]
    return mta_worker.contents.build(content, transmission, message)


async def _shared_room(stage: Stage) -> None:
    """One lane's Order fills the worker while the other lane looks for room; then mail comes on that other lane."""
    stage.behave("r1@a.test", slow=25.0)
    await stage.open("worker-1")
    await stage.client.send(1, ["r1@a.test"])
    await asyncio.sleep(40.0)
    await stage.client.send(1, ["r2@c.test"])


SCENARIOS: dict[str, Callable[[Stage], Awaitable[None]]] = {
    "recut": _recut,
    "ack-before-park": _ack_before_park,
    "chain-takeover": _chain_takeover,
    "unsealed-journal": _unsealed_journal,
    "same-worker-dup": _same_worker_dup,
    "late-dup": _late_dup,
    "merge-dup": _merge_dup,
    "key-before-entry": _key_before_entry,
    "rebind-unjournalled": _rebind_unjournalled,
    "early-ack": _early_ack,
    "sweep-loss": _sweep_loss,
    "journal-rewrite": _journal_rewrite,
    "lease-gate": _lease_gate,
    "clock-steal": _clock_steal,
    "poison": _poison,
    "shared-room": _shared_room,
}
"""By the name of the rule in `BREAKS`."""

OPTIONS: dict[str, dict[str, Any]] = {
    "chain-takeover": {"connections": 1},
    "unsealed-journal": {"worker_orders": 1},
    "merge-dup": {"connections": 1, "retry_first": 30.0},
    "sweep-loss": {"retry_first": 30.0},
    "journal-rewrite": {"messages_per_connection": 1},
    "lease-gate": {"connections": 1},
    "clock-steal": {"worker_orders": 1},
    "shared-room": {"worker_orders": 1},
}
"""Of `Stage`."""
