"""Who may hand mail over by the inbox queue, and for which tenant: `producers.toml` in the data directory.

[[producer]]
id = "AROA5EXAMPLE5EXAMPLE"    # role id, user id, or account number for an account's root
tenant = 7
prefix = "acme-outgoing/mail/" # bucket/prefix that its entries may refer to; none if absent
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from postfleet.handover import S3Object

_ID = re.compile("[A-Z0-9]+")
_PREFIX = re.compile("[a-z0-9][a-z0-9.-]+/(.+/)?")


class KnownProducer(Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    tenant: Annotated[int, Meta(ge=0)]
    prefix: str = ""

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise ValueError(f"id {self.id!r}: capital letters and digits; of a role only what is before the colon")
        if self.prefix and not _PREFIX.fullmatch(self.prefix):
            raise ValueError(f"prefix {self.prefix!r}: write BUCKET/ or BUCKET/FOLDER/, with the last slash")

    def may_refer_to(self, place: S3Object) -> bool:
        bucket, _, folder = self.prefix.partition("/")
        return bool(bucket) and place.bucket == bucket and place.key.startswith(folder)


class _File(Struct, forbid_unknown_fields=True):
    producer: list[KnownProducer] = []


def producer_of(sender_id: str, known: Mapping[str, KnownProducer]) -> KnownProducer | None:
    """Whose entry this is. `sender_id` as SQS gives it: that of a role is followed by `:` and the session's name,
    which whoever assumes the role chooses, so that it decides nothing."""
    return known.get(sender_id.partition(":")[0])


def load_producers(path: Path) -> dict[str, KnownProducer]:
    """By id; nobody where there is no file. Raises `ValueError` that names the file and what is wrong with it."""
    return parse_producers(path.read_text(), str(path)) if path.exists() else {}


def parse_producers(text: str, where: str) -> dict[str, KnownProducer]:
    try:
        producers = msgspec.convert(tomllib.loads(text), _File).producer
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"{where}: {error}") from None
    known = {producer.id: producer for producer in producers}
    if len(known) < len(producers):
        raise ValueError(f"{where}: an id is there twice; one id means one tenant")
    return known
