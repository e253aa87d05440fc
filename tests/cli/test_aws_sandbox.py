"""The whole platform with its stores on moto and SeaweedFS, which `up` starts itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from support.eventually import wait_for
from support.kills import AWS_SANDBOX_SETTINGS
from support.platform import FREE, ROOT, RunningPlatform, alive, postfleet, running_platform

from postfleet.deployment import DataDir
from postfleet.evidence import LedgerMessage

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("aws-sandbox")]

MIX = ("--local-part", "ann=8", "--local-part", "defer1=2", "--local-part", "bounce", "--local-part", "drop1")
SENDER = "hello@shop.example"
SETTINGS = AWS_SANDBOX_SETTINGS.replace("retry_factor = 1.0", "retry_factor = 3.0")
"""Parks soon become long enough to be seen."""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    with running_platform(tmp_path_factory.mktemp("aws") / "var", SETTINGS, "--aws-sandbox") as running:
        yield running
        pids = running.pids()
        assert running.stop() == 0
    assert len(pids) == 11 and not any(map(alive, pids))


@pytest.fixture(scope="module")
def variables(platform: RunningPlatform) -> dict[str, str]:
    """What `aws.env` says to a shell that knows nothing else."""
    shell = f". {platform.data / 'aws.env'} && env"
    printed = subprocess.run(["sh", "-c", shell], env={"AWS_PROFILE": "other"}, capture_output=True, text=True).stdout
    return {name: value for name, _, value in (line.partition("=") for line in printed.splitlines()) if "AWS" in name}


@pytest.fixture(scope="module")
def sqs(variables: dict[str, str]) -> Any:
    return boto3.client(
        "sqs",
        endpoint_url=variables["AWS_ENDPOINT_URL"],
        region_name=variables["AWS_DEFAULT_REGION"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
    )


def delivered_to(platform: RunningPlatform) -> set[str]:
    return {record.recipient for record in platform.ledger() if isinstance(record, LedgerMessage)}


def test_a_deferred_message_is_followed_to_its_delivery(platform: RunningPlatform) -> None:
    """By SMTP in, with its steps told from the events, and then in the inbox."""
    recipient = "defer1-story@inbox1.example"
    sent = platform.run("send", "--to", recipient)
    assert sent.returncode == 0, (sent, platform.logs())
    assert "deferred by" in sent.stdout and "delivered to" in sent.stdout
    story = platform.run("explain", recipient).stdout
    assert "accepted over SMTP" in story and "deferred by" in story and "delivered to" in story
    assert wait_for(lambda: recipient in platform.run("inbox").stdout)


def test_pools_and_bindings_are_listed(platform: RunningPlatform) -> None:
    """They are rows like any others."""
    assert {pool["name"] for pool in json.loads(platform.run("pool", "list", "--json").stdout)} == {"default", "bulk"}
    bindings = json.loads(platform.run("binding", "list", "--json").stdout)
    assert [binding["alive"] for binding in bindings] == [True] * 4


def test_what_the_inbox_refuses_is_a_dead_letter(platform: RunningPlatform, sqs: Any) -> None:
    """An entry that is no JSON, and one whose id came before with another transmission, each with its reason."""
    url = sqs.get_queue_url(QueueName="postfleet-inbox")["QueueUrl"]
    for text in ("one", "two"):
        content = {"from": SENDER, "subject": "Hi", "text": text}
        transmission = {"content": content, "recipients": [{"address": "again@inbox1.example"}]}
        entry = {"version": 1, "id": "again", "transmission": transmission}
        sqs.send_message(QueueUrl=url, MessageBody=json.dumps(entry))
        wait_for(lambda: "again@inbox1.example" in delivered_to(platform), 30.0)
    sqs.send_message(QueueUrl=url, MessageBody="{")
    assert sorted(_reasons_of_dead_letters(sqs, 2)) == ["id_conflict", "invalid_entry"]
    ended = [story["end"] for story in json.loads(platform.run("explain", "again@inbox1.example", "--json").stdout)]
    assert ended == ["delivered"]


def _reasons_of_dead_letters(sqs: Any, count: int) -> list[str]:
    url = sqs.get_queue_url(QueueName="postfleet-inbox-dead")["QueueUrl"]
    found: list[str] = []

    def all_there() -> bool:
        reply = sqs.receive_message(QueueUrl=url, MessageAttributeNames=["All"], WaitTimeSeconds=1)
        found.extend(each["MessageAttributes"]["reason"]["StringValue"] for each in reply.get("Messages", ()))
        return len(found) >= count

    wait_for(all_there, 30.0)
    return found


def test_mail_by_every_way_in_is_audited(platform: RunningPlatform, variables: dict[str, str]) -> None:
    """HTTP, SMTP and a producer that knows only boto3; worker, router and ingest killed; nothing lost or doubled."""
    paced = ("load", "--json", "--count", "40", "--rate", "8", *MIX)
    loads = [platform.spawn(*paced, "--recipients", "4"), platform.spawn(*paced, "--transport", "smtp")]
    command = [sys.executable, str(ROOT / "examples/producer_raw_boto3.py"), "--queue", "postfleet-inbox"]
    for _ in range(2):
        options = ["--count", "20", "--run", "r", "--from", SENDER, "--to-domain", "inbox2.example"]
        subprocess.run([*command, *options], env={**os.environ, **variables}, check=True, capture_output=True)
    for service in ("worker-1", "router", "ingest"):
        os.kill(platform.pid(service), signal.SIGKILL)
    counts = [json.loads(load.communicate(timeout=60)[0]) for load in loads]
    assert [count["failed"] for count in counts] == [0, 0]
    wait_for(lambda: {f"user{n}@inbox2.example" for n in range(20)} <= delivered_to(platform), 60.0)
    done = platform.run("audit", "--wait", "60", "--json", timeout=90)
    report = json.loads(done.stdout)
    assert (done.returncode, report["violations"], report["lost"]) == (0, [], 0), report
    assert report["accepted"] >= sum(count["ok"] for count in counts) + 20


def test_a_parked_message_is_found_by_its_last_event(platform: RunningPlatform) -> None:
    """SQS does not show the entry; the delay that it was sent with is known."""
    assert platform.run("send", "--to", "defer9-wait@live2.example", "--timeout", "0.5").returncode == 3
    wait_for(lambda: "now: parked until" in platform.run("explain", "defer9-wait@live2.example").stdout, 60.0)
    backlog = json.loads(platform.run("queue", "--json").stdout)
    assert "SQS counts about" in backlog["note"]
    assert {"units", "gmail", "inbox", "inbox-dead"} <= {each["queue"] for each in backlog["queues"]}


def test_without_moto_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing stays behind."""
    (tmp_path / "moto.py").write_text("raise ImportError")
    monkeypatch.setattr("support.platform.ROOT", f"{tmp_path}:{ROOT}")
    refused = postfleet(tmp_path / "var", "up", *FREE, "--aws-sandbox")
    assert refused.returncode == 1
    assert refused.stderr.startswith("postfleet up: moto is not installed: ") and refused.stderr.count("\n") == 1
    assert not list((tmp_path / "var" / "run").glob("*.pid"))


def test_stores_do_not_change_under_a_platform(platform: RunningPlatform, tmp_path: Path) -> None:
    """Mail that was accepted in the other stores would stay there."""
    (tmp_path / "run.json").write_bytes((platform.data / "run.json").read_bytes())
    assert DataDir(tmp_path).deployment().aws is not None
    refused = postfleet(tmp_path, "up", *FREE)
    assert refused.returncode == 1
    assert "has its stores in the AWS sandbox (--aws-sandbox), not on this machine" in refused.stderr
