"""Sending IPs: mail leaves from the IP that it was planned for, within its limits, or waits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from support.eventually import wait_for
from support.platform import QUICK, RunningPlatform, running_platform

from postfleet.evidence import LedgerMessage, LedgerPeak
from sandbox.world import SOURCES

pytestmark = pytest.mark.slow

PATIENT = f"{QUICK}connect_timeout = 2.0\nrebind_delay = 0.5\n"
OURS, OTHERS = "127.0.0.11", "127.0.0.21"
"""The two IPs of the pool `default`: of the proxy that fails, and of the other."""


def kill_for_good(platform: RunningPlatform) -> None:
    """With the supervisor paused, nobody starts the proxy again."""
    os.kill(platform.process.pid, signal.SIGSTOP)
    os.kill(platform.pid("proxy-a"), signal.SIGKILL)


def pause(platform: RunningPlatform) -> None:
    os.kill(platform.pid("proxy-a"), signal.SIGSTOP)


def undo(platform: RunningPlatform) -> None:
    os.kill(platform.process.pid, signal.SIGCONT)
    os.kill(platform.pid("proxy-a"), signal.SIGCONT)


def received(platform: RunningPlatform, prefix: str) -> list[LedgerMessage]:
    """Messages of the recipients whose local part begins so."""
    records = (record for record in platform.ledger() if isinstance(record, LedgerMessage))
    return [record for record in records if record.recipient.startswith(prefix)]


@pytest.mark.parametrize("fail", [kill_for_good, pause], ids=["killed", "hung"])
def test_mail_of_a_dead_proxy_goes_by_the_other_or_waits(tmp_path: Path, fail: object) -> None:
    """Nothing leaves from an IP that the pool does not have, nor from the dead one until it is back."""
    with running_platform(tmp_path, PATIENT) as platform:
        before = platform.spawn("load", "--count", "200", "--rate", "100", "--local-part", "accept", "--json")
        wait_for(lambda: len(received(platform, "accept")) > 50)
        fail(platform)  # type: ignore[operator]
        failed_at = time.time()
        platform.run("load", "--count", "100", "--local-part", "defer1", "--json")
        wait_for(lambda: len(received(platform, "defer1")) == 100, 40.0)
        meanwhile = Counter(record.peer for record in received(platform, "") if record.time > failed_at + 0.5)
        undo(platform)
        before.communicate(timeout=60)
        found = platform.audit(60.0)
        records = received(platform, "")
    print(f"from {meanwhile} while {OURS} was away; {Counter(record.peer for record in records)} in all; {found}")
    assert set(meanwhile) == {OTHERS} and meanwhile[OTHERS] >= 100
    assert {record.peer for record in records} == {OURS, OTHERS}
    assert all(record.ehlo == SOURCES[record.peer] for record in records)
    assert found["violations"] == [] and found["ended"] == {"delivered": 300}


def test_workers_together_keep_a_connection_limit(tmp_path: Path) -> None:
    """Four workers with much more to send than two connections carry: no MX ever sees a third."""
    with running_platform(tmp_path, f"{QUICK}connections_per_key = 2\n", "--workers", "4") as platform:
        options = ("--domain", "cable1.example", "--domain", "campus1.test", "--domain", "campus2.test")
        platform.run("load", "--count", "120", *options, "--local-part", "slow1=1", "--local-part", "accept=4")
        found = platform.audit(60.0)
        peaks = [record for record in platform.ledger() if isinstance(record, LedgerPeak)]
    most = Counter[tuple[str, str]]()
    for peak in peaks:
        most[peak.peer, peak.site] = max(most[peak.peer, peak.site], peak.connections)
    print(f"most connections at once: {dict(most)}; {found}")
    assert found["violations"] == [] and found["ended"] == {"delivered": 120}
    assert set(most.values()) == {2} and len(most) == 4


@pytest.mark.foreign
def test_curl_is_let_through_to_one_target(tmp_path: Path) -> None:
    """A token that `postfleet proxy token` printed opens its target, from the binding's IP, and no other."""
    with running_platform(tmp_path) as platform:
        port = json.loads((platform.data / "credentials.json").read_text())["sink"].rpartition(":")[2]
        target, other = f"127.1.6.1:{port}", f"127.1.6.2:{port}"
        printed = platform.run("proxy", "token", "--binding", OTHERS, "--target", target, "--json").stdout
        command = json.loads(printed)["curl"]
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=20)
        refused = subprocess.run(command.replace(target, other), shell=True, capture_output=True, text=True, timeout=20)
        wait_for(lambda: [each for each in platform.ledger() if each.peer == OTHERS])
        seen = {(each.peer, each.host) for each in platform.ledger() if not isinstance(each, LedgerPeak)}
    print(done.stderr[-300:], refused.stderr[-300:], sep="\n")
    assert done.returncode == 0 and "250" in done.stdout
    assert refused.returncode == 97
    assert seen == {(OTHERS, "127.1.6.1")}
