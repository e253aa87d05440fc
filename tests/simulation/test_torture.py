from __future__ import annotations

from collections.abc import Collection

import pytest
from simulation import torture
from simulation.scenario import Report
from simulation.world import World


@pytest.fixture(autouse=True)
def seed_3_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_seed(seed: int, breaks: Collection[str] = ()) -> Report:
        world = World(seed)
        world.note(None, "lived")
        return Report(seed, ["lost 1.0"] if seed == 3 else [], world)

    monkeypatch.setattr(torture, "run_seed", run_seed)


def test_seeds_without_violation_pass(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status is 0 when every promise held."""
    assert torture.main(["--seeds", "3"]) == 0
    assert "3 seeds from 0: no violation" in capsys.readouterr().out


def test_a_failing_seed_is_named_with_how_to_replay_it(capsys: pytest.CaptureFixture[str]) -> None:
    """The first violation ends the run and says how to see it again."""
    assert torture.main(["--seeds", "5", "--seed-base", "2"]) == 1
    replay = "PYTHONPATH=tests python tests/simulation/torture.py --seed 3 -v"
    assert f"lost 1.0\nseed 3 failed; replay: {replay}" in capsys.readouterr().out


def test_a_replay_prints_the_trace(capsys: pytest.CaptureFixture[str]) -> None:
    """One seed alone prints all that happened."""
    assert torture.main(["--seed", "3"]) == 1
    assert "lived" in capsys.readouterr().out


def test_a_broken_rule_fails_in_its_scenario_first(capsys: pytest.CaptureFixture[str]) -> None:
    """With --break the named scenario runs before the seeds, and what it breaks is said."""
    assert torture.main(["--break", "late-dup"]) == 1
    assert "scenario late-dup failed without its rule" in capsys.readouterr().out
