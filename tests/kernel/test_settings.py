from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from postfleet.deployment import AwsPlaces, DataDir, Deployment
from postfleet.settings import LOCAL, ON_AWS, load_settings


def test_what_is_not_set_is_as_the_stores_want_it(tmp_path: Path) -> None:
    """A platform on AWS waits longer for writes to share; what the operator sets counts either way."""
    data = DataDir(tmp_path)
    assert data.settings() == LOCAL
    (tmp_path / "settings.toml").write_text("journal_window = 0.5\n")
    deployment = Deployment(http="", smtp="", proxies=(), aws=AwsPlaces("bucket", "table", "mail-"))
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(deployment))
    assert data.settings() == msgspec.structs.replace(ON_AWS, journal_window=0.5)


def test_an_unknown_setting_is_named(tmp_path: Path) -> None:
    """With the file."""
    path = tmp_path / "settings.toml"
    path.write_text("journal_widow = 1.0\n")
    with pytest.raises(ValueError, match=r"settings\.toml.*journal_widow"):
        load_settings(path)
