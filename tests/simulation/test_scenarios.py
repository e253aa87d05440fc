from __future__ import annotations

import pytest
from simulation.breaks import BREAKS
from simulation.scenarios import SCENARIOS, run_scenario


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_holds_with_the_rules(name: str) -> None:
    """What is harmless under the protocol breaks no promise."""
    assert run_scenario(name).violations == []


@pytest.mark.parametrize("name", BREAKS)
def test_a_missing_rule_is_caught(name: str) -> None:
    """The scenario of a rule breaks a promise once that rule is taken out of the code."""
    assert run_scenario(name, (name,)).violations
