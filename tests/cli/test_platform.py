"""The command line against a whole platform with its sandbox."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.eventually import eventually
from support.platform import FREE, RunningPlatform, environment

from postfleet.inbox import Letter, read_inbox

pytestmark = pytest.mark.slow


def shell(command: str) -> str:
    return subprocess.run(command, shell=True, capture_output=True, text=True, check=True, timeout=30).stdout


def explained(platform: RunningPlatform, subject: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(platform.run("explain", subject, "--json").stdout)
    return found


def letters_to(platform: RunningPlatform, recipient: str) -> list[Letter]:
    return [letter for letter in read_inbox(platform.data / "inbox") if letter.recipients == (recipient,)]


@pytest.mark.foreign
async def test_the_printed_curl_line_sends_a_message(platform: RunningPlatform) -> None:
    """What the banner shows can be pasted into a shell, and the message arrives."""
    (line,) = (line for line in platform.banner.splitlines() if line.startswith("  curl "))
    answer = json.loads(shell(line))
    assert answer["results"]["total_accepted_recipients"] == 1
    subject = answer["results"]["id"]
    found = await eventually(lambda: [each for each in explained(platform, subject) if each["end"]], 20.0)
    assert [story["end"] for story in found] == ["delivered"]


def attempts_told(lines: list[str]) -> list[str]:
    """The verb of each line, but for re-binds ("not tried"), which a proxy's slow answer on a busy machine brings."""
    verbs = [line.split()[1] for line in lines]
    return [verb for verb in verbs if verb != "not"]


async def test_a_deferred_message_is_followed_to_its_delivery(platform: RunningPlatform) -> None:
    """Every step is told by `send`, again by `explain`, and the message lies in the inbox."""
    recipient = "defer2-story@inbox1.example"
    sent = platform.run("send", "--to", recipient, "--subject", "A story")
    assert sent.returncode == 0, sent
    assert attempts_told(sent.stdout.splitlines()) == ["accepted", "deferred", "deferred", "delivered"]
    story = platform.run("explain", recipient).stdout
    assert attempts_told(story.splitlines()[1:-1]) == ["accepted", "deferred", "deferred", "delivered"]
    (letter,) = await eventually(lambda: letters_to(platform, recipient), 15.0)
    assert "A story" in platform.run("inbox").stdout
    assert "Subject: A story" in platform.run("inbox", letter.id).stdout


def test_a_bounced_message_is_told_by_the_exit_code(platform: RunningPlatform) -> None:
    """1 says that it ended without being delivered, and the MX's words are printed."""
    sent = platform.run("send", "--to", "bounce-code@live1.example")
    assert sent.returncode == 1
    assert "User unknown" in sent.stdout


async def test_a_pending_message_is_told_by_the_exit_code_and_found(platform: RunningPlatform) -> None:
    """3 says that it is still pending; `explain` knows where, `queue` counts it."""
    sent = platform.run("send", "--to", "defer9-wait@live2.example", "--timeout", "0.5")
    assert sent.returncode == 3, sent
    await eventually(lambda: "now: parked until" in platform.run("explain", "defer9-wait@live2.example").stdout, 20.0)
    parks = json.loads(platform.run("queue", "--json").stdout)["parks"]
    assert sum(parks.values()) >= 1


def test_a_refused_sender_is_one_line(platform: RunningPlatform) -> None:
    """The reply of the platform itself, and exit code 1."""
    sent = platform.run("send", "--from", "eve@elsewhere.example")
    assert (sent.returncode, sent.stdout) == (1, "")
    assert sent.stderr.count("\n") == 1 and "elsewhere.example" in sent.stderr


@pytest.mark.parametrize("transport", ["http", "smtp"])
def test_a_load_is_audited(platform: RunningPlatform, transport: str, tmp_path: Path) -> None:
    """All that was accepted ended, nothing twice; the log of the load is what `audit` reads."""
    log = str(tmp_path / "client.ndjson")
    words = ("--local-part", "ann=8", "--local-part", "defer1", "--local-part", "bounce", "--local-part", "drop1")
    made = platform.run("load", "--count", "100", "--transport", transport, "--log", log, *words)
    assert made.returncode == 0, made
    assert "100 accepted" in made.stdout
    report = platform.run("audit", "--json")
    assert report.returncode == 0, report
    assert json.loads(report.stdout)["violations"] == []


def test_an_audit_sees_a_message_that_is_nowhere(platform: RunningPlatform, tmp_path: Path) -> None:
    """A hand-over that the platform knows nothing of is a loss, and the exit code says so."""
    log = tmp_path / "client.ndjson"
    log.write_text('{"time":1.0,"transport":"http","transmission":"1","recipients":["no@x.example"],"status":"ok"}\n')
    report = platform.run("audit", "--client", str(log))
    assert report.returncode == 1
    assert "lost: no@x.example" in report.stdout


@pytest.mark.foreign
def test_the_curl_line_of_a_token_reaches_the_target(platform: RunningPlatform) -> None:
    """Any SOCKS5 client can use the proxy that owns an IP."""
    sink = json.loads((platform.data / "credentials.json").read_text())["sink"]
    target = f"127.1.1.1:{sink.rpartition(':')[2]}"
    printed = platform.run("proxy", "token", "--binding", "127.0.0.22", "--target", target).stdout
    (line,) = (line for line in printed.splitlines() if line.startswith("  curl "))
    assert shell(line).startswith("250 ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--binding", "127.0.0.99", "--target", "127.1.1.1:25"), "no binding 127.0.0.99; there are 127.0.0.11, "),
        (("--binding", "127.0.0.11", "--target", "mx.example:25"), "a token opens one IP address"),
        (("--binding", "127.0.0.11", "--target", "127.1.1.1"), "'127.1.1.1' is not HOST:PORT"),
    ],
)
def test_a_token_for_nothing_is_refused(platform: RunningPlatform, options: tuple[str, ...], said: str) -> None:
    """One line says what is wrong."""
    refused = platform.run("proxy", "token", *options)
    assert refused.returncode == 1
    assert said in refused.stderr and refused.stderr.count("\n") == 1


def test_pools_and_bindings_are_listed(platform: RunningPlatform) -> None:
    """Each pool with an IP of each proxy, all alive."""
    pools = json.loads(platform.run("pool", "list", "--json").stdout)
    assert {pool["name"]: set(pool["weights"]) for pool in pools} == {
        "default": {"127.0.0.11", "127.0.0.21"},
        "bulk": {"127.0.0.12", "127.0.0.22"},
    }
    bindings = json.loads(platform.run("binding", "list", "--json").stdout)
    assert [binding["alive"] for binding in bindings] == [True] * 4
    assert len({binding["proxy"] for binding in bindings}) == 2
    assert "out11.postfleet.example" in platform.run("binding", "list").stdout


def test_a_second_platform_on_the_same_folder_is_refused(platform: RunningPlatform) -> None:
    """Two supervisors must not share one data directory."""
    refused = platform.run("up", *FREE)
    assert refused.returncode == 1
    assert f"a platform runs on {platform.data} already" in refused.stderr


async def test_a_service_runs_by_itself(platform: RunningPlatform) -> None:
    """`run` is the service's own process: it stops on SIGTERM and leaves the platform running."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "postfleet.cli", "run", "control",
        env=environment(platform.data), stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    assert b"control_started" in await process.stderr.readline()
    process.terminate()
    _, said = await process.communicate()
    assert process.returncode == 0, said
