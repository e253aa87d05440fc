from __future__ import annotations

import pytest

from postfleet.smtp.addresses import BadAddress, check_mailbox, parse_path, split_mailbox

LABEL = "a" * 63


@pytest.mark.parametrize(
    "address",
    ["a@b", "a.b+c@d-e.example", '"a b"@c.example', '"a\\"b>"@c.example', "a@[127.0.0.1]", "a@[IPv6:::1]",
     "!#$%&'*+-/=?^_`{|}~@x", "a" * 64 + "@x", f"a@{LABEL}.{LABEL}.{LABEL}.{'b' * 58}"],
)  # fmt: skip
def test_valid_mailboxes_pass(address):
    """Dot-strings, quoted strings, host names and literals within their lengths are addresses."""
    check_mailbox(address)
    assert parse_path(f"<{address}>") == (address, "")


@pytest.mark.parametrize(
    "address",
    ["", "a", "@b", "a@", "a@b@c", ".a@b", "a.@b", "a..b@c", "a b@c", "a@b.", "a@.b", "a@-b", "a@b-", "a@b_c", "a@b..c",
     "a@b,c", 'x"a"@b', '"a@b', '"a\n"@b', "a@[300.0.0.1]", "a@[::1]", "a@[x]", "a\x7f@b", "a\0@b", "jörg@b",
     "a@bücher.example", "a" * 65 + "@x", f"a@{LABEL}x", f"a@{LABEL}.{LABEL}.{LABEL}.{'b' * 61}", "<a@b>", "a@b>,<c@d"],
)  # fmt: skip
def test_invalid_mailboxes_are_refused(address):
    """Anything else is none, control characters above all."""
    with pytest.raises(BadAddress):
        check_mailbox(address)


def test_source_route_is_dropped():
    """RFC 5321 appendix C: a route is accepted and ignored."""
    assert parse_path("<@a.example,@b.example:c@d> SIZE=1") == ("c@d", "SIZE=1")


def test_null_path_is_empty():
    """`<>` is the address of nobody."""
    assert parse_path("<>") == ("", "")


def test_domains_compare_in_lower_case():
    """The local part stays as written."""
    assert split_mailbox('"A@b"@Example.COM') == ('"A@b"', "example.com")


def test_long_nonsense_is_refused_quickly():
    """No address costs more than its length."""
    for text in ("<" + "a" * 2000, '<"' + "\\a" * 1000, "<@" + "a." * 1000 + ":", "<a@" + "b-" * 1000):
        with pytest.raises(BadAddress):
            parse_path(text)
