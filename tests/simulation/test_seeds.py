from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest
from simulation.scenario import run_seed

SEEDS = range(100)


@pytest.mark.slow
@pytest.mark.parametrize("first", SEEDS[::10])
def test_random_lives_keep_every_promise(first: int) -> None:
    """Load, faults, crashes and pauses drawn from a seed lose and double nothing."""
    for seed in range(first, first + 10):
        assert (seed, run_seed(seed).violations) == (seed, [])
        gc.collect()


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_replay_is_the_same_run(hash_seed: str) -> None:
    """A seed names one run, to the last event, in every interpreter."""
    imports = f"import sys; sys.path[:0] = {sys.path!r}; from simulation.scenario import run_seed"
    program = f"{imports}; print(run_seed(5).world.digest())"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == run_seed(5).world.digest()
