"""Who may connect from where to where."""

from __future__ import annotations

import msgspec
import pytest

from ip_proxy.access import Access, Denied, Granted, judge
from postfleet.socks.server import ConnectRequest
from postfleet.socks.token import Claims, sign
from postfleet.socks.wire import Reply

KEY = b"k" * 32
ACCESS = Access(KEY, {"8.8.4.4": "10.0.0.5", "2600::5": "2600::5"})
CLAIMS = Claims(
    source="8.8.4.4",
    host="8.8.8.8",
    port=25,
    limit_key="site",
    max_connections=3,
    policy_version=1,
    expires=1000,
)


def request(claims: Claims, **changes: object) -> ConnectRequest:
    made = ConnectRequest(claims.source, sign(KEY, claims), claims.host, claims.port, b"")
    return msgspec.structs.replace(made, **changes)


def test_a_valid_token_is_granted_the_local_address() -> None:
    """The public source of the token is bound by its local address."""
    assert judge(ACCESS, request(CLAIMS), 999) == Granted(CLAIMS, "10.0.0.5")


@pytest.mark.parametrize(
    ("changes", "code", "label"),
    [
        ({"source": "8.8.4.5"}, Reply.GENERAL_FAILURE, "source_unknown"),
        ({"source": "10.0.0.5"}, Reply.GENERAL_FAILURE, "source_unknown"),
        ({"host": "10.0.0.1"}, Reply.NOT_ALLOWED, "target"),
        ({"host": "127.0.0.1"}, Reply.NOT_ALLOWED, "target"),
        ({"port": 22}, Reply.NOT_ALLOWED, "target"),
        ({"host": "2a00::1"}, Reply.ADDRESS_TYPE_NOT_SUPPORTED, "address_family"),
        ({"source": "2600::5"}, Reply.ADDRESS_TYPE_NOT_SUPPORTED, "address_family"),
        ({"expires": 999}, Reply.NOT_ALLOWED, "token_expired"),
    ],
)
def test_well_signed_requests_can_be_denied(changes: dict[str, object], code: Reply, label: str) -> None:
    """Foreign sources, forbidden targets, other families and old tokens are denied with their own code."""
    assert judge(ACCESS, request(msgspec.structs.replace(CLAIMS, **changes)), 999) == Denied(code, label)


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"host": "8.8.8.9"}, "token_forged"),
        ({"port": 587}, "token_forged"),
        ({"username": "2600::5"}, "token_forged"),
        ({"password": "A" * 60}, "token_forged"),
        ({"password": "*"}, "token_malformed"),
        ({"username": "postfleet"}, "token_malformed"),
    ],
)
def test_tokens_that_do_not_fit_are_denied(changes: dict[str, object], label: str) -> None:
    """A token for something else, or none at all, is denied with code 2."""
    assert judge(ACCESS, request(CLAIMS, **changes), 999) == Denied(Reply.NOT_ALLOWED, label)
