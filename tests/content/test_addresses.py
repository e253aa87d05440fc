from __future__ import annotations

import time

import pytest

from postfleet.content.addresses import InvalidAddress, parse_address, quote_local_part, split_mailboxes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ann@example.com", "ann@example.com"),
        ("Ann.O'Neil+x@Example.COM", "Ann.O'Neil+x@example.com"),
        ("a@bücher.example", "a@xn--bcher-kva.example"),
        ('"a@b"@example.com', '"a@b"@example.com'),
        ("x" * 64 + "@example.com", "x" * 64 + "@example.com"),
    ],
)
def test_accepts(text: str, expected: str) -> None:
    """A valid address comes back with its domain in lower-case A-labels."""
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "@", "@example.com", "a@", "a@b@c", "a b@example.com", '"a b"@example.com', "a@[127.0.0.1]",
        "a@127.0.0.1", "a@example.com.", "a@.example.com", "a@-x.com", "a..b@example.com", ".a@example.com",
        "x" * 65 + "@example.com", "a@" + "x" * 64 + ".com", "a@" + "x." * 140 + "com", "a\r\n@example.com",
        "a@example.com\n", "a\0@example.com", "a\x7f@example.com", "ä@example.com", "a@b>\r\nRCPT TO:<x@y",
        '"x@gmail.com y"@internal.example', "a@evil.example>,<b@ok.example", "a@b)c@evil.example", "a@exa mple.com",
        "a@\ud800.com", "a@\u2028x.com", "a@xn--\u00e9.com",
    ],
)  # fmt: skip
def test_refuses(text: str) -> None:
    """What an envelope could not carry, or could be taken for another address, is refused."""
    with pytest.raises(InvalidAddress):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a@b.c", [("", "a@b.c")]),
        ("Ann <a@b.c>, d@e.f", [("Ann", "a@b.c"), ("", "d@e.f")]),
        ('"O, \\"A\\"" <a@b.c>', [('O, "A"', "a@b.c")]),
        ('<a@b.c>,"x y"@d.e', [("", "a@b.c"), ("", '"x y"@d.e')]),
        ("Joë (x) O'B <a@b.c>", [("Joë (x) O'B", "a@b.c")]),
    ],
)
def test_splits_mailboxes(text: str, expected: list[tuple[str, str]]) -> None:
    """A mailbox list gives display names, unquoted, and addresses."""
    assert list(split_mailboxes(text)) == expected


@pytest.mark.parametrize("text", ["", '"open <a@b.c>', "a@b.c d@e.f", "<a@b.c", "a <b> c", ",", "x: a@b.c;"])
def test_refuses_broken_lists(text: str) -> None:
    """What is no mailbox list, or hides one, is refused."""
    with pytest.raises(InvalidAddress):
        [parse_address(address) for _, address in split_mailboxes(text)]


@pytest.mark.parametrize("text", [" " * 50_000, '"' * 50_000, "a," * 20_000 + "<", "<" * 50_000, '"\\' * 20_000])
def test_splits_in_linear_time(text: str) -> None:
    """No input makes the list parser slow."""
    started = time.perf_counter()
    with pytest.raises(InvalidAddress):
        list(split_mailboxes(text))
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("value", "expected"), [("ann", "ann"), ("a b", '"a b"'), ('a"\\\r\n', '"a\\"\\\\??"'), ("é", '"?"'), ("", '""')]
)
def test_quotes_local_parts(value: str, expected: str) -> None:
    """Any text becomes a local part that stays one."""
    assert quote_local_part(value) == expected
