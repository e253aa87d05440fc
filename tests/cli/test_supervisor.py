from __future__ import annotations

from pathlib import Path

import pytest

from postfleet.cli.supervisor import Service, StartFailed, Supervisor


async def test_the_end_of_a_vital_service_is_the_platforms(tmp_path: Path) -> None:
    """It is not started again, since what it held is gone."""
    supervisor = Supervisor(logs=tmp_path / "logs", run=tmp_path / "run", say=print)
    await supervisor.start([Service("engine", "timeit", ("-n1", "-r1", "pass"), rank=1, grace=0, vital=True)])
    with pytest.raises(StartFailed, match=r"engine ended with exit code 0; see .*engine\.log"):
        await supervisor.broken
    await supervisor.stop()
