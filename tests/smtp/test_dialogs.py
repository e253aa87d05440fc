from __future__ import annotations

from pathlib import Path

import pytest
from support.dialogs import run_client_dialog, run_server_dialog

DIALOGS = Path(__file__).parent / "dialogs"
WHOLE = 1 << 20


def dialogs(side: str, size: int) -> list[object]:
    found = sorted(DIALOGS.glob(f"{side}_*.txt"))
    assert found
    return [
        pytest.param(path, size, id=f"{path.stem}-{'whole' if size == WHOLE else 'bytes'}")
        for path in found
        if size == WHOLE or "whole segments" not in path.read_text()
    ]


@pytest.mark.parametrize(("path", "size"), dialogs("server", WHOLE) + dialogs("server", 1))
def test_server_dialog(path, size):
    """The server says exactly its lines of the dialog, however the client's octets are cut."""
    run_server_dialog(path, size)


@pytest.mark.parametrize(("path", "size"), dialogs("client", WHOLE) + dialogs("client", 1))
def test_client_dialog(path, size):
    """The client says exactly its lines and reports exactly the events, however the server's octets are cut."""
    run_client_dialog(path, size)
