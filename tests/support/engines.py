"""Stand-ins for AWS: each is a process on a free loopback port that ends with its context, or with this process.

`moto_server` and `seaweedfs` are the sandbox's. The others are of `make test-engines`; `make engines` installs them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
from support.eventually import wait_for

from postfleet.cli.supervisor import die_with_parent
from sandbox.seaweedfs import free_ports

ROOT = Path(__file__).parents[2]
INSTALLED = ROOT / ".engines"
"""Where `make engines` puts them."""
REGION = "us-east-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": REGION}
START = 30.0
"""Seconds until an engine must answer."""


class EngineMissing(Exception):
    """An engine is not installed; the text says how to."""


def aws_environment(endpoint: str) -> dict[str, str]:
    """Variables that send the SDK to `endpoint` and keep it from everything that this machine may know of AWS."""
    return {
        **CREDENTIALS,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


@contextmanager
def moto_server(directory: Path) -> Iterator[str]:
    """All services, in memory. Its SQS slows down with depth: keep to some hundred entries."""
    (port,) = free_ports(1)
    command = [sys.executable, "-P", "-m", "sandbox.moto_server", "--listen", f"127.0.0.1:{port}"]
    log = directory / "moto.log"
    with _running(command, log, variables={"PYTHONPATH": str(ROOT)}) as process:
        url = f"http://127.0.0.1:{port}"
        _wait_until_up(process, url, log)
        yield url


@contextmanager
def seaweedfs(directory: Path) -> Iterator[str]:
    """S3 on files."""
    (port,) = free_ports(1)
    where = ["--directory", str(directory / "weed"), "--listen", f"127.0.0.1:{port}"]
    command = [sys.executable, "-P", "-m", "sandbox.seaweedfs", *where]
    with _running(command, directory / "weed.log", variables={"PYTHONPATH": str(ROOT)}) as process:
        url = f"http://127.0.0.1:{port}"
        _wait_until_up(process, url, directory / "weed.log")
        yield url


@contextmanager
def dynalite(directory: Path) -> Iterator[str]:
    """DynamoDB on LevelDB."""
    program = _installed("node_modules/.bin/dynalite")
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [
        *(program, "--host", "127.0.0.1", "--port", str(port)),
        *("--path", str(directory / "dynalite"), "--createTableMs", "10"),
    ]
    with _running(command, directory / "dynalite.log") as process:
        _wait_until_up(process, url, directory / "dynalite.log")
        yield url


@contextmanager
def ministack(directory: Path) -> Iterator[str]:
    """All services, in memory; a second opinion."""
    program = _installed("bin/ministack")
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    variables = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "TMPDIR": str(directory)}
    with _running([program], directory / "ministack.log", cwd=directory, variables=variables) as process:
        _wait_until_up(process, url, directory / "ministack.log")
        yield url


def _installed(name: str) -> str:
    program = INSTALLED / name
    if not program.exists():
        raise EngineMissing(f"there is no {program}: run `make engines`")
    return str(program)


@contextmanager
def _running(
    command: Sequence[str],
    log: Path,
    *,
    cwd: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGKILL),
        )
        try:
            yield process
        finally:
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """At once, with what it started: nothing of it is kept, and SeaweedFS may hang in an orderly stop."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_until_up(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    def up() -> bool:
        assert process.poll() is None, f"{process.args} ended: {log.read_text()[-2000:]}"
        with suppress(httpx.TransportError):
            return httpx.get(url, timeout=5.0).status_code > 0
        return False

    wait_for(up, START)
