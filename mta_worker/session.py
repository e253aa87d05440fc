"""One SMTP connection through the proxy: dial, greet, then one message after the other.

The next final dot on a connection, and its QUIT, wait until the outcome of the
message before is durable; MAIL, RCPT and DATA of the next message go out
meanwhile. Neither MAIL nor a final dot is sent unless this worker's lease is good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from msgspec import Struct

from mta_worker.verdict import BounceClass, Scope, Verdict, judge_refused_dial, judge_reply
from postfleet.dns.site_resolver import Target
from postfleet.smtp.client import BodyWanted, Client, Closing, Idle, ProtocolError, Ready, Result
from postfleet.socks.client import Refused, SocksClient, first_bytes
from postfleet.stages import DEFERRED

if TYPE_CHECKING:
    from mta_worker.order import Job
    from mta_worker.postman import Postman
    from mta_worker.route import Route

INDETERMINATE = "connection lost after the final dot, before its reply: the message may arrive twice"


class DialFailure(Struct, frozen=True):
    """Why there is no session. `wait`: seconds to stay away, at a connection limit."""

    verdict: Verdict
    reason: str
    wait: float = 0.0


class Session(asyncio.Protocol):
    """`opened` resolves to the session itself once it has taken its place in the route, or to a `DialFailure`."""

    def __init__(self, postman: Postman, route: Route, target: Target, token: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._postman = postman
        self._route = route
        self._mx = f"{target.host} [{target.address}]"
        self._request = first_bytes(route.binding.ip, token, target.address, target.port)
        self._socks: SocksClient | None = SocksClient()
        self._smtp = Client(route.binding.ehlo)
        self._transport: asyncio.Transport | None = None
        self._source_ip = ""
        self._job: Job | None = None
        self._journalled: asyncio.Future[None] | None = None
        """Durability of the outcome before: gates the next final dot, and QUIT."""
        self._messages_left = route.site.profile.messages_per_connection or postman.settings.messages_per_connection
        self._deadline = float("inf")
        self._timer: asyncio.TimerHandle | None = None
        self.idle_since = 0.0
        self.opened: asyncio.Future[Session | DialFailure] = self._loop.create_future()

    # ------------------------------------------------------------ the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)
        self._expect_within(self._postman.settings.connect_timeout)

    def data_received(self, data: bytes) -> None:
        if self._socks is not None:
            self._hear_proxy(data)
        else:
            self._hear_host(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._socks is not None:
            self._not_opened(judge_refused_dial(1), "the proxy closed the connection")
            return
        self._handle(self._smtp.eof())
        self._route.closed(self)

    def _hear_proxy(self, data: bytes) -> None:
        assert self._socks is not None
        answer = self._socks.receive(data)
        if answer is None:
            return
        self._socks = None
        if isinstance(answer, Refused):
            self._not_opened(judge_refused_dial(answer.code), f"{self._mx}: {answer.reason}", answer.wait_seconds)
            self.abort()
            return
        self._source_ip = answer.bound_host
        self._hear_host(answer.rest)

    def _hear_host(self, data: bytes) -> None:
        self._handle(self._smtp.receive(data))

    def _handle(self, events: list[Ready | BodyWanted | Result | Idle | Closing | ProtocolError]) -> None:
        for event in events:
            match event:
                case Ready():
                    self._ready()
                case BodyWanted():
                    self._body_wanted()
                case Result():
                    self._result(event)
                case Idle():
                    self._next()
                case Closing() | ProtocolError():
                    self._over(event)
        self._flush()

    def _flush(self) -> None:
        """Send what the machine has to say, and expect an answer in the phase's time."""
        if self._transport is None or self._transport.is_closing():
            return
        output = self._smtp.data_to_send()
        if output:
            self._transport.write(output)
        if self._smtp.closed:
            self._transport.close()
        elif self._smtp.deadline is not None:
            self._expect_within(self._smtp.deadline)
        else:
            self._deadline = float("inf")

    # ------------------------------------------------------------ opening

    def _ready(self) -> None:
        if not self.opened.done():
            self.opened.set_result(self)
            self._route.opened(self)

    def _not_opened(self, verdict: Verdict, reason: str, wait: float = 0.0) -> None:
        if not self.opened.done():
            self.opened.set_result(DialFailure(verdict, reason, wait))

    # ------------------------------------------------------------ messages

    def start(self, job: Job) -> None:
        """Send MAIL, RCPT and DATA for a job; called while the session has none."""
        if not self._postman.leases.good():
            self._route.lease_ran_out(job)
            return self.quit()
        self._job = job
        refused = self._smtp.mail(
            self._postman.return_path(job), job.message.address, len(job.data), eight_bit=not job.data.isascii()
        )
        if refused is not None:
            self._result(refused)
            self._loop.call_soon(self._next)
        self._flush()

    def _body_wanted(self) -> None:
        self._once_durable(self._send_body)

    def _once_durable(self, action: Callable[[], None]) -> None:
        if self._journalled is None or self._journalled.done():
            action()
        else:
            self._journalled.add_done_callback(lambda _: action())

    def _send_body(self) -> None:
        if self._transport is None or self._transport.is_closing() or self._job is None:
            return
        if not self._postman.leases.good():
            return self.abort()
        self._transport.writelines(self._smtp.body(self._job.data))
        self._flush()

    def _result(self, result: Result) -> None:
        verdict = judge_reply(result.stage, result.reply)
        reply = str(result.reply)
        job, self._job = self._job, None
        if job is None:
            self._not_opened(verdict, f"{self._mx}: {reply}")
            return
        self._journalled = self._postman.conclude(
            job, verdict, reply, code=result.reply.code, mx=self._mx, source_ip=self._source_ip
        )
        self._messages_left -= 1
        if verdict.block:
            self._postman.suspend(self._route.binding, self._route.site.limit_key, reply)

    def _next(self) -> None:
        if self._job is not None:
            return
        if self._messages_left > 0:
            self._route.ready(self)
        else:
            self.quit()

    # ------------------------------------------------------------ the end

    def quit(self) -> None:
        """A connection that ended without QUIT may have lost its last reply; one with QUIT has not."""
        self._once_durable(self._say_quit)

    def _say_quit(self) -> None:
        self._smtp.quit()
        self._flush()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def retreat(self) -> None:
        """End it, unless a message may have been taken: its reply is waited for."""
        if self._smtp.stage != "final":
            self._handle_timeout()

    def _over(self, event: Closing | ProtocolError) -> None:
        job, self._job = self._job, None
        if isinstance(event, Closing):
            reason = str(event.reply) if event.reply else "connection lost"
        else:
            reason = event.reason
        self._not_opened(Verdict(DEFERRED, Scope.HOST, BounceClass.TRANSIENT), f"{self._mx}: {reason}")
        self._route.closed(self)
        if job is None:
            return
        if event.indeterminate:
            verdict = Verdict(DEFERRED, Scope.MESSAGE, BounceClass.TRANSIENT)
            self._postman.conclude(job, verdict, f"{INDETERMINATE} ({reason})", mx=self._mx, source_ip=self._source_ip)
        else:
            self._route.untried(job, f"{self._mx}: {reason} at {event.stage}")

    # ------------------------------------------------------------ deadlines

    def _expect_within(self, seconds: float) -> None:
        """One timer a session, moved lazily: most deadlines are met."""
        self._deadline = self._loop.time() + seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        if self._loop.time() >= self._deadline:
            self._handle_timeout()
        elif self._deadline != float("inf"):
            self._timer = self._loop.call_at(self._deadline, self._time_is_up)

    def _handle_timeout(self) -> None:
        if self._socks is not None:
            self._socks = None
            self._not_opened(judge_refused_dial(1), "the proxy did not answer in time")
        self._handle(self._smtp.eof())
        self.abort()
