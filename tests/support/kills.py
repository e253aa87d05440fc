"""A platform under load whose processes are killed, one after the other, and what the audit says of it."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from support.platform import QUICK, RunningPlatform

from postfleet.deployment import DataDir
from postfleet.evidence import OK, read_hand_overs

KINDS = {
    "ingest": ("ingest",),
    "router": ("router",),
    "mta_worker": ("worker-1", "worker-2"),
    "ip_proxy": ("proxy-a", "proxy-b"),
    "control": ("control",),
    "reporting": ("reporting",),
    "sandbox": ("sandbox",),
    "supervisor": ("up",),
}
"""Every kind of process, with the names of its processes."""
MIX = ("accept=78", "defer1=8", "defer2=2", "bounce=5", "drop1=4", "slow1=2", "block1=1")
DRAIN = 300.0
"""A message that nobody answered waits for as long again as it is old."""
HELD_IN_MEMORY = ("supervisor",)
"""Kinds that take the sandbox's AWS with them, whose rows and queues nothing keeps."""
SETTINGS = f"{QUICK}retry_factor = 1.0\nrebind_delay = 0.5\nconnect_timeout = 5.0\n"
"""A sandbox that is killed forgets whom it deferred: retries stay quick all the same."""
AWS_SANDBOX_SETTINGS = SETTINGS.replace("lease_time = 2.0", "lease_time = 5.0").replace(
    "visibility = 5.0", "visibility = 8.0"
)
"""moto takes its time."""


class Kill(NamedTuple):
    after: float
    """Seconds since the kill before."""
    process: str


class Result(NamedTuple):
    accepted: int
    """By the clients' own count."""
    refused: int
    unanswered: int
    drops: int
    """Messages that the MX kept and left unanswered: each is sent twice."""
    audit: dict[str, Any]


def draw_kills(rng: random.Random, times: int, gaps: tuple[float, float], spared: Sequence[str] = ()) -> list[Kill]:
    """Each kind `times` times, in any order."""
    kinds = [kind for kind in KINDS if kind not in spared for _ in range(times)]
    rng.shuffle(kinds)
    return [Kill(rng.uniform(*gaps), rng.choice(KINDS[kind])) for kind in kinds]


def run_kills(platform: RunningPlatform, kills: Sequence[Kill], *, rate: float, lull: float = 3.0) -> Result:
    """Submit `rate` messages a second over HTTP, and as many over SMTP, until `lull` seconds after the last kill."""
    count = round(rate * (sum(kill.after for kill in kills) + lull))
    loads = [platform.spawn("load", *_submission(transport, rate, count), "--json") for transport in ("http", "smtp")]
    for kill in kills:
        time.sleep(kill.after)
        kill_one(platform, kill.process)
    counts = [json.loads(load.communicate(timeout=120)[0]) for load in loads]
    return Result(
        accepted=sum(each["ok"] for each in counts),
        refused=sum(each["failed"] for each in counts),
        unanswered=sum(each["indeterminate"] for each in counts),
        drops=_drops(platform.data),
        audit=platform.audit(DRAIN),
    )


def _submission(transport: str, rate: float, count: int) -> list[str]:
    mix = [part for weighted in MIX for part in ("--local-part", weighted)]
    numbers = ["--rate", str(rate), "--count", str(count), "--size", "1000", "--recipients", "2"]
    return ["--transport", transport, *numbers, *mix]


def kill_one(platform: RunningPlatform, process: str) -> None:
    """SIGKILL, once the process runs. The supervisor's services die with it; it is started again."""
    if process != "up":
        os.kill(platform.pid(process), signal.SIGKILL)
        return
    platform.process.kill()
    platform.stop()
    platform.start_again()


def _drops(data: Path) -> int:
    found = 0
    for log in DataDir(data).loads.glob("*"):
        with log.open("rb") as lines:
            for hand_over in read_hand_overs(lines):
                dropped = [recipient for recipient in hand_over.recipients if recipient.startswith("drop1-")]
                found += len(dropped) if hand_over.status == OK else 0
    return found
