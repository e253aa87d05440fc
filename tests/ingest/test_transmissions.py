from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from support.api import directory, request

from ingest.errors import Refusal
from ingest.transmissions import Checked, check_transmission
from postfleet.content.render import Renderer
from postfleet.stages import BlobRef, Transmission

DIRECTORY = directory()


def check(body: Any, most: int = 50) -> Checked:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return check_transmission(raw, 7, DIRECTORY, most)


def refusal(body: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        check(body)
    return caught.value


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def test_pieces_of_a_submission() -> None:
    """Everything that acceptance needs comes out of the request."""
    body = request(
        content={"from": {"email": "ann@Example.com", "name": " Ann "}, "html": "<p>{{name}}</p>"},
        recipients=[
            {"address": "bob@Example.org", "substitution_data": {"name": "Bob"}, "metadata": {"a": 1}, "tags": ["t"]},
            {"address": {"email": "eve@example.org", "name": " E B ", "header_to": "bob@example.org"}},
        ],
        options={"ip_pool": "MARKETING", "open_tracking": True, "transactional": False},
        campaign_id="spring",
        substitution_data={"name": "you"},
        whatever={"unknown": [1, 2]},
    )
    made = check(body).submission("42")
    assert (made.id, made.tenant, made.pool, made.campaign, made.method) == ("42", 7, "Marketing", "spring", "rest")
    assert (made.sending_domain, made.bounce_domain) == ("example.com", "bounce.example.com")
    assert (made.friendly_from, made.subject, made.content_kind) == ("ann@Example.com", "Hi", "template")
    assert [(m.index, m.address, m.name, m.header_to) for m in made.messages] == [
        (0, "bob@example.org", "", ""),
        (1, "eve@example.org", "E B", "bob@example.org"),
    ]
    assert bytes(made.messages[0].data) == b'{"name":"Bob"}' and bytes(made.messages[1].data) == b"null"
    transmission = Transmission("42", 7, 0.0, 1.0, BlobRef("", 0, 0), "template", "example.com", data=made.data)
    rendered = Renderer(made.content).render(transmission, made.messages[1])
    assert b"Hello =\r\nyou=\r\n" in rendered and b'\r\nTo: "E B" <bob@example.org>\r\n' in rendered


@pytest.mark.parametrize(
    "body",
    [
        request(options=None, metadata=None, campaign_id=None, substitution_data=None, description=None),
        request(options=[], metadata=[], substitution_data=[], content={"headers": []}),
        request(content={"headers": {}, "reply_to": None, "html": None, "attachments": [], "template_id": None}),
        request(content={"headers": {"X-A": "b", "X-B": None, "CC": "A B <c@d.example>, e@f.example"}}),
        request(content={"reply_to": '"Help, Desk" <help@else.example>'}),
        request(content={"from": "Ann B <ann@example.com>"}),
        request(content={"from": "{{user}}@example.com", "subject": "Hé {{x}}"}),
        request(content={"from": "ann@bücher.example"}),
        request(recipients=[{"address": {"email": "a@b.example", "name": None}, "substitution_data": []}]),
        request(recipients=[{"address": {"email": "a@b.example", "header_to": "x@y.example, Z <z@y.example>"}}]),
        request(campaign_id="x" * 64, substitution_data=nested(60)),
        request(content={"text": "", "html": "<style>@media print{p{margin:0}}</style>\r\n\t"}),
        request(content={"text": "{{if}}"}, options={"perform_substitutions": False}),
    ],
)
def test_accepts(body: Any) -> None:
    """Nulls, empty lists for objects, unknown fields and every allowed form are accepted."""
    assert len(check(body).messages) == 1


REFUSALS: list[tuple[Any, int, str, str]] = [
    (b"", 422, "1300", "Problems parsing request as json"),
    (b"{", 422, "1300", "Problems parsing request as json"),
    (b"[" * 100_000, 422, "1300", "Problems parsing request as json"),
    (b'{"content":' + b"[" * 100_000, 422, "1300", "Problems parsing request as json"),
    (b'{"content":NaN}', 422, "1300", "Problems parsing request as json"),
    (b'{"\xff":1}', 400, "1305", "UTF-8"),
    (b'{"content":{"from":"\xff"}}', 400, "1305", "UTF-8"),
    (b'{"content":{"from":"\\ud800"}}', 422, "1300", "Problems parsing"),
    (b'{"content":{"x":' + b"9" * 5000 + b"}}", 422, "1300", "out of range"),
    (b"[1]", 422, "1300", "json_array"),
    (b"[]", 422, "1400", "content"),
    (b"null", 422, "1400", "content"),
    (b'"text"', 422, "1300", "Problems parsing"),
    ({"recipients": []}, 422, "1400", "content"),
    (request(content=[1, 2][:0] or {"from": None}), 422, "1400", "content.from"),
    (request(content={"from": {"name": "x"}}), 422, "1400", "content.from.email"),
    (request(content={"from": 5}), 422, "1300", "is of type 'number'"),
    (request(content={"from": ["a@example.com"]}), 422, "1300", "json_array"),
    (request(content={"from": "a@example.com <"}), 422, "1300", "content.from"),
    (request(content={"from": "a b@example.com"}), 422, "1300", "From"),
    (request(content={"from": {"email": "ann@example.com", "name": "A\r\nBcc: x@y"}}), 422, "1300", "control"),
    (request(content={"subject": None}), 422, "1400", "content.subject"),
    (request(content={"subject": "a\nb"}), 422, "1300", "control"),
    (request(content={"subject": "a\0b"}), 422, "1300", "control"),
    (request(content={"subject": "a" * 10_000}), 422, "1300", "over 8192"),
    (request(content={"subject": {"x": 1}}), 422, "1300", "json_object"),
    (request(content={"text": None}), 422, "1400", "content.text or content.html"),
    (request(content={"text": 1}), 422, "1300", "content.text"),
    (request(content={"reply_to": "a@b.example\r\nBcc: x@y"}), 422, "1300", "control"),
    (request(content={"reply_to": "nobody"}), 422, "1300", "Reply-To"),
    (request(content={"headers": [1]}), 422, "1300", "content.headers"),
    (request(content={"headers": {"X-A": 1}}), 422, "1300", "content.headers.X-A"),
    (request(content={"headers": {"X-A": "a\rb"}}), 422, "1300", "control"),
    (request(content={"headers": {"X-A\r\nBcc": "b"}}), 422, "1300", "header name"),
    (request(content={"headers": {"X:A": "b"}}), 422, "1300", "header name"),
    (request(content={"headers": {"": "b"}}), 422, "1300", "header name"),
    (request(content={"headers": {"to": "b"}}), 422, "1300", "'to'"),
    (request(content={"headers": {"Content-Type": "b"}}), 422, "1300", "Content-Type"),
    (request(content={"headers": {"CC": "a@b.example", "Cc": "a@b.example"}}), 422, "1300", "twice"),
    (request(content={"headers": {f"X-{n}": "b" for n in range(101)}}), 422, "1300", "at most 100"),
    (request(content={"text": "a\nb {{if x}}"}), 422, "3000", "Error while compiling part text: line 2: syntax error"),
    (request(content={"headers": {"X-A": "{{"}}), 422, "3000", "part Header:X-A: line 1"),
    (request(content={"template_id": "t"}), 422, "1300", "content.template_id"),
    (request(content={"ab_test_id": "t"}), 422, "1300", "content.ab_test_id"),
    (request(content={"email_rfc822": "From: x"}), 422, "1300", "content.email_rfc822"),
    (request(content={"attachments": [{"name": "x"}]}), 422, "1300", "content.attachments"),
    (request(options={"start_time": "2027-01-01T00:00:00+00:00"}), 422, "1300", "options.start_time"),
    (request(options={"sandbox": True}), 422, "1300", "options.sandbox"),
    (request(options={"ip_pool": "nope"}), 400, "1200", "IP Pool nope does not exist."),
    (request(options={"ip_pool": 5}), 422, "1300", "options.ip_pool"),
    (request(options=[1]), 422, "1300", "options"),
    (request(content={"from": "a@foreign.example"}), 400, "7001", "unverified sending domain"),
    (request(content={"from": "a@new.example"}), 400, "7001", "unverified sending domain"),
    (request(content={"from": "a@primary.example"}), 400, "7001", "unverified sending domain"),
    (request(content={"from": "a@{{domain}}"}), 400, "7001", "unverified sending domain"),
    (request(content={"from": "a"}), 400, "7001", "No sending domain"),
    (request(content={"from": "{{who}}"}), 400, "7001", "No sending domain"),
    (request(campaign_id="x" * 65), 422, "1300", "campaign_id"),
    (request(campaign_id="é" * 33), 422, "1300", "campaign_id"),
    (request(campaign_id="a\x1b"), 422, "1300", "campaign_id"),
    (request(campaign_id=5), 422, "1300", "campaign_id"),
    (request(substitution_data=[1]), 422, "1300", "json_array"),
    (request(substitution_data="x"), 422, "1300", "substitution_data"),
    (request(substitution_data={"x": "y" * 100_001}), 422, "2002", "over 100000 bytes"),
    (request(substitution_data=nested(65)), 422, "1300", "nested deeper"),
    (request(metadata={"x": "y" * 10_001}), 422, "2007", "over 10000 bytes"),
    (request(recipients=None), 422, "1400", "recipients"),
    (request(recipients={"list_id": "x"}), 422, "1300", "recipient lists"),
    (request(recipients="a@b.example"), 422, "1300", "Problems parsing"),
    (request(recipients=[{"address": "a@b.example"}] * 51), 422, "1300", "at most 50"),
    (request(recipients=[]), 400, "5002", "recipients"),
]


@pytest.mark.parametrize(("body", "status", "code", "says"), REFUSALS)
def test_refuses(body: Any, status: int, code: str, says: str) -> None:
    """A bad request gets its documented status and code, and words that name the place."""
    got = refusal(body)
    assert (got.status, got.error.code) == (status, code)
    assert says in got.error.description


@pytest.mark.parametrize(
    ("recipient", "code", "says"),
    [
        ({"address": "a"}, "1300", "invalid recipient address.email: a"),
        ({"address": {"email": "a@b.example>\r\nRCPT TO:<x@y"}}, "1300", "invalid recipient address.email"),
        ({"address": {"email": "a@[127.0.0.1]"}}, "1300", "invalid recipient address.email"),
        ({"address": {"name": "x"}}, "1400", "address.email"),
        ({}, "1400", "address.email"),
        ({"address": None}, "1400", "address.email"),
        ({"address": 5}, "1300", "address"),
        ("a@b.example", "1300", "object"),
        (None, "1300", "object"),
        ({"address": {"email": "a@b.example", "name": "x\r\nBcc: y"}}, "1300", "address.name"),
        ({"address": {"email": "a@b.example", "name": 5}}, "1300", "name"),
        ({"address": {"email": "a@b.example", "header_to": "x@y.example\nBcc: z"}}, "1300", "header_to"),
        ({"address": {"email": "a@b.example", "header_to": "nobody"}}, "1300", "header_to"),
        ({"address": "a@b.example", "substitution_data": [1]}, "1300", "json_array"),
        ({"address": "a@b.example", "substitution_data": nested(65)}, "1300", "nested deeper"),
        ({"address": "a@b.example", "substitution_data": {"x": "y" * 100_001}}, "2002", "over"),
        ({"address": "a@b.example", "metadata": 5}, "1300", "metadata"),
    ],
)
def test_rejects_one_recipient(recipient: Any, code: str, says: str) -> None:
    """A bad recipient is reported, the others are accepted and numbered without gaps."""
    checked = check(request(recipients=[{"address": "x@y.example"}, recipient, {"address": "z@y.example"}]))
    assert [(m.index, m.address) for m in checked.messages] == [(0, "x@y.example"), (1, "z@y.example")]
    assert len(checked.errors) == 1
    assert checked.errors[0].code == code and says in checked.errors[0].description


@pytest.mark.parametrize(
    "data", [b'{"a":"\xff"}', b'{"a":"\\ud800"}', b'{"a":' + b"9" * 5000 + b"}", b'{"a":1e999}', b'{"a":"\\udc00"}']
)
def test_rejects_data_that_cannot_be_rendered(data: bytes) -> None:
    """Substitution data that a worker could not decode is refused at the door."""
    body = msgspec.json.encode(request(recipients=[{"address": "a@b.example", "substitution_data": Raw(data)}]))
    got = refusal(body)
    assert got.status in (400, 422)


def test_no_valid_recipient() -> None:
    """With nobody to send to, every reason is told."""
    got = refusal(request(recipients=[{"address": "a"}, {"address": "b"}]))
    assert (got.status, got.error.code, len(got.details)) == (400, "5002", 2)


def test_campaign_is_quick() -> None:
    """Ten thousand recipients are checked in well under a second."""
    recipients = [
        {"address": {"email": f"user{n}@example{n % 100}.org", "name": f"User {n}"}, "substitution_data": {"n": n}}
        for n in range(10_000)
    ]
    body = msgspec.json.encode(request(recipients=recipients))
    started = time.process_time()
    assert len(check(body, 10_000).messages) == 10_000
    assert time.process_time() - started < 0.5
