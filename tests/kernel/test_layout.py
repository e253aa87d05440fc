from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from postfleet.layout import PACK_MESSAGES, chunks, cut, lay_out, unit_entries
from postfleet.stages import Message, Submission, UnitEntry, decode_messages, encode


def submission(identity: str, recipients: int, tenant: int = 0, content: bytes = b"content") -> Submission:
    messages = tuple(Message(n, f"u{n}@x.test") for n in range(recipients))
    return Submission(identity, tenant, content, "raw", messages, "shop.example", "bounces.shop.example")


def laid_out(
    submissions: list[Submission], base: int = 0, now: float = 0.0, lifetime: float = 1.0
) -> tuple[bytes, list[tuple[int, UnitEntry]]]:
    data, placed = lay_out(submissions)
    return data, unit_entries(placed, "mail/k", base, now, lifetime)


def test_one_blob_serves_all() -> None:
    """Contents stand one after the other; each transmission knows its place in the store's blob."""
    blob, entries = laid_out(
        [submission("1", 1, content=b"one"), submission("2", 1, content=b"twos")], 100, now=5.0, lifetime=9.0
    )
    assert blob == b"onetwos"
    ((tenant, entry),) = entries
    (pack,) = entry.units
    places = [(group.transmission.content.offset, group.transmission.content.length) for group in pack.groups]
    assert (tenant, places) == (0, [(100, 3), (103, 4)])
    assert pack.groups[0].transmission.expires_at == 14.0


def test_tenants_do_not_share_an_entry() -> None:
    """One entry for each tenant of a commit."""
    _, entries = laid_out([submission("1", 1, tenant=1), submission("2", 1, tenant=2)])
    assert sorted(tenant for tenant, _ in entries) == [1, 2]


def test_a_large_transmission_is_a_manifest_of_pages() -> None:
    """It is one entry, whatever its size; its pages are chunks that hold all its recipients."""
    blob, ((_, entry),) = laid_out([submission("7", PACK_MESSAGES + 5)])
    (manifest,) = entry.manifests
    units = chunks(manifest)
    assert [unit.id for unit in units] == ["c7.0", "c7.1"]
    pages = [unit.page for unit in units]
    found = [m for page in pages if page for m in decode_messages(blob[page.offset : page.offset + page.length])]
    assert [message.index for message in found] == list(range(PACK_MESSAGES + 5))


def test_packs_are_named_after_their_first_transmission() -> None:
    """A pack's id is fixed with its content."""
    _, ((_, entry),) = laid_out([submission("3", 1), submission("4", 1)])
    assert entry.units[0].id == "p3"


@given(st.lists(st.integers(0, 300), max_size=50), st.integers(1, 10), st.integers(64, 1000))
def test_cutting_keeps_everything_in_order(sizes: list[int], most: int, most_bytes: int) -> None:
    """Pages hold all messages, in order, within bounds but for a single message that is larger."""
    messages = [Message(n, "a@x.test", name="n" * size) for n, size in enumerate(sizes)]
    pages = cut(messages, most, most_bytes)
    assert [message for page in pages for message in page] == messages
    for page in pages:
        assert len(page) <= most
        assert len(page) <= 1 or sum(len(encode(message)) for message in page) <= most_bytes + 64 * len(page)
