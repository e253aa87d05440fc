"""A real platform on free ports, and the command line that speaks with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from postfleet.cli.supervisor import die_with_parent

ROOT = Path(__file__).parents[2]
FREE = ("--http", "127.0.0.1:0", "--smtp", "127.0.0.1:0", "--sink", "127.0.0.1:0")
QUICK = """\
retry_first = 1.0
lease_renew = 0.5
lease_time = 2.0
visibility = 5.0
visibility_extend = 1.0
"""


def environment(data: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "POSTFLEET_DATA": str(data)}


def postfleet(data: Path, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """One command to its end; the platform is named by POSTFLEET_DATA."""
    command = [sys.executable, "-P", "-m", "postfleet.cli", *arguments]
    return subprocess.run(
        command, env=environment(data), capture_output=True, text=True, timeout=timeout, check=False
    )  # fmt: skip


class RunningPlatform:
    def __init__(self, data: Path, process: subprocess.Popen[str]) -> None:
        self.data = data
        self.process = process
        self.banner = ""

    def wait_until_up(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.banner += line
            if "curl " in line:
                return
        raise AssertionError(f"up ended:\n{self.banner}{self.logs()}")

    def run(self, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        return postfleet(self.data, *arguments, timeout=timeout)

    def pids(self) -> list[int]:
        """Of the services."""
        return [int(path.read_text()) for path in (self.data / "run").glob("*.pid")]

    def logs(self) -> str:
        return "\n".join(path.read_text()[-2000:] for path in sorted((self.data / "logs").glob("*.log")))

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=60)
        return self.process.returncode


@contextmanager
def running_platform(data: Path, settings: str = QUICK) -> Iterator[RunningPlatform]:
    data.mkdir(parents=True, exist_ok=True)
    (data / "settings.toml").write_text(settings)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "postfleet.cli", "up", *FREE],
        env=environment(data),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=die_with_parent(signal.SIGTERM),
    )
    platform = RunningPlatform(data, process)
    try:
        platform.wait_until_up()
        yield platform
    finally:
        platform.stop()


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits for its parent to take note of its end does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
