from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postfleet.content.return_path import HOUR, ReturnPath, decode, encode

KEY = b"k" * 32
ADDRESS = encode(KEY, 7, "102293692714480130", 4, 1_760_000_000.5, "bounces.example")


@given(
    tenant=st.integers(0, 2**32 - 1),
    transmission=st.integers(0, 2**80 - 1).map(str),
    index=st.integers(0, 2**24 - 1),
    hours=st.integers(0, 2**24 - 1),
)
def test_decoding_returns_what_was_encoded(tenant: int, transmission: str, index: int, hours: int) -> None:
    """Every message that can exist is named by its return path again."""
    address = encode(KEY, tenant, transmission, index, hours * HOUR, "bounces.example")
    assert decode(KEY, address) == ReturnPath(tenant, transmission, index, hours * HOUR)


def test_the_address_is_a_legal_one() -> None:
    """The local part is at most 64 characters of letters, digits and one hyphen."""
    local_part, _, domain = ADDRESS.partition("@")
    assert domain == "bounces.example"
    assert len(local_part) <= 64
    assert local_part.startswith("b-")
    assert local_part[2:].isalnum() and local_part == local_part.lower()


def test_expiry_is_rounded_up_to_the_hour() -> None:
    """A return path never expires before its message."""
    path = decode(KEY, ADDRESS)
    assert path is not None
    assert 0 <= path.expires - 1_760_000_000.5 < HOUR


def test_letter_case_does_not_matter() -> None:
    """A host that upper-cases local parts does no harm."""
    assert decode(KEY, ADDRESS.upper()) == decode(KEY, ADDRESS)


def test_another_key_decodes_nothing() -> None:
    """An address that another platform signed names no message here."""
    assert decode(b"x" * 32, ADDRESS) is None


@given(
    position=st.integers(2, 59),
    letter=st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"),
)
def test_a_changed_character_is_refused(position: int, letter: str) -> None:
    """No character of the token can be changed, but for the unused bits of the last."""
    changed = ADDRESS[:position] + letter + ADDRESS[position + 1 :]
    decoded = decode(KEY, changed)
    assert decoded is None or decoded == decode(KEY, ADDRESS)
    assert decoded is None or changed == ADDRESS or position == 59


@pytest.mark.parametrize(
    "address",
    [
        "",
        "@",
        "b-@bounces.example",
        "postmaster@bounces.example",
        ADDRESS[1:],
        "b-" + "1" * 58 + "@x",
        "b-" + "é" * 58,
    ],
)
def test_other_addresses_are_nobodys(address: str) -> None:
    """Whatever is no token decodes to None and raises nothing."""
    assert decode(KEY, address) is None


@given(st.text(max_size=80))
def test_garbage_decodes_to_nothing(address: str) -> None:
    """No text at all raises."""
    assert decode(KEY, address) is None


def test_numbers_too_large_are_refused() -> None:
    """A number that its field cannot hold raises rather than naming another message."""
    with pytest.raises(OverflowError):
        encode(KEY, 0, "1", 2**24, 0.0, "bounces.example")
