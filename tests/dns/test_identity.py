"""A, PTR and EHLO name of a sending IP."""

from __future__ import annotations

import pytest

from postfleet.directory import Binding
from postfleet.dns.identity import disagreement

V4 = Binding("one", "192.0.2.1", "out1.example")
V6 = Binding("six", "2001:db8::1", "Out6.Example")


@pytest.mark.parametrize(
    ("binding", "pointers", "addresses", "words"),
    [
        (V4, ["out1.example."], ["192.0.2.1"], ""),
        (V4, ["other.example.", "OUT1.example."], ["192.0.2.9", "192.0.2.1"], ""),
        (V6, ["out6.example."], ["2001:DB8:0:0::1"], ""),
        (V4, [], ["192.0.2.1"], "192.0.2.1 has no PTR record; it must name out1.example"),
        (
            V4,
            ["ec2-1.example."],
            ["192.0.2.1"],
            "PTR of 192.0.2.1 names ec2-1.example, not out1.example",
        ),
        (V4, ["out1.example."], ["192.0.2.2"], "out1.example has address 192.0.2.2, not 192.0.2.1"),
        (V4, ["out1.example."], [], "out1.example has address none, not 192.0.2.1"),
    ],
)
def test_what_the_records_say(binding: Binding, pointers: list[str], addresses: list[str], words: str) -> None:
    """The IP's PTR names the binding's EHLO name, and that name has the IP; anything else is said in words."""
    assert disagreement(binding, pointers, addresses) == words
