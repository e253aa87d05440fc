"""The worker: capacity first, then Orders from every lane; one lease, one journal, one exit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from mta_worker.order import OrderRunner
from mta_worker.postman import Postman
from postfleet.consume import Consumer
from postfleet.directory import Directory
from postfleet.lease import LeaseKeeper
from postfleet.ports import Backends, StorageError
from postfleet.settings import Settings
from postfleet.stages import Order, decode_order_entry

log = structlog.get_logger()


class Worker:
    def __init__(
        self,
        backends: Backends,
        *,
        lanes: Sequence[str],
        runner: OrderRunner,
        postman: Postman,
        leases: LeaseKeeper,
        directory: Directory,
        settings: Settings,
    ) -> None:
        self._postman = postman
        self._leases = leases
        self._directory = directory
        self._settings = settings
        freed = asyncio.Event()
        self._consumers = [
            Consumer(
                backends.queue(lane),
                _orders,
                runner.handle,
                room=self._room,
                extend_every=settings.visibility_extend,
                linger=settings.receive_linger,
                ack_window=settings.ack_window,
                weigh=_weight,
                freed=freed,
            )
            for lane in lanes
        ]

    async def run(self) -> None:
        """Until `stop`; returns once no Order is held."""
        await self._leases.start()
        await self._leases.observe()
        await self._directory.refresh()
        side = [
            asyncio.create_task(self._leases.run()),
            asyncio.create_task(self._postman.run()),
            asyncio.create_task(self._keep_fresh()),
        ]
        try:
            await asyncio.gather(*(consumer.run() for consumer in self._consumers))
            await self._leases.stop()
        finally:
            for task in side:
                task.cancel()

    def stop(self) -> None:
        """Take nothing more; finish the messages whose transaction runs, release the rest."""
        for consumer in self._consumers:
            consumer.stop()
        self._postman.stop()

    def _room(self) -> int:
        if sum(consumer.load for consumer in self._consumers) >= self._settings.worker_messages:
            return 0
        return self._settings.worker_orders - sum(consumer.in_flight for consumer in self._consumers)

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self._settings.snapshot_refresh)
            try:
                await self._directory.refresh()
            except StorageError as error:
                log.warning("snapshot_not_renewed", error=str(error))


def _weight(order: Order) -> int:
    return sum(len(group.messages) for group in order.groups)


def _orders(body: bytes) -> Sequence[Order]:
    return decode_order_entry(body).orders
