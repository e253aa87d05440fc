from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.platform import RunningPlatform, running_platform


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """One for all tests that only send mail and look."""
    with running_platform(tmp_path_factory.mktemp("platform") / "var") as running:
        yield running
