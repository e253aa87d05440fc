"""What the proxy counts, per source."""

from __future__ import annotations

from collections import Counter

from ip_proxy.splice import Splice


class SourceStats:
    """`open` and `accepted` count connections to targets."""

    def __init__(self) -> None:
        self.usable = True
        """Whether the last attempt to bind the source went well."""
        self.open = 0
        self.accepted = 0
        self.timed_out = 0
        self.refused: Counter[str] = Counter()
        self._to_target = self._to_client = 0
        self._running: set[Splice] = set()

    @property
    def bytes_to_target(self) -> int:
        return self._to_target + sum(splice.client.moved for splice in self._running)

    @property
    def bytes_to_client(self) -> int:
        return self._to_client + sum(splice.target.moved for splice in self._running)

    def begin(self, splice: Splice) -> None:
        self.open += 1
        self.accepted += 1
        self._running.add(splice)

    def end(self, splice: Splice) -> None:
        self._running.discard(splice)
        self.timed_out += splice.timed_out
        self._to_target += splice.client.moved
        self._to_client += splice.target.moved
