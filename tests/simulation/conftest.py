from __future__ import annotations

import pytest
from simulation.toy import Setting


@pytest.fixture
def setting() -> Setting:
    return Setting()
