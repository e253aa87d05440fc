"""What every service's entrypoint does: arguments, log, signals, loop."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable

import structlog
import uvloop

from postfleet.deployment import DataDir

GARBAGE_THRESHOLD = 20_000
EX_TEMPFAIL = 75
"""Exit code of a process that was taken over: whoever supervises it starts another."""


def configure_log(service: str) -> None:
    """One JSON object a line on standard error; what a far end said is escaped by the encoding."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=True, default=repr),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service, pid=os.getpid())


def data_dir_argument(service: str) -> DataDir:
    parser = argparse.ArgumentParser(prog=f"python -m {service}")
    parser.add_argument("--data", required=True, help="data directory of the platform")
    return DataDir(parser.parse_args().data)


def run_service(service: str, main: Callable[[], Awaitable[int]]) -> None:
    """Run `main` to its exit code. Configuration that cannot be read is one line on standard error, exit 2."""
    configure_log(service)
    _collect_seldom()
    try:
        code = uvloop.run(_awaited(main))
    except (ValueError, FileNotFoundError) as error:
        sys.stderr.write(f"{service}: {error}\n")
        code = 2
    sys.exit(code)


def _collect_seldom() -> None:
    """What start-up made stays; what a message makes goes by reference counts, so cycles are looked for seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)


async def _awaited(main: Callable[[], Awaitable[int]]) -> int:
    return await main()


def on_terminate(stop: Callable[[], None]) -> None:
    """Call `stop` on SIGTERM or SIGINT; the second one ends the process at once."""
    loop = asyncio.get_running_loop()

    def first() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        structlog.get_logger().info("stopping")
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, first)


def system_random() -> random.Random:
    return random.SystemRandom()
