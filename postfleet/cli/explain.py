"""`postfleet explain`: the story of a message, and where it is now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from msgspec import Struct, field

from postfleet.accept import UNITS
from postfleet.backends.opening import Stores
from postfleet.cli.options import DATA, DataOption, Failed, JsonOption, open_backends, platform, print_json
from postfleet.cli.places import Holding, whereabouts, with_page, with_reason
from postfleet.cli.rest import read_rest
from postfleet.cli.story import clock_time, end_of, sentence
from postfleet.deployment import DataDir
from postfleet.event_log import read_events
from postfleet.stages import Event, message_id


class Subject(Struct, frozen=True):
    """What was asked for: at least one of the three is set."""

    transmission: str = ""
    message: str = ""
    recipient: str = ""

    @property
    def needle(self) -> str:
        """Stands in the JSON of every event that is meant."""
        return msgspec.json.encode(self.recipient).decode()[1:-1] if self.recipient else self.transmission

    def means(self, message: str, recipient: str) -> bool:
        if self.recipient:
            return recipient == self.recipient
        return message == self.message if self.message else message.rpartition(".")[0] == self.transmission


class Story(Struct):
    """What is known of one message."""

    message_id: str
    recipient: str
    events: list[Event] = field(default_factory=list)
    end: str = ""
    now: str = ""
    """Where it is, in words; empty once it has ended."""


def explain(
    subject: Annotated[str, typer.Argument(metavar="ID|ADDRESS", help="Transmission, message or recipient.")],
    limit: Annotated[int, typer.Option(min=1, help="Most messages to tell of.")] = 20,
    as_json: JsonOption = False,
    data: DataOption = DATA,
) -> None:
    """Tell the story of messages: acceptance, attempts with their replies, where they are now, how they ended.

    ID is a transmission (digits) or a message (digits.index); an ADDRESS is that of a recipient, as it was submitted.
    """
    asyncio.run(_explain(data, parse_subject(subject), limit, as_json))


def parse_subject(text: str) -> Subject:
    """Raises `Failed` for what is neither an id nor an address."""
    if "@" in text:
        return Subject(recipient=text)
    transmission, dot, index = text.partition(".")
    if not transmission.isdecimal() or (dot and not index.isdecimal()):
        raise Failed(f"{text!r} is neither a transmission id (digits), nor a message id (digits.index), nor an address")
    return Subject(transmission=transmission, message=text if dot else "")


async def _explain(path: Path, subject: Subject, limit: int, as_json: bool) -> None:
    data = platform(path)
    async with open_backends(data) as stores:
        found, unseen = await stories(data, stores, subject)
        if any(not story.end and not story.now for story in found):
            found, unseen = await stories(data, stores, subject)
    if not found:
        raise Failed(f"no such message: {_nowhere(unseen)}")
    if as_json:
        return print_json(found[:limit])
    for story in found[:limit]:
        typer.echo("\n".join(lines(story, time.time())) + "\n")
    if len(found) > limit:
        typer.echo(f"and {len(found) - limit} more: --limit says how many to tell of")


def _nowhere(unseen: Mapping[str, int]) -> str:
    if not unseen:
        return "neither in the events nor in a queue"
    return f"it has no events, and is in no park; {_in_queues(unseen)}"


def _in_queues(unseen: Mapping[str, int]) -> str:
    entries = ", ".join(f"{name} has {count}" for name, count in unseen.items())
    return f"it may be in an entry of a queue, which SQS shows to nobody but its receiver ({entries})"


async def stories(data: DataDir, stores: Stores, subject: Subject) -> tuple[list[Story], Mapping[str, int]]:
    """In the order of message ids; and the queues whose entries cannot be read.

    Events are read after the stores, so that a message which ends meanwhile is not missed; one that is accepted
    meanwhile has events, but no place yet.
    """
    rest = await read_rest(data, stores)
    resting = [each for each in rest.holdings if _may_hold(each, subject)]
    told: dict[str, Story] = {}
    async for event in read_events(stores.blobs, containing=subject.needle):
        if subject.means(event.message_id, event.rcpt_to):
            _story(told, event.message_id, event.rcpt_to).events.append(event)
    for holding in resting:
        _add_place(told, await with_reason(await with_page(holding, stores.blobs), stores.state), subject)
    for story in told.values():
        _sort(story)
        if not story.end and not story.now and rest.unseen:
            story.now = _by_events(story, rest.unseen, time.time())
    return sorted(told.values(), key=lambda story: _order(story.message_id)), rest.unseen


def _by_events(story: Story, unseen: Mapping[str, int], now: float) -> str:
    """Where it must be, from its last event, since that follows the park and the claim."""
    due = story.events[-1].due if story.events else 0.0
    if due > now:
        return f"parked until {clock_time(due, now)}, in a delayed entry of {UNITS}"
    return _in_queues(unseen)


def _may_hold(holding: Holding, subject: Subject) -> bool:
    if holding.page is not None:
        return bool(subject.recipient) or holding.groups[0].transmission.id == subject.transmission
    return any(
        subject.means(message_id(transmission.id, message.index), message.address)
        for transmission, message in holding.messages()
    )


def _add_place(told: dict[str, Story], holding: Holding, subject: Subject) -> None:
    for transmission, message in holding.messages():
        name = message_id(transmission.id, message.index)
        if subject.means(name, message.address):
            _story(told, name, message.address).now = whereabouts(holding, time.time())


def _story(told: dict[str, Story], message: str, recipient: str) -> Story:
    return told.setdefault(message, Story(message, recipient))


def _sort(story: Story) -> None:
    story.events.sort(key=lambda event: (event.timestamp, event.type != "injection"))
    story.end = next(filter(None, map(end_of, story.events)), "")
    if story.end:
        story.now = ""


def _order(message: str) -> tuple[int, int]:
    transmission, _, index = message.partition(".")
    return int(transmission), int(index)


def lines(story: Story, now: float) -> Iterable[str]:
    yield _headline(story)
    for event in story.events:
        yield f"  {clock_time(event.timestamp, now)}  {sentence(event, now)}"
    if not story.end:
        yield f"  now: {story.now or 'nowhere, though it has not ended: that is a loss'}"


def _headline(story: Story) -> str:
    text = f"message {story.message_id} to {story.recipient}"
    if not story.events:
        return text
    first = story.events[0]
    return f"{text}, {first.sending_domain}, pool {first.ip_pool}, subject {first.subject!r}"
