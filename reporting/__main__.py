"""`python -P -m reporting --data DIR`: wires reporting to its stores and clock."""

from __future__ import annotations

from postfleet.backends.opening import open_stores
from postfleet.clock import SystemClock
from postfleet.process import data_dir_argument, on_terminate, run_service
from reporting.service import Reporting


async def main() -> int:
    data = data_dir_argument("reporting")
    settings = data.settings()
    clock = SystemClock()
    async with await open_stores(data, clock) as backends:
        reporting = Reporting(backends, clock=clock, settings=settings)
        on_terminate(reporting.stop)
        await reporting.run()
    return 0


if __name__ == "__main__":
    run_service("reporting", main)
