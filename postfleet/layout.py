"""How submissions become blobs and units: packs, pages, manifests. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from postfleet.stages import BlobRef, Group, Manifest, Message, Submission, Transmission, Unit, UnitEntry, encode

PACK_MESSAGES = 1000
PACK_BYTES = 256 * 1024
"""Most recipients of a pack or page, and most bytes of recipients in one queue entry."""


class Placed(Struct, frozen=True):
    """Where a submission's parts are in the data of its commit, as (offset, length)."""

    submission: Submission
    content: tuple[int, int]
    pages: tuple[tuple[int, int], ...]
    """Empty where the recipients travel in the queue entry."""


def lay_out(submissions: Sequence[Submission]) -> tuple[bytes, list[Placed]]:
    """The data of a commit, and what is where in it."""
    parts: list[bytes] = []
    end = 0

    def place(data: bytes) -> tuple[int, int]:
        nonlocal end
        parts.append(data)
        end += len(data)
        return end - len(data), len(data)

    placed = [
        Placed(submission, place(submission.content), tuple([place(page) for page in _pages(submission)]))
        for submission in submissions
    ]
    return b"".join(parts), placed


def _pages(submission: Submission) -> Iterable[bytes]:
    pages = cut(submission.messages, PACK_MESSAGES, PACK_BYTES)
    return map(encode, pages) if len(pages) > 1 else ()


def unit_entries(
    placed: Iterable[Placed], key: str, base: int, now: float, lifetime: float
) -> list[tuple[int, UnitEntry]]:
    """The queue entries of a commit, as (tenant, entry), whose data begins at `base` of the blob `key`.

    No transmission spans two entries.
    """
    small: dict[int, list[Group]] = {}
    entries: list[tuple[int, UnitEntry]] = []

    def reference(place: tuple[int, int]) -> BlobRef:
        return BlobRef(key, base + place[0], place[1])

    for one in placed:
        submission = one.submission
        transmission = _transmission(submission, reference(one.content), now, lifetime)
        if one.pages:
            manifest = Manifest(transmission, tuple([reference(page) for page in one.pages]))
            entries.append((submission.tenant, UnitEntry(manifests=(manifest,))))
        else:
            small.setdefault(submission.tenant, []).append(Group(transmission, submission.messages))
    for tenant, groups in small.items():
        entries += [(tenant, UnitEntry(units=(pack,))) for pack in _packs(tenant, groups)]
    return entries


def _transmission(submission: Submission, content: BlobRef, now: float, lifetime: float) -> Transmission:
    return Transmission(
        id=submission.id,
        tenant=submission.tenant,
        accepted_at=now,
        expires_at=now + lifetime,
        content=content,
        content_kind=submission.content_kind,
        sending_domain=submission.sending_domain,
        pool=submission.pool,
        campaign=submission.campaign,
        friendly_from=submission.friendly_from,
        subject=submission.subject,
        method=submission.method,
        bounce_domain=submission.bounce_domain,
        data=submission.data,
    )


def message_size(message: Message) -> int:
    """About how many bytes a message takes in an entry."""
    return 64 + len(message.address) + len(message.name) + len(message.header_to) + len(message.data)


def cut(messages: Iterable[Message], most: int, most_bytes: int) -> list[tuple[Message, ...]]:
    """Runs of at most `most` messages and about `most_bytes` bytes, at least one message each."""
    pages: list[tuple[Message, ...]] = []
    page: list[Message] = []
    size = 0
    for message in messages:
        weight = message_size(message)
        if page and (len(page) >= most or size + weight > most_bytes):
            pages.append(tuple(page))
            page, size = [], 0
        page.append(message)
        size += weight
    pages.append(tuple(page))
    return pages


def _packs(tenant: int, groups: Iterable[Group]) -> list[Unit]:
    packs: list[Unit] = []
    taken: list[Group] = []
    count = size = 0

    def close() -> None:
        packs.append(Unit("p" + taken[0].transmission.id, tenant, tuple(taken)))

    for group in groups:
        weight = 300 + len(group.transmission.data) + sum(map(message_size, group.messages))
        if taken and (count + len(group.messages) > PACK_MESSAGES or size + weight > PACK_BYTES):
            close()
            taken, count, size = [], 0, 0
        taken.append(group)
        count += len(group.messages)
        size += weight
    close()
    return packs


def chunks(manifest: Manifest) -> list[Unit]:
    """The chunk units (transmission, k) of a large transmission."""
    transmission = manifest.transmission
    return [
        Unit(f"c{transmission.id}.{k}", transmission.tenant, (Group(transmission, ()),), page=page)
        for k, page in enumerate(manifest.pages)
    ]
