"""Clients of the simulated platform: they hand mail over and write down what they know of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from simulation.services import Platform

from postfleet.accept import Acceptor
from postfleet.evidence import FAILED, INDETERMINATE, OK, HandOver
from postfleet.ports import Refused, StorageError
from postfleet.stages import Message, Submission

PATIENCE = 60.0
"""Seconds that a client waits for its answer."""
RETRIES = 4
RETRY_AFTER = 3.0

Attempt = Callable[[Acceptor], Coroutine[Any, Any, str]]


def submission(identity: str, tenant: int, recipients: Sequence[str]) -> Submission:
    return Submission(
        id=identity,
        tenant=tenant,
        content=f"Subject: from {tenant}\r\n\r\nto {', '.join(recipients)}\r\n".encode(),
        content_kind="raw",
        messages=tuple(Message(index, address) for index, address in enumerate(recipients)),
        sending_domain="sender.test",
        bounce_domain="bounces.test",
    )


class Client:
    """`hand_overs` is its log."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self.hand_overs: list[HandOver] = []

    async def send(self, tenant: int, recipients: Sequence[str]) -> None:
        """Once, without a key."""
        status, answer = await self._ask(partial(_accept, tenant, recipients))
        self._log(recipients, status, answer)

    async def send_keyed(self, tenant: int, key: str, recipients: Sequence[str]) -> None:
        """With the same idempotency key until there is an answer, or patience ends."""
        seen: set[str] = set()
        for _ in range(RETRIES):
            status, answer = await self._ask(partial(_accept_keyed, tenant, key, recipients))
            seen.add(status)
            if status == OK:
                return self._log(recipients, status, answer)
            await asyncio.sleep(RETRY_AFTER)
        self._log(recipients, INDETERMINATE if INDETERMINATE in seen else FAILED, answer)

    async def _ask(self, attempt: Attempt) -> tuple[str, str]:
        """(status, transmission id or reason)."""
        process, acceptor = self._platform.processes["ingest"], self._platform.acceptors.get("ingest")
        if process.dead or acceptor is None:
            return FAILED, "nobody listens"
        answer = process.spawn(attempt(acceptor))
        gone = asyncio.ensure_future(process.ended.wait())
        await asyncio.wait({answer, gone}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not answer.done():
            return INDETERMINATE, "no answer"
        try:
            return OK, answer.result()
        except Refused as error:
            return FAILED, str(error)
        except StorageError as error:
            return INDETERMINATE, str(error)

    def _log(self, recipients: Sequence[str], status: str, answer: str) -> None:
        world = self._platform.world
        transmission, detail = (answer, "") if status == OK else ("", answer)
        world.note(None, "handed over", f"{status} {answer}")
        now = world.loop.time()
        self.hand_overs.append(HandOver(now, "http", transmission, tuple(recipients), status, detail))


async def _accept(tenant: int, recipients: Sequence[str], acceptor: Acceptor) -> str:
    made = submission(acceptor.new_id(), tenant, recipients)
    await acceptor.accept(made)
    return made.id


async def _accept_keyed(tenant: int, key: str, recipients: Sequence[str], acceptor: Acceptor) -> str:
    identity, _ = await acceptor.accept_keyed(
        tenant, key, "digest", lambda given: submission(given, tenant, recipients)
    )
    return identity
