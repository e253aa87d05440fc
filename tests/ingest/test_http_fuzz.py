from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st
from support.api import RecordingAcceptor, client, make, request

from postfleet.content.render import Renderer
from postfleet.stages import BlobRef, Transmission

TEXT = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            "a@example.com", "A <a@example.com>", "{{x}}", "{{{x}}} {{a.b}}", "{{if", "a\r\nBcc: x@y", "\0", "\ud800",
            "=?utf-8?q?=0d=0aBcc:_x@y?=", '"', "<", ">", ",", "@", "default", "a@bücher.example", "x" * 300,
        ]
    ),
)  # fmt: skip
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.integers(2**62, 2**80), st.floats(), TEXT)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
ADDRESS = st.fixed_dictionaries({}, optional={"email": TEXT | JSON, "name": TEXT | JSON, "header_to": TEXT | JSON})
RECIPIENT = st.fixed_dictionaries(
    {}, optional={"address": TEXT | ADDRESS | JSON, "substitution_data": JSON, "metadata": JSON, "tags": JSON}
)
CONTENT = st.fixed_dictionaries(
    {},
    optional={
        "from": TEXT | ADDRESS | JSON,
        "subject": TEXT | JSON,
        "text": TEXT | JSON,
        "html": TEXT | JSON,
        "reply_to": TEXT | JSON,
        "headers": st.dictionaries(
            st.sampled_from(["X-A", "Cc", "cc", "To", "é", "List-Id"]) | TEXT, TEXT | JSON, max_size=3
        ),
        "attachments": JSON,
    },
)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "content": CONTENT,
        "recipients": st.lists(RECIPIENT | JSON, max_size=4) | JSON,
        "options": st.dictionaries(st.sampled_from(["ip_pool", "start_time", "perform_substitutions"]), JSON) | JSON,
        "campaign_id": JSON,
        "substitution_data": JSON,
        "metadata": JSON,
    },
)


def post(body: bytes) -> tuple[httpx.Response, RecordingAcceptor]:
    acceptor = RecordingAcceptor()

    async def send() -> httpx.Response:
        async with client(make(acceptor), **{"Content-Type": "application/json"}) as http:
            return await http.post("/api/v1/transmissions", content=body)

    return asyncio.run(send()), acceptor


def assert_sound(response: httpx.Response, acceptor: RecordingAcceptor) -> None:
    """Never 5xx, errors in shape; what was accepted renders, and nothing was accepted unless the answer is 200."""
    assert response.status_code < 500, response.text
    document = response.json()
    if response.status_code != 200:
        assert acceptor.accepted == [] and document["errors"][0]["message"]
        return
    (submission,) = acceptor.accepted
    assert document["results"]["total_accepted_recipients"] == len(submission.messages) > 0
    transmission = Transmission(
        submission.id, 7, 0.0, 1.0, BlobRef("", 0, 0), "template", submission.sending_domain, data=submission.data
    )
    for message in submission.messages:
        assert Renderer(submission.content).render(transmission, message).isascii()


@given(body=st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=100, deadline=None)
def test_any_bytes(body: bytes) -> None:
    """No body makes the server fail."""
    assert_sound(*post(body))


@given(changes=CHANGES)
@settings(max_examples=200, deadline=None)
def test_almost_good_requests(changes: dict[str, Any]) -> None:
    """No field of any type or value makes the server fail, store half, or accept what cannot be rendered."""
    content = changes.pop("content", {})
    assert_sound(*post(json.dumps(request(content=content, **changes)).encode()))
