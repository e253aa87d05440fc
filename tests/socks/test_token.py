"""The proxy token."""

from __future__ import annotations

import base64
import hmac

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postfleet.socks.token import Claims, Denial, sign, verify

KEY = b"k" * 32
TARGET = ("198.51.100.7", 25)
CLAIMS = Claims(
    source="192.0.2.1",
    host=TARGET[0],
    port=TARGET[1],
    limit_key="gmail",
    max_connections=20,
    policy_version=7,
    expires=2000,
    connections_per_minute=600,
)
TOKEN = sign(KEY, CLAIMS)

any_claims = st.builds(
    Claims,
    source=st.ip_addresses().map(str),
    host=st.ip_addresses().map(str),
    port=st.integers(0, 65535),
    limit_key=st.text(max_size=50),
    max_connections=st.integers(0, 10**6),
    policy_version=st.integers(0, 2**63 - 1),
    expires=st.integers(1, 2**40),
    connections_per_minute=st.integers(0, 10**6),
)


@given(any_claims)
def test_what_was_signed_is_granted(claims: Claims) -> None:
    """A token gives back its claims to the source and target that it names, until it expires."""
    token = sign(KEY, claims)
    assert verify(KEY, claims.source, token, (claims.host, claims.port), claims.expires - 1) == claims
    assert verify(KEY, claims.source, token, (claims.host, claims.port), claims.expires) is Denial.EXPIRED


@given(any_claims, st.text(max_size=400))
def test_every_token_fits_the_password_field(claims: Claims, limit_key: str) -> None:
    """Whatever the limit key, the token has at most 255 bytes."""
    token = sign(KEY, msgspec.structs.replace(claims, limit_key=limit_key, policy_version=2**63))
    assert len(token.encode()) <= 255


def test_long_limit_keys_stay_apart() -> None:
    """Limit keys too long for the token are replaced by different digests."""
    keys = set()
    for limit_key in ("mx." * 60 + "a", "mx." * 60 + "b"):
        granted = verify(
            KEY,
            CLAIMS.source,
            sign(KEY, msgspec.structs.replace(CLAIMS, limit_key=limit_key)),
            TARGET,
            0,
        )
        assert isinstance(granted, Claims)
        keys.add(granted.limit_key)
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("username", "target"),
    [
        ("192.0.2.2", TARGET),
        ("192.0.2.1", ("198.51.100.8", 25)),
        ("192.0.2.1", ("198.51.100.7", 26)),
        ("::ffff:192.0.2.1", TARGET),
    ],
)
def test_a_stolen_token_opens_nothing_else(username: str, target: tuple[str, int]) -> None:
    """Another source, host or port is refused."""
    assert verify(KEY, username, TOKEN, target, 1000) is Denial.FORGED


def test_another_key_is_refused() -> None:
    """A token signed with another key is refused."""
    assert verify(b"x" * 32, CLAIMS.source, TOKEN, TARGET, 1000) is Denial.FORGED


@given(st.integers(0, len(TOKEN) - 1), st.characters(codec="ascii"))
def test_a_changed_token_is_refused(position: int, character: str) -> None:
    """No single changed character leaves a token valid."""
    changed = TOKEN[:position] + character + TOKEN[position + 1 :]
    granted = verify(KEY, CLAIMS.source, changed, TARGET, 1000)
    assert granted == CLAIMS if changed == TOKEN else isinstance(granted, Denial)


@given(st.text(max_size=255), st.text(max_size=30))
def test_garbage_is_refused(token: str, username: str) -> None:
    """No text makes verification raise or grant."""
    assert isinstance(verify(KEY, username, token, TARGET, 1000), Denial)


def test_fields_of_a_newer_release_are_passed_over() -> None:
    """A grant with more fields than this release knows is still read."""
    assert verify(KEY, CLAIMS.source, signed(b'[2000,"gmail",20,7,600,"more"]'), TARGET, 1000) == CLAIMS


def test_tokens_of_the_release_before_still_open() -> None:
    """A grant that says nothing of a connection rate sets none."""
    without_rate = msgspec.structs.replace(CLAIMS, connections_per_minute=0)
    assert verify(KEY, CLAIMS.source, signed(b'[2000,"gmail",20,7]'), TARGET, 1000) == without_rate


def signed(grant: bytes) -> str:
    scope = (b"\xc0\x00\x02\x01", b"\xc6\x33\x64\x07", b"\x00\x19", grant)
    message = b"postfleet proxy token 1" + b"".join(len(part).to_bytes(2, "big") + part for part in scope)
    return base64.urlsafe_b64encode(hmac.digest(KEY, message, "sha256") + grant).rstrip(b"=").decode()
