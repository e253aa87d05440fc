from __future__ import annotations

import pytest

from postfleet.smtp.replies import Reply
from sandbox.behaviour import Behaviours, FinalDot, Script, parse_script

PEER, SENDER = "127.0.0.11", "b-token@bounces.example"


def codes(behaviours: Behaviours, recipient: str, tries: int) -> list[int]:
    replies = [behaviours.at_recipient(PEER, SENDER, recipient, 0.0) for _ in range(tries)]
    return [reply.code if reply else 250 for reply in replies]


@pytest.mark.parametrize(
    ("local_part", "script"),
    [
        ("ann", None),
        ("bounce", None),
        ("defer", None),
        ("deferent-ann", None),
        ("bounce-ann", Script("bounce")),
        ("BOUNCE-ann", Script("bounce")),
        ("defer12-ann", Script("defer", 12)),
        ("slow-ann", Script("slow", 5)),
        ("slow2-ann", Script("slow", 2)),
        ("421-ann", Script("421")),
    ],
)
def test_local_parts_ask_for_behaviours(local_part: str, script: Script | None) -> None:
    """A known word, a number if any, and a hyphen."""
    assert parse_script(local_part) == script


def test_everything_is_accepted_unless_asked_otherwise() -> None:
    """Any local part, the null sender too."""
    behaviours = Behaviours()
    assert behaviours.at_recipient(PEER, "", "ann@x.example", 0.0) is None
    assert behaviours.at_final_dot("ann@x.example") == FinalDot()


def test_deferrals_are_counted_per_recipient() -> None:
    """So many temporary refusals, then the message is taken, however often it comes."""
    behaviours = Behaviours()
    assert codes(behaviours, "defer2-ann@x.example", 4) == [451, 452, 250, 250]
    assert codes(behaviours, "defer2-bob@x.example", 3) == [451, 452, 250]


def test_bounces_never_end() -> None:
    """An unknown user stays unknown."""
    assert codes(Behaviours(), "bounce-ann@x.example", 3) == [550] * 3


def test_blocks_name_the_address_that_is_blocked() -> None:
    """The reply is about the sending IP, and ends after so many."""
    behaviours = Behaviours()
    reply = behaviours.at_recipient(PEER, SENDER, "block-ann@x.example", 0.0)
    assert isinstance(reply, Reply)
    assert str(reply).startswith("554 5.7.1 Service unavailable; Client host [127.0.0.11] blocked")
    assert codes(behaviours, "block-ann@x.example", 1) == [250]


def test_greylisting_waits_for_the_same_triplet() -> None:
    """The same peer, sender domain and recipient, long enough after the first time."""
    behaviours = Behaviours(greylist=2.0)

    def code(peer: str, sender: str, now: float) -> int:
        reply = behaviours.at_recipient(peer, sender, "greylist-ann@x.example", now)
        return reply.code if reply else 250

    assert code(PEER, "b-1@bounces.example", 10.0) == 450
    assert code(PEER, "b-1@bounces.example", 11.9) == 450
    assert code("127.0.0.12", "b-1@bounces.example", 12.0) == 450
    assert code(PEER, "b-1@elsewhere.example", 12.0) == 450
    assert code(PEER, "b-2@bounces.example", 12.0) == 250


def test_421_closes_at_the_recipient() -> None:
    """A reply of 421 ends the connection."""
    assert codes(Behaviours(), "421-ann@x.example", 1) == [421]


def test_drops_are_counted_per_recipient() -> None:
    """The connection is cut so many times, then answered."""
    behaviours = Behaviours()
    assert [behaviours.at_final_dot("drop2-ann@x.example").cut for _ in range(3)] == [True, True, False]


def test_slow_answers_late() -> None:
    """In seconds."""
    assert Behaviours().at_final_dot("slow3-ann@x.example") == FinalDot(delay=3)


def test_domains_can_have_another_default() -> None:
    """A domain's behaviour holds for local parts that ask for none."""
    behaviours = Behaviours({"x.example": "bounce"})
    assert codes(behaviours, "ann@X.example", 1) == [550]
    assert codes(behaviours, "accept-ann@x.example", 1) == [250]
    assert codes(behaviours, "ann@y.example", 1) == [250]


def test_memory_is_bounded() -> None:
    """The oldest recipient is forgotten, and deferred again."""
    behaviours = Behaviours(max_state=2)
    for name in "abc":
        assert codes(behaviours, f"defer1-{name}@x.example", 1) == [451]
    assert codes(behaviours, "defer1-a@x.example", 1) == [451]
    assert codes(behaviours, "defer1-c@x.example", 1) == [250]
