"""A real platform on free ports, and the command line that speaks with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.eventually import wait_for

from postfleet.cli.supervisor import die_with_parent
from postfleet.deployment import DataDir
from postfleet.evidence import LedgerRecord, read_ledger

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
    def __init__(self, data: Path, options: tuple[str, ...], variables: Mapping[str, str]) -> None:
        self.data = data
        self._options = options
        self._variables = variables
        self._commands: list[subprocess.Popen[str]] = []
        self.banner = ""
        self.start(*FREE)

    def start(self, *addresses: str) -> None:
        """Raises `AssertionError` with the log where it does not come up."""
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "postfleet.cli", "up", *addresses, *self._options],
            env={**environment(self.data), **self._variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGTERM),
        )
        self.wait_until_up()

    def start_again(self) -> None:
        """On the addresses that it had before."""
        was = DataDir(self.data).deployment()
        self.start("--http", was.http, "--smtp", was.smtp, "--sink", was.sink)

    def wait_until_up(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.banner += line
            if "curl " in line:
                return
        raise AssertionError(f"up ended:\n{self.banner}{self.logs()}")

    def run(self, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        return postfleet(self.data, *arguments, timeout=timeout)

    def spawn(self, *arguments: str) -> subprocess.Popen[str]:
        """One command, while the test goes on."""
        command = [sys.executable, "-P", "-m", "postfleet.cli", *arguments]
        started = subprocess.Popen(
            command,
            env=environment(self.data),
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent(signal.SIGTERM),
        )
        self._commands.append(started)
        return started

    def end_commands(self) -> None:
        for command in self._commands:
            with command:
                command.kill()

    def audit(self, wait: float) -> dict[str, Any]:
        """What `audit --final` finds once nothing is pending, or `wait` seconds have passed."""
        done = self.run("audit", "--final", "--wait", str(wait), "--json", timeout=wait + 60)
        assert done.stdout, done.stderr
        figures: dict[str, Any] = json.loads(done.stdout)
        return figures

    def pid(self, service: str) -> int:
        """Of a service, once it runs."""
        file = self.data / "run" / f"{service}.pid"

        def look() -> int:
            try:
                pid = int(file.read_text())
            except (FileNotFoundError, ValueError):
                return 0
            return pid if alive(pid) else 0

        return wait_for(look)

    def pids(self) -> list[int]:
        """Of the services."""
        return [int(path.read_text()) for path in (self.data / "run").glob("*.pid")]

    def logs(self) -> str:
        return "\n".join(path.read_text()[-2000:] for path in sorted((self.data / "logs").glob("*.log")))

    def ledger(self) -> list[LedgerRecord]:
        """What the sandbox's MX hosts saw so far."""
        with DataDir(self.data).ledger.open("rb") as lines:
            return list(read_ledger(lines))

    def said(self) -> str:
        """All that `up` printed; it has been stopped."""
        self.stop()
        return self.banner

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.banner += self.process.communicate(timeout=60)[0] or ""
        return self.process.returncode


@contextmanager
def running_platform(
    data: Path, settings: str = QUICK, *options: str, variables: Mapping[str, str] | None = None
) -> Iterator[RunningPlatform]:
    """`options` are those of `up`, besides its addresses; `variables` are for its environment."""
    data.mkdir(parents=True, exist_ok=True)
    (data / "settings.toml").write_text(settings)
    platform = RunningPlatform(data, options, variables or {})
    try:
        yield platform
    finally:
        platform.end_commands()
        platform.stop()


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits for its parent to take note of its end does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
