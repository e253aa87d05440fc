"""`kill -9` of every kind of process under load."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from support.kills import SETTINGS, draw_kills, run_kills
from support.platform import running_platform


@pytest.mark.slow
def test_no_kill_loses_or_doubles_mail(tmp_path: Path) -> None:
    """Whatever process dies, the supervisor too: all that was accepted ends, and is doubled only as is permitted."""
    seed = int(os.environ.get("SEED") or random.randrange(10**6))
    kills = draw_kills(random.Random(seed), 1, (0.3, 1.5))
    print(f"SEED={seed}:", ", ".join(f"{kill.process} after {kill.after:.2f} s" for kill in kills))
    with running_platform(tmp_path / "var", SETTINGS) as platform:
        result = run_kills(platform, kills, rate=50.0)
    print(result)
    assert result.audit["violations"] == []
    assert result.audit["pending"] == {} and result.audit["lost"] == 0
    assert result.refused == 0
