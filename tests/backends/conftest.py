from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from postfleet.backends.local import LocalBackends, open_local
from postfleet.clock import SystemClock


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[LocalBackends]:
    async with await open_local(tmp_path, clock=SystemClock(), visibility=30.0) as backends:
        yield backends
