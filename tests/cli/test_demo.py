from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.eventually import eventually
from support.platform import alive, environment

from postfleet.cli.demo_figures import count, percentile, rows
from postfleet.stages import Event


def event(kind: str, message: str, at: float, **details: Any) -> Event:
    return Event(f"{kind}{message}{at}", kind, at, "77", message, 0, "a@x.example", injection_time=10.0, **details)


EVENTS = [
    event("delivery", "77.0", 11.0, ip_pool="bulk", sending_ip="127.0.0.12"),
    event("injection", "77.0", 10.0),
    event("injection", "77.1", 10.0),
    event("delay", "77.1", 10.5),
    event("delivery", "77.1", 14.0, ip_pool="bulk", sending_ip="127.0.0.12"),
    event("injection", "77.2", 10.0),
    event("bounce", "77.2", 12.0),
]


def test_figures_of_events_in_any_order() -> None:
    """Ends, refusals, latencies, and what left by which IP."""
    figures = count(EVENTS)
    assert (figures.injected, figures.deferred, figures.seconds) == (3, 1, 4.0)
    assert figures.ended == {"delivered": 2, "bounced": 1}
    assert figures.delivered_by == {("bulk", "127.0.0.12"): 2}
    assert figures.latencies == [1.0, 4.0]
    assert figures.first_attempt_latencies == [1.0]


def test_the_table() -> None:
    """Every end, every IP, and rates that do not divide by nothing."""
    table = dict(rows(count(EVENTS), 3))
    assert table["  delivered"] == "2" and table["delivered by 127.0.0.12, pool bulk"] == "2"
    assert dict(rows(count([]), 0))["messages a second, waits for retries included"] == "-"


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.5, 0.0),
        ([3.0], 0.99, 3.0),
        ([4.0, 1.0, 3.0, 2.0], 0.5, 2.0),
        ([*map(float, range(1, 201))], 0.99, 198.0),
    ],
)
def test_percentiles(values: list[float], share: float, expected: float) -> None:
    """By nearest rank."""
    assert percentile(values, share) == expected


def start_demo(tmp_path: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "postfleet.cli", "demo", *options],
        env={**environment(tmp_path), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def pids_below(folder: Path) -> list[int]:
    return [int(path.read_text()) for path in folder.glob("*/var/run/*.pid")]


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), pytest.param(("--aws-sandbox",), marks=pytest.mark.engines)])
@pytest.mark.timeout(200)
def test_the_demo_balances_its_books(tmp_path: Path, options: tuple[str, ...]) -> None:
    """400 messages in, 400 ends, no promise broken, nothing left behind."""
    demo = start_demo(tmp_path, *options)
    said, _ = demo.communicate(timeout=180)
    assert demo.returncode == 0, said
    assert "no promise broken" in said and "\x1b" not in said
    assert [line.split()[-1] for line in said.splitlines() if line.startswith("accepted")] == ["400", "400"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_a_demo_that_is_stopped_leaves_nothing_running(tmp_path: Path, how: signal.Signals) -> None:
    """However it is told to."""
    demo = start_demo(tmp_path)
    assert demo.stdout is not None
    assert demo.stdout.readline().startswith("platform up")
    pids = pids_below(tmp_path)
    assert len(pids) == 9
    os.kill(demo.pid, how)
    demo.communicate(timeout=60)
    assert demo.returncode != 0
    await eventually(lambda: not any(map(alive, pids)), 40.0)
