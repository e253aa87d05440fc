"""Puts the sandbox's providers where an operator's own go: `python -P -m sandbox.profiles --data DIR`."""

from __future__ import annotations

from pathlib import Path

from postfleet.process import data_dir_argument
from sandbox.world import PROVIDERS_TOML


def keep_profiles(path: Path) -> None:
    """An operator may have edited the file: it stays as it is."""
    if not path.exists():
        path.write_text(PROVIDERS_TOML)


if __name__ == "__main__":
    keep_profiles(data_dir_argument("sandbox.profiles").path / "providers.toml")
