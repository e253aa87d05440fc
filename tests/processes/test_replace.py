"""New versions of the proxies take over while mail goes through the old ones."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest
from support.eventually import wait_for
from support.platform import QUICK, alive, running_platform

from postfleet.evidence import QUIT, LedgerConnection, LedgerMessage, LedgerPeak

SETTINGS = f"{QUICK}connections_per_key = 3\nmessages_per_connection = 10\n"
MAIL = (
    "--domain",
    "campus1.test",
    "--domain",
    "cable1.example",
    "--local-part",
    "slow1=1",
    "--local-part",
    "accept=19",
)


@pytest.mark.slow
def test_proxies_are_replaced_under_load(tmp_path: Path) -> None:
    """Three times: no connection is refused or cut, no MX sees one too many, nothing is lost or doubled."""
    with running_platform(tmp_path, SETTINGS, "--workers", "3") as platform:
        load = platform.spawn("load", "--count", "800", "--rate", "120", *MAIL, "--json")
        wait_for(lambda: sum(isinstance(record, LedgerMessage) for record in platform.ledger()) > 100)
        replaced = []
        for _ in range(3):
            replaced.append(platform.pid("proxy-a"))
            done = platform.run("proxy", "replace")
            assert done.returncode == 0, done.stderr
            time.sleep(1.0)
        load.communicate(timeout=60)
        found = platform.audit(60.0)
        wait_for(lambda: not any(alive(pid) for pid in replaced), 20.0)
        records = platform.ledger()
        said = "".join(path.read_text() for path in platform.data.glob("logs/worker-*.log"))
    peaks = [record.connections for record in records if isinstance(record, LedgerPeak)]
    ends = Counter(record.end for record in records if isinstance(record, LedgerConnection))
    print(f"most connections at once {max(peaks)}; connections ended by {ends}; {found}")
    assert found["violations"] == [] and found["ended"] == {"delivered": 800}
    assert max(peaks) == 3
    assert set(ends) == {QUIT}
    assert "site_failed" not in said
