"""A small platform to test the harness with: claims, mail and acks, without any of the protocol's care."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from simulation.faults import CALM, ROUGH, Faults
from simulation.mx import SimMx
from simulation.net import SimNetwork
from simulation.ports import SimBackends, shared_stores
from simulation.process import SimProcess
from simulation.world import World

from postfleet.ports import Outgoing, Unavailable
from postfleet.socks.client import Connected, SocksClient, first_bytes


class Setting:
    """A world with stores, and processes that use them."""

    def __init__(self, seed: int = 1, faults: Faults = CALM) -> None:
        self.world = World(seed, faults, horizon=3600.0)
        self.stores = shared_stores(self.world)
        self.mx = SimMx(self.world, lambda sender: sender.partition("@")[0])

    def process(self, name: str = "w1") -> tuple[SimProcess, SimBackends]:
        process = self.world.process(name)
        return process, SimBackends(process, self.stores)

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        return self.world.run(main)


class Client(asyncio.Protocol):
    """Sends messages one after the other, stepwise, and then QUIT."""

    def __init__(self, recipients: list[str], quits: bool = True) -> None:
        self.replies: list[str] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines = ["EHLO client"]
        for n, recipient in enumerate(recipients):
            self._lines += [f"MAIL FROM:<t.{n}@b.test>\r\nRCPT TO:<{recipient}>\r\nDATA", "body\r\n."]
        self._lines += ["QUIT"] if quits else []
        self._partial = b""
        self._socks: SocksClient | None = SocksClient()
        self._awaited = 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(first_bytes("192.0.2.1", "token", "198.51.100.1", 25))

    def data_received(self, data: bytes) -> None:
        if self._socks is not None:
            answer = self._socks.receive(data)
            if not isinstance(answer, Connected):
                return
            self._socks, data = None, answer.rest
        *lines, self._partial = (self._partial + data).split(b"\r\n")
        for line in lines:
            if line[3:4] != b"-":
                self.replies.append(line[:3].decode())
                self._awaited -= 1
        if not self._awaited:
            self._next()

    def _next(self) -> None:
        if self._lines:
            step = self._lines.pop(0)
            self._awaited = 1 if step.startswith("body") else step.count("\r\n") + 1
            self._transport.write(step.encode() + b"\r\n")

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def send_one(process: SimProcess, mx: SimMx, recipient: str) -> None:
    _, client = await SimNetwork(process, mx).connect(lambda: Client([recipient]), "proxy", 1080)
    await client.done


def toy_life(seed: int) -> World:
    """Workers that die, stop and come back, deliver numbered entries by way of the MX under all faults."""
    setting = Setting(seed, ROUGH)
    world = setting.world

    async def deliver(process: SimProcess, ports: SimBackends, body: bytes, handle: str) -> None:
        await ports.state.put_if_absent("claim", body.decode(), process.id.encode())
        await send_one(process, setting.mx, f"{body.decode()}@x.test")
        await ports.queue("q").ack([handle])

    async def work(process: SimProcess, ports: SimBackends) -> None:
        while True:
            try:
                entries = await ports.queue("q").receive(5, 10.0)
                async with asyncio.timeout(20.0), asyncio.TaskGroup() as group:
                    for entry in entries:
                        group.create_task(deliver(process, ports, entry.body, entry.handle))
            except (Unavailable, ExceptionGroup, TimeoutError):
                await asyncio.sleep(process.rng.random())

    def pause(process: SimProcess) -> None:
        process.pause(7.0)

    befalls = (SimProcess.crash, pause, SimProcess.resume)

    async def main() -> None:
        await setting.stores.queue("q").send([Outgoing(b"%d" % n) for n in range(30)])
        for round_ in range(6):
            process, ports = setting.process(f"w{round_ % 3}")
            process.start(work(process, ports))
            await asyncio.sleep(world.rng.uniform(0.1, 5.0))
            befall = world.rng.choice(befalls)
            befall(process)
        await asyncio.sleep(60.0)

    world.run(main())
    return world
