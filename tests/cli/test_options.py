from __future__ import annotations

import pytest

from postfleet.cli.explain import Subject, parse_subject
from postfleet.cli.inbox import subject_of
from postfleet.cli.load import weights
from postfleet.cli.options import Failed
from postfleet.cli.queue import by_due_time


def test_weights() -> None:
    """1 where none is given."""
    assert weights(["defer2", "ann=3", "*=0.5"]) == {"defer2": 1.0, "ann": 3.0, "*": 0.5}


@pytest.mark.parametrize("text", ["", "=1", "a=", "a=0", "a=-1", "a=b", "a=nan", "a=inf"])
def test_weights_that_are_none(text: str) -> None:
    """The text is named."""
    with pytest.raises(Failed, match="is not NAME=WEIGHT"):
        weights([text])


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("77", Subject(transmission="77")),
        ("77.3", Subject(transmission="77", message="77.3")),
        ("a@x.example", Subject(recipient="a@x.example")),
    ],
)
def test_subjects(text: str, subject: Subject) -> None:
    """A transmission, a message, a recipient."""
    assert parse_subject(text) == subject


@pytest.mark.parametrize("text", ["", "abc", "77.", "77.x", ".3"])
def test_subjects_that_are_none(text: str) -> None:
    """They are named, with what would do."""
    with pytest.raises(Failed, match="is neither a transmission id"):
        parse_subject(text)


@pytest.mark.parametrize(
    ("subject", "meant"),
    [
        (Subject(transmission="77"), ["77.0", "77.1"]),
        (Subject(transmission="77", message="77.1"), ["77.1"]),
        (Subject(recipient="b@x.example"), ["78.0"]),
    ],
)
def test_what_a_subject_means(subject: Subject, meant: list[str]) -> None:
    """No transmission whose id begins alike."""
    messages = [("77.0", "a@x.example"), ("77.1", "c@x.example"), ("78.0", "b@x.example"), ("771.0", "a@x.example")]
    assert [name for name, recipient in messages if subject.means(name, recipient)] == meant


def test_recipients_are_sought_as_events_spell_them() -> None:
    """JSON escapes a quotation mark."""
    assert parse_subject('"a"@x.example').needle == '\\"a\\"@x.example'


def test_parks_are_counted_by_the_first_span_that_fits() -> None:
    """What is overdue is due now."""
    counts = by_due_time([0.0, 100.0, 101.0, 160.0, 161.0, 5000.0, 10_000.0, 1e6], now=100.0)
    assert list(counts.values()) == [2, 2, 1, 0, 2, 1]


@pytest.mark.parametrize(
    ("head", "subject"),
    [
        (b"Subject: Hello\r\n\r\nbody", "Hello"),
        (b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\n", "Grüße"),
        (b"Subject: =?no-such?q?x?=\r\n\r\n", "=?no-such?q?x?="),
        (b"Subject: one\r\n two\r\n\r\n", "one   two"),
        (b"From: a\r\n\r\nSubject: body", ""),
    ],
)
def test_subjects_of_letters(head: bytes, subject: str) -> None:
    """Decoded where they can be, from the head alone, on one line."""
    assert subject_of(head) == subject
