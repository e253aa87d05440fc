"""Hands mail over by Postfleet's inbox queue with nothing but boto3 and JSON.

    python examples/producer_raw_boto3.py --queue postfleet-inbox --from news@shop.example --to-domain example.org

Region, credentials and AWS_ENDPOINT_URL are those of the environment. `--run` names the run: the same run again sends
nothing twice, since Postfleet accepts an id once.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import boto3

BATCH = 10


def entry(run: str, number: int, sender: str, domain: str) -> dict[str, Any]:
    return {
        "version": 1,
        "id": f"{run}-{number}",
        "transmission": {
            "content": {
                "from": sender,
                "subject": "Hello {{name}}",
                "text": "Hello {{name}}, this came by the inbox queue.",
            },
            "recipients": [{"address": f"user{number}@{domain}", "substitution_data": {"name": f"user {number}"}}],
        },
    }


def send(sqs: Any, queue_url: str, entries: list[dict[str, Any]]) -> None:
    """One batch. SQS takes a batch in parts: what it did not take is in `Failed`."""
    bodies = [{"Id": str(place), "MessageBody": json.dumps(each)} for place, each in enumerate(entries)]
    failed = sqs.send_message_batch(QueueUrl=queue_url, Entries=bodies).get("Failed", [])
    if failed:
        names = [entries[int(each["Id"])]["id"] for each in failed]
        raise SystemExit(f"not handed over: {', '.join(names)}: {failed[0].get('Message')}")


def main() -> None:
    parser = argparse.ArgumentParser(description="hands mail over by Postfleet's inbox queue")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--queue-url")
    where.add_argument("--queue", help="the queue's name, as in postfleet-inbox")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--from", dest="sender", required=True, help="address in a verified sending domain")
    parser.add_argument("--to-domain", required=True, help="recipients are user0@, user1@ ... of this domain")
    parser.add_argument("--run", default=f"run-{time.time_ns()}", help="first part of the ids")
    options = parser.parse_args()

    sqs = boto3.client("sqs")
    queue_url = options.queue_url or sqs.get_queue_url(QueueName=options.queue)["QueueUrl"]
    entries = [entry(options.run, number, options.sender, options.to_domain) for number in range(options.count)]
    for start in range(0, len(entries), BATCH):
        batch = entries[start : start + BATCH]
        send(sqs, queue_url, batch)
        for each in batch:
            print(each["id"], each["transmission"]["recipients"][0]["address"])


if __name__ == "__main__":
    main()
