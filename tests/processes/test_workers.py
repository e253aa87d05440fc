"""Workers that are stopped, paused or killed by what they send."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.eventually import wait_for
from support.platform import QUICK, ROOT, RunningPlatform, running_platform

from postfleet.cli.blockers import blockers, is_stopped

pytestmark = pytest.mark.slow

WORKERS = ("worker-1", "worker-2")


def log_of(platform: RunningPlatform, service: str) -> list[dict[str, Any]]:
    lines = (platform.data / "logs" / f"{service}.log").read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def load(platform: RunningPlatform, count: int, rate: float, *mix: str) -> list[str]:
    local_parts = [part for each in mix for part in ("--local-part", each)]
    return ["load", "--json", "--count", str(count), "--rate", str(rate), "--size", "500", *local_parts]


def test_a_worker_that_is_told_to_stop_doubles_nothing(tmp_path: Path) -> None:
    """SIGTERM under load, several times: every message arrives once, not even a permitted copy is made."""
    seed = int(os.environ.get("SEED") or random.randrange(10**6))
    rng = random.Random(seed)
    with running_platform(tmp_path) as platform:
        loading = platform.spawn(*load(platform, 900, 100.0, "accept=85", "defer1=8", "bounce=5", "slow1=2"))
        told: set[int] = set()
        for worker in (*WORKERS, *WORKERS):
            wait_for(lambda worker=worker: platform.pid(worker) not in told)
            time.sleep(rng.uniform(1.0, 2.0))
            told.add(platform.pid(worker))
            os.kill(platform.pid(worker), signal.SIGTERM)
        accepted = json.loads(loading.communicate(timeout=60)[0])["ok"]
        found = platform.audit(60.0)
        said = platform.said()
    stopped = said.count("ended with exit code 0; started again")
    print(f"SEED={seed}: {stopped} workers stopped; {found}")
    assert found["violations"] == [] and found["duplicated_permitted"] == 0
    assert found["accepted"] == accepted == 900
    assert stopped >= 2


def pause(pid: int, *, with_lock: bool) -> None:
    """SIGSTOP at a moment when it holds a lock of the store, or none: who holds one makes all others wait."""
    os.kill(pid, signal.SIGSTOP)
    while not is_stopped(pid) or bool(blockers([pid])) != with_lock:
        if is_stopped(pid):
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.002)
            os.kill(pid, signal.SIGSTOP)


def test_a_worker_paused_in_the_middle_of_a_commit_is_ended(tmp_path: Path) -> None:
    """It holds the lock of a database: the supervisor kills it, and mail goes on without loss."""
    with running_platform(tmp_path) as platform:
        loading = platform.spawn(*load(platform, 300, 100.0, "accept=80", "defer1=20"))
        wait_for(lambda: len(platform.ledger()) > 50)
        paused = platform.pid("worker-1")
        pause(paused, with_lock=True)
        wait_for(lambda: platform.pid("worker-1") != paused)
        loading.communicate(timeout=60)
        found = platform.audit(60.0)
        said = platform.said()
    print(found)
    assert "worker-1 is stopped and holds a lock of the store; killed" in said
    assert found["violations"] == [] and found["ended"] == {"delivered": 300}


def test_a_paused_worker_whose_mail_was_taken_over_does_no_harm(tmp_path: Path) -> None:
    """SIGSTOP beyond the lease with messages under way: another takes over, and the paused one exits with 75."""
    with running_platform(tmp_path) as platform:
        loading = platform.spawn(*load(platform, 400, 100.0, "accept=60", "slow2=30", "defer1=10"))
        wait_for(lambda: len(platform.ledger()) > 50)
        paused = platform.pid("worker-1")
        pause(paused, with_lock=False)
        wait_for(lambda: [each for each in log_of(platform, "worker-2") if each["event"] == "order_taken_over"], 20.0)
        loading.communicate(timeout=60)
        os.kill(paused, signal.SIGCONT)
        wait_for(lambda: platform.pid("worker-1") != paused)
        found = platform.audit(60.0)
        said = platform.said()
    taken = [each for each in log_of(platform, "worker-2") if each["event"] == "order_taken_over"]
    print(f"{len(taken)} Orders taken over; {found}")
    assert "worker-1 ended with exit code 75; started again" in said
    assert found["violations"] == [] and found["accepted"] == 400


CRASH = """\
import os

from postfleet.content.render import Renderer

render = Renderer.render


def crash_on_marker(self, transmission, message):
    data = render(self, transmission, message)
    if b"this ends the process" in data:
        os._exit(1)
    return data


Renderer.render = crash_on_marker
"""
SHORT = QUICK.replace("visibility = 5.0", "visibility = 2.0").replace(
    "visibility_extend = 1.0", "visibility_extend = 0.5"
)


def test_a_message_that_ends_its_worker_fails_alone(tmp_path: Path) -> None:
    """After it has ended several workers it is `failed`, by an event; the rest of its transmission is delivered."""
    crash = tmp_path / "crash"
    crash.mkdir()
    (crash / "sitecustomize.py").write_text(CRASH)
    names = [f"accept-{n}@inbox1.example" for n in range(6)]
    poison = names[2]
    with running_platform(tmp_path / "var", SHORT, variables={"PYTHONPATH": f"{crash}:{ROOT}"}) as platform:
        transmission = send(platform, names, poison)
        ends = wait_for(lambda: ended(platform, transmission, len(names)), 60.0)
        found = platform.audit(10.0)
        said = platform.said()
    print(f"{said.count('ended with exit code 1; started again')} workers died; {ends}; {found}")
    assert ends == {name: "failed" if name == poison else "delivered" for name in names}
    assert found["violations"] == [] and found["duplicated_permitted"] == 0


def send(platform: RunningPlatform, names: list[str], poison: str) -> str:
    credentials = json.loads((platform.data / "credentials.json").read_text())
    recipients = [
        {"address": name, "substitution_data": {"words": "this ends the process" if name == poison else "hello"}}
        for name in names
    ]
    content = {"from": f"a@{credentials['sending_domain']}", "subject": "Poison", "text": "{{words}}"}
    answer = httpx.post(
        f"{credentials['http']}/api/v1/transmissions",
        json={"recipients": recipients, "content": content},
        headers={"Authorization": credentials["api_key"]},
    )
    transmission: str = answer.json()["results"]["id"]
    return transmission


def ended(platform: RunningPlatform, transmission: str, count: int) -> dict[str, str]:
    """Recipients with their ends, once all have one."""
    told = platform.run("explain", transmission, "--json").stdout
    stories = json.loads(told) if told else []
    ends = {story["recipient"]: story["end"] for story in stories if story["end"]}
    return ends if len(ends) == count else {}
