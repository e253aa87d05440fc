from __future__ import annotations

from typing import Any

import pytest

from postfleet.cli.story import clock_time, duration, end_of, exit_code, printable, sentence
from postfleet.stages import Event

NOW = 1_000_000.0


def event(kind: str, **details: Any) -> Event:
    return Event("1", kind, NOW, "77", "77.0", 0, "a@x.example", injection_time=NOW - 1.5, **details)


ROUTE = {"routing": "mx.x.example [127.1.1.1]", "sending_ip": "127.0.0.11"}


@pytest.mark.parametrize(
    ("happened", "said"),
    [
        (event("injection", recv_method="esmtp", msg_size=12), "accepted over SMTP, 12 bytes"),
        (event("injection", recv_method="rest", msg_size=12), "accepted over HTTP, 12 bytes"),
        (event("injection", recv_method="sqs", msg_size=12), "accepted over SQS, 12 bytes"),
        (
            event("delivery", raw_reason="250 Ok", **ROUTE),
            "delivered to mx.x.example [127.1.1.1] from 127.0.0.11 after 1.500 s: 250 Ok",
        ),
        (
            event("delay", raw_reason="451 later", due=NOW + 60, **ROUTE),
            f"deferred by mx.x.example [127.1.1.1] from 127.0.0.11: 451 later; next try at {clock_time(NOW + 60, NOW)}",
        ),
        (
            event("rebind", raw_reason="it died", binding="127.0.0.12", due=NOW),
            f"not tried from 127.0.0.12: it died; planned again at {clock_time(NOW, NOW)}",
        ),
        (event("bounce", raw_reason="556 null MX"), "bounced: 556 null MX"),
        (event("expired", raw_reason="554 too old"), "expired: 554 too old"),
    ],
)
def test_events_in_words(happened: Event, said: str) -> None:
    """What happened, by whom, with the reply."""
    assert sentence(happened, NOW) == said


def test_what_strangers_say_steers_no_terminal() -> None:
    """Control characters of a reply become blanks."""
    assert printable("550 \x1b[2Jno\r\n") == "550  [2Jno  "


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2134, "0.213 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_in_words(seconds: float, said: str) -> None:
    """As precise as it matters."""
    assert duration(seconds) == said


def test_times_of_other_days_have_their_date() -> None:
    """Today's have none."""
    assert len(clock_time(NOW, NOW)) == len("12:00:00.000")
    assert len(clock_time(NOW - 3 * 86400, NOW)) == len("1970-01-01 12:00:00.000")


@pytest.mark.parametrize(
    ("kind", "end", "code"),
    [("delivery", "delivered", 0), ("bounce", "bounced", 1), ("expired", "expired", 1), ("failed", "failed", 1)],
)
def test_ends_and_their_exit_codes(kind: str, end: str, code: int) -> None:
    """Only a delivery is a success."""
    assert (end_of(event(kind)), exit_code(end)) == (end, code)


@pytest.mark.parametrize("kind", ["injection", "delay", "rebind"])
def test_what_is_no_end(kind: str) -> None:
    """The message goes on."""
    assert end_of(event(kind)) == ""
