from __future__ import annotations

from pathlib import Path

import pytest

from ingest.producers import load_producers, parse_producers, producer_of
from postfleet.handover import S3Object

PRODUCERS = """
[[producer]]
id = "AROA5ROLE"
tenant = 7
prefix = "acme/mail/"

[[producer]]
id = "AIDA5USER"
tenant = 8

[[producer]]
id = "123456789012"
tenant = 0
prefix = "ours/"
"""


@pytest.mark.parametrize(
    ("sender_id", "tenant"),
    [
        ("AROA5ROLE:i-0123", 7),
        ("AROA5ROLE:AIDA5USER", 7),
        ("AROA5ROLE:a:b", 7),
        ("AROA5ROLE", 7),
        ("AIDA5USER", 8),
        ("123456789012", 0),
        ("AIDA5OTHER", None),
        ("AROA5OTHER:AROA5ROLE", None),
        ("aida5user", None),
        (":AIDA5USER", None),
        (" AIDA5USER", None),
        ("AIDA5USER2", None),
        ("", None),
    ],
)
def test_whose_entry(sender_id: str, tenant: int | None) -> None:
    """The id before the colon decides, and nothing that a sender can choose."""
    found = producer_of(sender_id, parse_producers(PRODUCERS, "here"))
    assert (found.tenant if found else None) == tenant


@pytest.mark.parametrize(
    ("producer", "bucket", "key", "allowed"),
    [
        ("AROA5ROLE", "acme", "mail/1.json", True),
        ("AROA5ROLE", "acme", "mail/deep/1.json", True),
        ("AROA5ROLE", "acme", "mail", False),
        ("AROA5ROLE", "acme", "mailbox/1.json", False),
        ("AROA5ROLE", "acme", "1.json", False),
        ("AROA5ROLE", "acme2", "mail/1.json", False),
        ("AROA5ROLE", "acme/mail", "1.json", False),
        ("AIDA5USER", "acme", "mail/1.json", False),
        ("123456789012", "ours", "any/where", True),
        ("123456789012", "ours2", "any/where", False),
    ],
)
def test_what_a_producer_may_refer_to(producer: str, bucket: str, key: str, allowed: bool) -> None:
    """Objects of its own bucket, under its own folder; nothing without a configured prefix."""
    assert parse_producers(PRODUCERS, "here")[producer].may_refer_to(S3Object(bucket, key)) is allowed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[producer]", "here: "),
        ("[[producer]]\nid = 'A'", "missing required field `tenant`"),
        ("[[producer]]\nid = 'A'\ntenant = -1", ">= 0"),
        ("[[producer]]\nid = 'A'\ntenant = 1\nname = 'x'", "unknown field `name`"),
        ("[[producers]]\nid = 'A'", "unknown field `producers`"),
        ("[[producer]]\nid = 'AROA:session'\ntenant = 1", "before the colon"),
        ("[[producer]]\nid = 'A'\ntenant = 1\nprefix = 'bucket/folder'", "last slash"),
        ("[[producer]]\nid = 'A'\ntenant = 1\nprefix = '/'", "last slash"),
        ("[[producer]]\nid = 'A'\ntenant = 1\n[[producer]]\nid = 'A'\ntenant = 2", "twice"),
    ],
)
def test_bad_configuration(text: str, said: str) -> None:
    """Names the place and what is wrong with it."""
    with pytest.raises(ValueError, match=said) as raised:
        parse_producers(text, "here")
    assert str(raised.value).startswith("here: ")


def test_no_file_means_nobody(tmp_path: Path) -> None:
    """Without `producers.toml` no sender is known."""
    assert load_producers(tmp_path / "producers.toml") == {}
