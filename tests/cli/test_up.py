"""Starting and ending a platform."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from support.eventually import eventually
from support.platform import FREE, alive, postfleet, running_platform


@pytest.mark.parametrize("option", ["http", "smtp", "sink"])
def test_a_taken_port_is_one_line(tmp_path: Path, option: str) -> None:
    """It names the address and the option that chooses another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused = postfleet(tmp_path, "up", *FREE, f"--{option}", address)
    assert refused.returncode == 1
    said = f"{address} cannot be used (Address already in use); choose another with --{option} HOST:PORT"
    assert refused.stderr == f"postfleet up: {said}\n"


@pytest.mark.parametrize(
    "command",
    [
        ("run", "router"),
        ("send",),
        ("inbox",),
        ("queue",),
        ("explain", "1"),
        ("audit",),
        ("load",),
        ("pool", "list"),
        ("binding", "list"),
        ("proxy", "token", "--binding", "127.0.0.11", "--target", "127.1.1.1:25"),
    ],
)
def test_no_platform_is_one_line(tmp_path: Path, command: tuple[str, ...]) -> None:
    """It names the folder that was looked into."""
    refused = postfleet(tmp_path, *command)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"no platform in {tmp_path}" in refused.stderr and refused.stderr.count("\n") == 1


def test_unreadable_settings_are_one_line(tmp_path: Path) -> None:
    """It names the file and the key."""
    (tmp_path / "settings.toml").write_text("retry_frist = 1\n")
    refused = postfleet(tmp_path, "up", *FREE)
    assert refused.returncode == 1
    assert "settings.toml" in refused.stderr and "retry_frist" in refused.stderr and refused.stderr.count("\n") == 1


@pytest.mark.slow
async def test_a_stopped_platform_leaves_nothing_running(tmp_path: Path) -> None:
    """SIGTERM ends all services and removes their pid files; what was kept is found by the next start."""
    with running_platform(tmp_path) as platform:
        pids = platform.pids()
        key = (tmp_path / "credentials.json").read_text().split('"api_key"')[1].split('"')[1]
        assert platform.stop() == 0
    assert len(pids) == 9 and not any(map(alive, pids)) and not platform.pids()
    with running_platform(tmp_path) as platform:
        assert key in platform.banner


@pytest.mark.slow
async def test_a_killed_supervisor_takes_its_services_along(tmp_path: Path) -> None:
    """Also when it had no chance to tell them."""
    with running_platform(tmp_path) as platform:
        pids = platform.pids()
        os.kill(platform.process.pid, signal.SIGKILL)
        assert len(pids) == 9
        await eventually(lambda: not any(map(alive, pids)))


@pytest.mark.slow
async def test_a_killed_service_is_started_again(tmp_path: Path) -> None:
    """And mail goes on."""
    with running_platform(tmp_path) as platform:
        router = tmp_path / "run" / "router.pid"
        before = router.read_text()
        os.kill(int(before), signal.SIGKILL)
        await eventually(lambda: router.read_text() != before)
        assert platform.run("send").returncode == 0
