from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from postfleet.handover import (
    MAX_HANDOVER,
    Address,
    Content,
    Handover,
    Options,
    Recipient,
    S3Object,
    Sender,
    Transmission,
    UnreadableHandover,
    json_schema,
    read_handover,
)

SCHEMA = Path(__file__).parents[2] / "docs/handover.schema.json"


def entry(**changes: Any) -> bytes:
    """A change to None takes the field away."""
    fields = {"version": 1, "id": "a 1", "transmission": {"content": {}}} | changes
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def test_reads_an_entry() -> None:
    """Id and transmission come as they were written."""
    read = read_handover(b'{"version": 1, "id": "a 1", "transmission": {"x":  [1]}}')
    assert read.id == "a 1" and bytes(read.transmission) == b'{"x":  [1]}'  # type: ignore[arg-type]


def test_reads_a_reference() -> None:
    """An entry may say where the transmission is."""
    place = {"bucket": "b", "key": "k/1", "version_id": "v"}
    assert read_handover(entry(transmission=None, transmission_in=place)).transmission_in == S3Object("b", "k/1", "v")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"no json", "malformed"),
        (b"\xff", "malformed"),
        (b"[]", "Expected `object`"),
        (b'{"version": 1, "id": "a", "transmission": ' + b"[" * 100_000, "recursion"),
        (entry(version=None), "missing required field `version`"),
        (entry(version=2), "version 2 is not known"),
        (entry(version="1"), "Expected `int`"),
        (entry(tenant=3), "unknown field `tenant`"),
        (entry(id=None), "missing required field `id`"),
        (entry(id=""), "length >= 1"),
        (entry(id="x" * 129), "length <= 128"),
        (entry(id="ä"), "matching regex"),
        (entry(id="a\n"), "matching regex"),
        (entry(transmission=None), "either `transmission` or `transmission_in`"),
        (entry(transmission_in={"bucket": "b", "key": "k"}), "either `transmission` or `transmission_in`"),
        (entry(transmission=None, transmission_in={"bucket": "b"}), "missing required field `key`"),
        (entry(transmission=None, transmission_in={"bucket": "b", "key": "k", "x": 1}), "unknown field `x`"),
        (entry(transmission={"text": "x" * MAX_HANDOVER}), "over the limit"),
    ],
)
def test_unreadable_entries(body: bytes, said: str) -> None:
    """Whatever is not exactly the type is refused, and the reason says what and where."""
    with pytest.raises(UnreadableHandover, match=said):
        read_handover(body)


def test_typed_entries_are_read_back() -> None:
    """What the types encode to is an entry, without the fields that were left alone."""
    transmission = Transmission(
        content=Content(from_=Sender("ann@example.com", "Ann"), subject="Hi", text="Hello"),
        recipients=(Recipient(Address("bob@example.org")), Recipient("eve@example.org", {"name": "Eve"})),
        options=Options(ip_pool="default"),
    )
    read = read_handover(msgspec.json.encode(Handover(id="a", transmission=transmission)))
    assert json.loads(bytes(read.transmission)) == {  # type: ignore[arg-type]
        "content": {"from": {"email": "ann@example.com", "name": "Ann"}, "subject": "Hi", "text": "Hello"},
        "recipients": [
            {"address": {"email": "bob@example.org"}},
            {"address": "eve@example.org", "substitution_data": {"name": "Eve"}},
        ],
        "options": {"ip_pool": "default"},
    }


def test_the_published_schema_is_current() -> None:
    """`docs/handover.schema.json` is what the types say; `python -m postfleet.handover` prints it."""
    assert SCHEMA.read_bytes() == json_schema()
