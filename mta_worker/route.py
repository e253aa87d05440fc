"""Mail from one binding to one site: the jobs that wait, and the sessions that take them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

import structlog

from mta_worker.order import Job
from mta_worker.session import DialFailure, Session
from mta_worker.verdict import BounceClass, Scope, Verdict
from postfleet.directory import Binding
from postfleet.dns.answers import TempFail
from postfleet.dns.site_resolver import NoAddress
from postfleet.dns.sites import Site
from postfleet.stages import DEFERRED, REBIND

if TYPE_CHECKING:
    from mta_worker.postman import Postman

log = structlog.get_logger()

LONGEST_HOLD = 30.0
"""A job that found no session for so long goes back to the router, seconds."""
IDLE = 5.0
"""A session without a job is closed after this, seconds."""
LEASE_PAUSE = 0.5
LAST_CHANCE = 5.0
"""A transaction through a proxy that is gone has so long to come to its final dot, seconds."""
RECONNECTS = 2
"""So often a job moves to another session after one was lost before its final dot."""


class Route:
    def __init__(self, postman: Postman, binding: Binding, site: Site) -> None:
        self._postman = postman
        self.binding = binding
        self.site = site
        self._jobs: deque[Job] = deque()
        self._sessions: set[Session] = set()
        self._idle: list[Session] = []
        self._opening = 0
        self._not_before = float("-inf")
        self._gone_since = float("inf")

    @property
    def empty(self) -> bool:
        return not (self._jobs or self._sessions or self._opening)

    @property
    def open_sessions(self) -> int:
        return len(self._sessions) + self._opening

    def submit(self, jobs: Iterable[Job]) -> None:
        now = self._postman.clock.mono()
        for job in jobs:
            job.waiting_since = now
            self._jobs.append(job)
        self.pump()

    def pump(self) -> None:
        """Give waiting jobs to idle sessions, and open sessions for the rest."""
        if self._postman.stopping:
            return self.withdraw()
        while self._jobs and self._idle:
            self._idle.pop().start(self._jobs.popleft())
        if self._postman.clock.mono() < self._not_before:
            return
        while self._opening < len(self._jobs) and self.open_sessions < self._most_sessions():
            self._opening += 1
            self._postman.spawn(self._open())

    def _most_sessions(self) -> int:
        allowed = self.site.profile.connections or self._postman.settings.connections_per_key
        return min(allowed, self._postman.settings.worker_sessions // 4)

    # ------------------------------------------------------------ opening

    async def _open(self) -> None:
        failure = None
        try:
            failure = await self._try_targets()
        finally:
            self._opening -= 1
        if failure is not None:
            self._opening_failed(failure)
        self.pump()

    async def _try_targets(self) -> DialFailure | None:
        """None once a session is open."""
        targets = await self._postman.targets(self.site, self.binding)
        if isinstance(targets, NoAddress):
            if targets.elsewhere:
                return DialFailure(Verdict(REBIND, Scope.SITE), "no MX host has an address of the binding's family")
            return DialFailure(Verdict(DEFERRED, Scope.SITE, BounceClass.DNS_FAILURE), "no MX host has an address")
        if isinstance(targets, TempFail):
            return DialFailure(Verdict(DEFERRED, Scope.SITE, BounceClass.DNS_FAILURE), f"DNS: {targets.reason}")
        failure = DialFailure(Verdict(DEFERRED, Scope.SITE, BounceClass.TIMEOUT), "no MX host")
        for target in targets:
            answer = await self._postman.open_session(self, target)
            if isinstance(answer, Session):
                return None
            failure = answer
            if failure.verdict.scope is not Scope.HOST:
                break
            self._postman.host_failed(target.address)
        return failure

    def _opening_failed(self, failure: DialFailure) -> None:
        if failure.wait:
            self._pause(failure.wait)
        elif failure.verdict.block:
            self._postman.suspend(self.binding, self.site.limit_key, failure.reason)
        elif not self._sessions:
            log.info("site_failed", site=self.site.name, binding=self.binding.name, reason=failure.reason)
            self._give_up(failure.verdict, failure.reason)

    def _give_up(self, verdict: Verdict, reason: str) -> None:
        jobs, self._jobs = self._jobs, deque()
        for job in jobs:
            self._postman.conclude(job, verdict, reason)

    # ------------------------------------------------------------ what sessions say

    def opened(self, session: Session) -> None:
        self._sessions.add(session)
        self.ready(session)

    def ready(self, session: Session) -> None:
        """The session can take a message."""
        if self._postman.stopping:
            session.quit()
        elif self._jobs:
            session.start(self._jobs.popleft())
        else:
            session.idle_since = self._postman.clock.mono()
            self._idle.append(session)

    def closed(self, session: Session) -> None:
        self._sessions.discard(session)
        if session in self._idle:
            self._idle.remove(session)
        self.pump()

    def untried(self, job: Job, reason: str) -> None:
        """The session ended before the job's final dot: another may take it."""
        job.reconnects += 1
        if job.reconnects > RECONNECTS:
            self._postman.conclude(job, Verdict(DEFERRED, Scope.HOST, BounceClass.TRANSIENT), reason)
        else:
            self._jobs.appendleft(job)

    def lease_ran_out(self, job: Job) -> None:
        """Nothing may begin until the lease is renewed."""
        self._jobs.appendleft(job)
        self._pause(LEASE_PAUSE)

    def _pause(self, seconds: float) -> None:
        self._not_before = self._postman.clock.mono() + seconds
        self._postman.call_later(seconds, self.pump)

    def rebind_waiting(self, reason: str) -> None:
        """The binding may not send there any more."""
        self._give_up(Verdict(REBIND, Scope.BINDING), reason)

    def check_way(self, objection: str, now: float) -> None:
        """`objection` says why the binding cannot send through its proxy any more; empty while it can.

        What waits goes another way at once; what has begun may end, but short of its final dot not for long:
        a proxy that hangs answers nobody.
        """
        if not objection:
            self._gone_since = float("inf")
            return
        self._gone_since = min(self._gone_since, now)
        self.rebind_waiting(objection)
        if now - self._gone_since > LAST_CHANCE:
            for session in list(self._sessions):
                session.retreat()

    # ------------------------------------------------------------ time and the end

    def tick(self, now: float) -> None:
        for session in [each for each in self._idle if now - each.idle_since > IDLE]:
            self._idle.remove(session)
            session.quit()
        if self._jobs and not self.open_sessions and now - self._jobs[0].waiting_since > LONGEST_HOLD:
            self._give_up(Verdict(REBIND, Scope.BINDING), "no connection free within the limits")

    def withdraw(self) -> None:
        """This worker stops: jobs that have not begun are left to another, idle sessions end."""
        while self._jobs:
            self._jobs.popleft().withdraw()
        while self._idle:
            self._idle.pop().quit()

    def abort(self) -> None:
        for session in list(self._sessions):
            session.abort()
