"""What a producer puts into the inbox queue: a public type of its own, in versions.

An entry is one JSON object in UTF-8. It names no tenant: who sent it is what SQS says of the sender. `python -m
postfleet.handover` prints the JSON Schema.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from postfleet.ports import MAX_ENTRY

MAX_HANDOVER = MAX_ENTRY - 4096
"""Largest entry, bytes. What is left of SQS's limit belongs to what a dead letter says of its entry."""

T = TypeVar("T")


class Address(Struct, frozen=True, omit_defaults=True):
    email: str
    name: str = ""
    header_to: str = ""
    """Shown in To instead of the address."""


class Recipient(Struct, frozen=True, omit_defaults=True):
    address: Address | str
    substitution_data: dict[str, Any] = {}
    metadata: dict[str, Any] = {}


class Sender(Struct, frozen=True, omit_defaults=True):
    email: str
    name: str = ""


class Content(Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"from_": "from"}):
    """At least one of `text` and `html`."""

    from_: Sender | str
    subject: str
    text: str | None = None
    html: str | None = None
    reply_to: str = ""
    headers: dict[str, str] = {}


class Options(Struct, frozen=True, omit_defaults=True):
    ip_pool: str = ""
    perform_substitutions: bool = True


class Transmission(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of `POST /api/v1/transmissions`, held to the same rules."""

    content: Content
    recipients: Annotated[tuple[Recipient, ...], Meta(min_length=1)]
    options: Options = Options()
    campaign_id: str = ""
    substitution_data: dict[str, Any] = {}
    metadata: dict[str, Any] = {}


class S3Object(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An object under the producer's own prefix. It is read before the entry is accepted, and not again after."""

    bucket: Annotated[str, Meta(min_length=1)]
    key: Annotated[str, Meta(min_length=1)]
    version_id: str = ""


class Handover(Struct, Generic[T], frozen=True, kw_only=True, tag_field="version", tag=1, forbid_unknown_fields=True):
    """One transmission to accept once, however often it is handed over under its id."""

    id: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[ -~]*$(?!\n)")]
    """The producer's own, printable ASCII; one tenant's producers share its ids."""
    transmission: T | UnsetType = UNSET
    transmission_in: S3Object | UnsetType = UNSET
    """Where the JSON of the transmission is, instead of here."""

    def __post_init__(self) -> None:
        if (self.transmission is UNSET) == (self.transmission_in is UNSET):
            raise ValueError("needs either `transmission` or `transmission_in`")


class UnreadableHandover(ValueError):
    """Says what is wrong with the entry, and where."""


class _Versioned(Struct):
    version: int


_decode_version = msgspec.json.Decoder(_Versioned).decode
_decode_first = msgspec.json.Decoder(Handover[Raw]).decode


def read_handover(body: bytes) -> Handover[Raw]:
    """The transmission is left as it was written. Raises `UnreadableHandover`."""
    if len(body) > MAX_HANDOVER:
        raise UnreadableHandover(f"{len(body)} bytes are over the limit of {MAX_HANDOVER}; use `transmission_in`")
    try:
        version = _decode_version(body).version
        if version != 1:
            raise UnreadableHandover(f"version {version} is not known here; version 1 is")
        return _decode_first(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableHandover(str(error)) from None


def json_schema() -> bytes:
    either = Meta(
        title="Handover",
        extra_json_schema={"oneOf": [{"required": ["transmission"]}, {"required": ["transmission_in"]}]},
    )
    schema = msgspec.json.schema(Annotated[Handover[Transmission], either])
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"


if __name__ == "__main__":
    sys.stdout.buffer.write(json_schema())
