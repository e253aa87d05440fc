from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from support.api import KEY, PRIMARY_KEY, SETTINGS, RecordingAcceptor, client, make, request

from ingest.service import HttpServer, open_http_listener
from postfleet.ports import StoreFull, TooLarge, Unavailable

URL = "/api/v1/transmissions"


@pytest.fixture
def acceptor() -> RecordingAcceptor:
    return RecordingAcceptor()


@pytest.fixture
async def http(acceptor: RecordingAcceptor) -> AsyncIterator[httpx.AsyncClient]:
    async with client(make(acceptor)) as made:
        yield made


def assert_refused(response: httpx.Response, acceptor: RecordingAcceptor, status: int, code: str | None = None) -> None:
    assert response.status_code == status
    (error,) = response.json()["errors"]
    assert error.get("code") == code and error["message"]
    assert acceptor.accepted == []


@pytest.mark.parametrize("path", [URL, URL + "/"])
async def test_accepts(http: httpx.AsyncClient, acceptor: RecordingAcceptor, path: str) -> None:
    """A good request is accepted once and answered with its id and counts."""
    response = await http.post(path, json=request())
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"results": {"id": "101", "total_accepted_recipients": 1, "total_rejected_recipients": 0}}
    assert [submission.id for submission in acceptor.accepted] == ["101"]


async def test_partial_success(http: httpx.AsyncClient, acceptor: RecordingAcceptor) -> None:
    """Bad recipients are told next to the result, as many of them as asked for."""
    body = request(recipients=[{"address": "a"}, {"address": "ok@b.example"}, {"address": "c"}])
    assert (await http.post(URL, json=body)).json() == {
        "errors": [
            {
                "message": "transmission created, but with validation errors",
                "description": "message submitted for generation successfully",
                "code": "2000",
            }
        ],
        "results": {
            "rcpt_to_errors": [
                {
                    "message": "invalid data format/type",
                    "description": f"invalid recipient address.email: {bad}",
                    "code": "1300",
                }
                for bad in "ac"
            ],
            "total_rejected_recipients": 2,
            "total_accepted_recipients": 1,
            "id": "101",
        },
    }
    capped = (await http.post(URL, params={"num_rcpt_errors": "1"}, json=body)).json()
    assert len(capped["results"]["rcpt_to_errors"]) == 1 and capped["results"]["total_rejected_recipients"] == 2


async def test_no_valid_recipient(http: httpx.AsyncClient, acceptor: RecordingAcceptor) -> None:
    """With nobody to send to, nothing is accepted and the reasons are in the answer."""
    response = await http.post(URL, json=request(recipients=[{"address": "a"}]))
    assert_refused(response, acceptor, 400, "5002")
    assert response.json()["results"]["rcpt_to_errors"][0]["code"] == "1300"


async def test_template_error(http: httpx.AsyncClient, acceptor: RecordingAcceptor) -> None:
    """A template that does not compile is refused with its part and line."""
    response = await http.post(URL, json=request(content={"html": "<p>\n\n\n{{if age}}"}))
    assert_refused(response, acceptor, 422, "3000")
    assert response.json()["errors"] == [
        {
            "message": "substitution language syntax error in template content",
            "description": "Error while compiling part html: line 4: syntax error near 'if age'",
            "code": "3000",
            "part": "html",
            "line": 4,
        }
    ]


@pytest.mark.parametrize(
    "authorization",
    [KEY, "Basic " + base64.b64encode(f"{KEY}:".encode()).decode(), "basic " + base64.b64encode(KEY.encode()).decode()],
    ids=["raw", "basic", "basic-without-colon"],
)
async def test_keys(http: httpx.AsyncClient, acceptor: RecordingAcceptor, authorization: str) -> None:
    """The key comes alone or as the user name of Basic."""
    assert (await http.post(URL, json=request(), headers={"Authorization": authorization})).status_code == 200
    assert acceptor.accepted[0].tenant == 7


@pytest.mark.parametrize(
    "authorization", ["", "x", KEY[:-1], KEY + "0", f"Bearer {KEY}", "Basic !", "Basic", "\xe9" * 9]
)
async def test_unauthorized(http: httpx.AsyncClient, acceptor: RecordingAcceptor, authorization: str) -> None:
    """Anything else is refused before the body is looked at."""
    response = await http.post(URL, content=b"{", headers={"Authorization": authorization.encode("latin-1")})
    assert response.status_code == 401
    assert response.json() == {"errors": [{"message": "Unauthorized."}]}


@pytest.mark.parametrize(
    ("key", "subaccount", "sender", "status"),
    [
        (PRIMARY_KEY, None, "a@primary.example", 200),
        (PRIMARY_KEY, "0", "a@primary.example", 200),
        (PRIMARY_KEY, "7", "a@example.com", 200),
        (PRIMARY_KEY, "7", "a@primary.example", 400),
        (PRIMARY_KEY, "x", "a@primary.example", 400),
        (KEY, "7", "a@example.com", 200),
        (KEY, "8", "a@foreign.example", 403),
        (KEY, "0", "a@primary.example", 403),
    ],
)
async def test_subaccounts(http: httpx.AsyncClient, key: str, subaccount: str | None, sender: str, status: int) -> None:
    """The primary account may act for a subaccount, a subaccount for itself alone."""
    headers = {"Authorization": key} | ({"X-MSYS-SUBACCOUNT": subaccount} if subaccount else {})
    response = await http.post(URL, json=request(content={"from": sender}), headers=headers)
    assert response.status_code == status


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"])
async def test_content_type(http: httpx.AsyncClient, acceptor: RecordingAcceptor, media_type: str) -> None:
    """Only application/json is read."""
    response = await http.post(URL, content=b"{}", headers={"Content-Type": media_type})
    assert_refused(response, acceptor, 415, "1700")


async def test_content_encoding(http: httpx.AsyncClient, acceptor: RecordingAcceptor) -> None:
    """A compressed body is refused rather than misread."""
    headers = {"Content-Type": "application/json; charset=utf-8", "Content-Encoding": "gzip"}
    assert_refused(await http.post(URL, content=b"x", headers=headers), acceptor, 415, "1700")


async def test_too_large(http: httpx.AsyncClient, acceptor: RecordingAcceptor) -> None:
    """A body over the limit is refused, declared or streamed."""
    taken = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield b" " * 10_000

    headers = {"Content-Type": "application/json"}
    declared = await http.post(URL, content=b" " * (SETTINGS.max_message_size + 1), headers=headers)
    assert_refused(declared, acceptor, 413, "1300")
    assert_refused(await http.post(URL, content=chunks(), headers=headers), acceptor, 413, "1300")
    assert taken == 21


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", URL, 405, "1102"),
        ("PUT", URL, 405, "1102"),
        ("DELETE", URL + "/", 405, "1102"),
        ("POST", "/healthz", 405, "1102"),
        ("GET", "/", 404, "1101"),
        ("POST", "/api/v1/nothing", 404, "1101"),
        ("POST", "/API/v1/transmissions", 404, "1101"),
    ],
)
async def test_wrong_place(
    http: httpx.AsyncClient, acceptor: RecordingAcceptor, method: str, path: str, status: int, code: str
) -> None:
    """Unknown paths and methods are answered in the shape of the API."""
    assert_refused(await http.request(method, path), acceptor, status, code)


async def test_healthz(http: httpx.AsyncClient) -> None:
    """Health needs no key."""
    response = await http.get("/healthz", headers={"Authorization": ""})
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("failure", "status", "retry"), [(StoreFull(), 503, "5"), (Unavailable(), 503, "5"), (TooLarge(), 413, None)]
)
async def test_storage_failures(
    http: httpx.AsyncClient, acceptor: RecordingAcceptor, failure: Any, status: int, retry: str | None
) -> None:
    """A store that cannot take the mail is no 200 and no 500; the client learns when to come back."""
    acceptor.failure = failure
    response = await http.post(URL, json=request())
    assert response.status_code == status
    assert response.headers.get("retry-after") == retry
    assert response.json()["errors"][0]["message"]


async def test_defects_are_500(http: httpx.AsyncClient, acceptor: RecordingAcceptor) -> None:
    """An error that nobody foresaw is answered in the shape of the API too."""
    acceptor.failure = RuntimeError("defect")  # type: ignore[assignment]
    assert_refused(await http.post(URL, json=request()), acceptor, 500, "1500")


async def test_idempotency_key(http: httpx.AsyncClient, acceptor: RecordingAcceptor) -> None:
    """The same request under the same key is accepted once and answered alike; another body is a conflict."""
    headers = {"Idempotency-Key": "order-5"}
    first = await http.post(URL, json=request(), headers=headers)
    again = await http.post(URL, json=request(), headers=headers)
    other = await http.post(URL, json=request(campaign_id="other"), headers=headers)
    assert first.status_code == again.status_code == 200 and first.json() == again.json()
    assert (other.status_code, other.json()["errors"][0]["code"]) == (409, "1602")
    assert len(acceptor.accepted) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "a b", "a\tb", "é"])
async def test_bad_idempotency_key(http: httpx.AsyncClient, acceptor: RecordingAcceptor, key: str) -> None:
    """A key that could not be stored is refused."""
    response = await http.post(URL, json=request(), headers={"Idempotency-Key": key.encode()})
    assert_refused(response, acceptor, 400, "1200")


async def test_bad_number_of_errors(http: httpx.AsyncClient, acceptor: RecordingAcceptor) -> None:
    """num_rcpt_errors is a number."""
    assert_refused(await http.post(URL + "?num_rcpt_errors=-1", json=request()), acceptor, 400, "1200")


@pytest.mark.foreign
async def test_curl(acceptor: RecordingAcceptor) -> None:
    """The API works over a socket for a client that is not ours."""
    listener = open_http_listener("127.0.0.1:0")
    url = f"http://127.0.0.1:{listener.getsockname()[1]}{URL}"
    server = HttpServer(make(acceptor), listener)
    serving = asyncio.create_task(server.run_until_stopped())
    try:
        status, body = await curl(url + "/", b'{"content":{')
        assert status == "422" and b"Problems parsing request as json" in body
        status, body = await curl(url, httpx.Request("POST", "http://x", json=request()).content)
        assert status == "200" and b'"total_accepted_recipients":1' in body
        status, _ = await curl(url, b" " * (SETTINGS.max_message_size + 1))
        assert status == "413"
    finally:
        server.stop()
        await serving
    assert len(acceptor.accepted) == 1


async def curl(url: str, body: bytes) -> tuple[str, bytes]:
    """(status, body)"""
    arguments = ("-s", "--data-binary", "@-", "-H", f"Authorization: {KEY}", "-H", "Content-Type: application/json")
    process = await asyncio.create_subprocess_exec(
        "curl", *arguments, "-w", "\n%{http_code}", url, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate(body)
    text, _, status = output.rpartition(b"\n")
    return status.decode(), text
