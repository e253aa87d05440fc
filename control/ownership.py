"""Which proxy owns a binding's IP, from what the proxies' health checks said. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from postfleet.deployment import ProxySite
from postfleet.directory import Binding

FAILURES_TO_DIE = 2


class SourceReport(Struct, frozen=True):
    public: str
    bindable: bool


class Report(Struct, frozen=True):
    """What a proxy's `/healthz` says, as far as it decides who owns what."""

    sources: tuple[SourceReport, ...]
    draining: bool = False


@dataclass(slots=True)
class _Seen:
    report: Report | None = None
    failures: int = 0
    reason: str = ""

    @property
    def pending(self) -> bool:
        """Not heard of long enough to say anything."""
        return self.report is None and self.failures < FAILURES_TO_DIE

    def objection(self, ip: str) -> str | None:
        """Why this proxy cannot send from `ip`, None if it can; empty when `ip` is not its business."""
        if self.failures >= FAILURES_TO_DIE:
            return f"no answer: {self.reason}" if self.report is None or self._lists(ip) else ""
        if self.report is None or not self._lists(ip):
            return ""
        if self.report.draining:
            return "draining"
        return None if any(source.public == ip and source.bindable for source in self.report.sources) else "cannot bind"

    def _lists(self, ip: str) -> bool:
        return self.report is not None and any(source.public == ip for source in self.report.sources)


class Ownership:
    """Remembers the proxies' last answers. One good answer makes a proxy alive, two failures in a row dead."""

    def __init__(self, proxies: Iterable[ProxySite]) -> None:
        self._seen = {proxy: _Seen() for proxy in proxies}

    def record(self, proxy: ProxySite, result: Report | str) -> None:
        """One probe's result: the answer, or why there is none."""
        seen = self._seen[proxy]
        if isinstance(result, Report):
            seen.report, seen.failures, seen.reason = result, 0, ""
        else:
            seen.failures += 1
            seen.reason = result

    def listed(self) -> set[str]:
        """All IPs that some proxy claims."""
        return {source.public for seen in self._seen.values() if seen.report for source in seen.report.sources}

    def decide(self, binding: Binding, now: float, refusal: str = "") -> Binding:
        """The binding as it is to be; the very same object when nothing changed. `now` in Unix seconds.

        With a `refusal` it may not send, whoever owns its IP.
        """
        if refusal:
            return _dead(binding, refusal, now)
        objections = {proxy: seen.objection(binding.ip) for proxy, seen in self._seen.items()}
        able = [proxy.socks for proxy, objection in objections.items() if objection is None]
        if binding.alive and binding.proxy in able:
            return binding
        if self._undecided(binding, able):
            return binding
        if able:
            owner = binding.proxy if binding.proxy in able else able[0]
            return msgspec.structs.replace(binding, proxy=owner, alive=True, since=now, reason="")
        if not binding.alive and binding.reason:
            return binding
        reasons = [f"{proxy.name}: {objection}" for proxy, objection in objections.items() if objection]
        reason = "; ".join(reasons) or "no proxy lists it"
        return _dead(binding, reason, now)

    def _undecided(self, binding: Binding, able: list[str]) -> bool:
        """Whether a proxy that is still to be heard of could be the owner."""
        pending = {proxy.socks for proxy, seen in self._seen.items() if seen.pending}
        return binding.proxy in pending if able else bool(pending)


def _dead(binding: Binding, reason: str, now: float) -> Binding:
    if not binding.alive and binding.reason == reason:
        return binding
    return msgspec.structs.replace(binding, proxy="", alive=False, since=now, reason=reason)
