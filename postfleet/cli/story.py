"""Events in words. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from postfleet.audit import END_OF_EVENT
from postfleet.stages import DELIVERED, Event

_WAYS_IN = {"esmtp": "SMTP", "rest": "HTTP", "sqs": "SQS"}


def clock_time(when: float, now: float) -> str:
    """Local time, with the date unless that is today's."""
    moment, today = (datetime.fromtimestamp(each, UTC).astimezone() for each in (when, now))
    text = f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d}"
    return text if moment.date() == today.date() else f"{moment:%Y-%m-%d} {text}"


def duration(seconds: float) -> str:
    """In one or two units: `0.213 s`, `47 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.3f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def sentence(event: Event, now: float) -> str:
    """What happened, without its time."""
    reason = printable(event.raw_reason)
    match event.type:
        case "injection":
            return f"accepted over {_WAYS_IN.get(event.recv_method, event.recv_method)}, {event.msg_size} bytes"
        case "delivery":
            after = duration(event.timestamp - event.injection_time)
            return f"delivered{_route(event)} after {after}: {reason}"
        case "delay":
            return f"deferred{_route(event)}: {reason}; next try at {clock_time(event.due, now)}"
        case "rebind":
            return f"not tried from {event.binding}: {reason}; planned again at {clock_time(event.due, now)}"
        case "bounce":
            return f"bounced{_route(event)}: {reason}"
        case _:
            return f"{event.type}: {reason}"


def end_of(event: Event) -> str:
    """The terminal state that this event is; empty where it is none."""
    return END_OF_EVENT.get(event.type, "")


def exit_code(end: str) -> int:
    return 0 if end == DELIVERED else 1


def _route(event: Event) -> str:
    by = f" by {event.routing}" if event.type != "delivery" and event.routing else ""
    to = f" to {event.routing}" if event.type == "delivery" and event.routing else ""
    source = f" from {event.sending_ip}" if event.sending_ip else ""
    return f"{by}{to}{source}"


def printable(text: str) -> str:
    """Replies come from strangers: nothing of theirs may steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
