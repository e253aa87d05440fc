"""How submissions become blobs and units: packs, pages, manifests. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from postfleet.stages import BlobRef, Group, Manifest, Message, Submission, Transmission, Unit, UnitEntry, encode

PACK_MESSAGES = 1000
PACK_BYTES = 256 * 1024
"""Most recipients of a pack or page, and most bytes of recipients in one queue entry."""


def lay_out(
    submissions: Sequence[Submission], key: str, now: float, lifetime: float
) -> tuple[bytes, list[tuple[int, UnitEntry]]]:
    """The blob of a commit and its queue entries as (tenant, entry). No transmission spans two entries."""
    parts: list[bytes] = []
    offset = 0
    small: dict[int, list[Group]] = {}
    entries: list[tuple[int, UnitEntry]] = []

    def place(data: bytes) -> BlobRef:
        nonlocal offset
        reference = BlobRef(key, offset, len(data))
        parts.append(data)
        offset += len(data)
        return reference

    for submission in submissions:
        transmission = _transmission(submission, place(submission.content), now, lifetime)
        pages = cut(submission.messages, PACK_MESSAGES, PACK_BYTES)
        if len(pages) == 1:
            small.setdefault(submission.tenant, []).append(Group(transmission, submission.messages))
        else:
            manifest = Manifest(transmission, tuple(place(encode(page)) for page in pages))
            entries.append((submission.tenant, UnitEntry(manifests=(manifest,))))
    for tenant, groups in small.items():
        entries += [(tenant, UnitEntry(units=(pack,))) for pack in _packs(tenant, groups)]
    return b"".join(parts), entries


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
