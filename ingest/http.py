"""The HTTP side: `POST /api/v1/transmissions` and `GET /healthz`."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ingest.errors import (
    FORBIDDEN,
    INTERNAL,
    NOT_FOUND,
    PARTIAL,
    UNAUTHORIZED,
    WRONG_METHOD,
    ApiError,
    Refusal,
    bad_request,
    too_large,
    unsupported,
)
from ingest.transmissions import Checked, check_transmission
from postfleet.accept import Acceptor, KeyConflict
from postfleet.directory import Directory
from postfleet.ports import StorageError, StoreFull, TooLarge
from postfleet.settings import Settings

BODY_TIMEOUT = 120.0
"""Seconds that a client has for sending its request."""
RETRY_AFTER = 5

log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode
_KEY = re.compile("[!-~]{1,255}")


def make_app(directory: Directory, acceptor: Acceptor, settings: Settings) -> Starlette:
    """`directory` is kept fresh by whoever made it."""
    api = TransmissionsApi(directory, acceptor, settings)
    return Starlette(
        routes=[
            Route("/api/v1/transmissions", api.create, methods=["POST"]),
            Route("/api/v1/transmissions/", api.create, methods=["POST"]),
            Route("/healthz", _healthz, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _http_error, Refusal: _refused, Exception: _failed},
    )


class TransmissionsApi:
    def __init__(self, directory: Directory, acceptor: Acceptor, settings: Settings) -> None:
        self._directory = directory
        self._acceptor = acceptor
        self._settings = settings

    async def create(self, request: Request) -> Response:
        tenant = self._tenant(request)
        most_errors = _most_errors(request)
        key = _idempotency_key(request)
        body = await _read_body(request, self._settings.max_message_size)
        checked = check_transmission(body, tenant, self._directory, self._settings.max_recipients)
        return _created(await self._accept(checked, key, body), checked, most_errors)

    def _tenant(self, request: Request) -> int:
        tenant = self._directory.tenant_of(_api_key(request.headers.get("authorization", "")))
        if tenant is None:
            raise Refusal(401, UNAUTHORIZED)
        subaccount = request.headers.get("x-msys-subaccount")
        if subaccount is None:
            return tenant
        if not re.fullmatch("[0-9]{1,9}", subaccount):
            raise bad_request("X-MSYS-SUBACCOUNT must be a number")
        if tenant not in (0, int(subaccount)):
            raise Refusal(403, FORBIDDEN)
        return int(subaccount)

    async def _accept(self, checked: Checked, key: str | None, body: bytes) -> str:
        """The id under which the transmission is durable now."""
        try:
            if key is not None:
                digest = hashlib.sha256(b"%d\n" % checked.tenant + body).hexdigest()
                name, _ = await self._acceptor.accept_keyed(checked.tenant, key, digest, checked.submission)
                return name
            submission = checked.submission(self._acceptor.new_id())
            await self._acceptor.accept(submission)
            return submission.id
        except KeyConflict:
            raise Refusal(409, _conflict("the Idempotency-Key was used with another request body")) from None
        except TooLarge:
            raise too_large(self._settings.max_message_size) from None
        except StorageError as error:
            raise _storage_refusal(error) from None


def _conflict(description: str) -> ApiError:
    return ApiError("resource conflict", description, "1602")


def _storage_refusal(error: StorageError) -> Refusal:
    if isinstance(error, StoreFull):
        description = "the store is full; nothing was accepted, try again later"
    else:
        description = "the store did not answer, the transmission may or may not be accepted; try again later"
    return Refusal(503, ApiError("service unavailable", description, "1900"), retry_after=RETRY_AFTER)


# ---------------------------------------------------------------- the request


def _api_key(authorization: str) -> str:
    """The key itself, or `Basic` with the key as user name."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return authorization
    try:
        return base64.b64decode(value.strip(), validate=True).decode("latin-1").partition(":")[0]
    except binascii.Error:
        return ""


def _most_errors(request: Request) -> int | None:
    value = request.query_params.get("num_rcpt_errors")
    if value is None:
        return None
    if not re.fullmatch("[0-9]{1,9}", value):
        raise bad_request("num_rcpt_errors must be a number")
    return int(value)


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise bad_request("Idempotency-Key must be 1 to 255 printable ASCII characters without spaces")
    return key


async def _read_body(request: Request, limit: int) -> bytes:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise unsupported(f"Content-Type is {media_type!r}, but needs to be 'application/json'")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise unsupported("Content-Encoding is not supported; send the body as it is")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit:
        raise too_large(limit)
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            return await _collect(request, limit)
    except TimeoutError:
        raise Refusal(408, ApiError("request timeout", f"the body took over {BODY_TIMEOUT:.0f} seconds")) from None
    except ClientDisconnect:
        raise Refusal(400, ApiError("request incomplete", "the connection ended before the body did")) from None


async def _collect(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large(limit)
    return bytes(body)


# ---------------------------------------------------------------- the response


def _created(transmission: str, checked: Checked, most_errors: int | None) -> Response:
    results: dict[str, object] = {
        "total_rejected_recipients": len(checked.errors),
        "total_accepted_recipients": len(checked.messages),
        "id": transmission,
    }
    if not checked.errors:
        return _json(200, {"results": results})
    results["rcpt_to_errors"] = checked.errors[:most_errors]
    return _json(200, {"errors": [PARTIAL], "results": results})


def _json(status: int, value: object, headers: dict[str, str] | None = None) -> Response:
    return Response(_encode(value), status, headers, media_type="application/json")


def _errors(status: int, error: ApiError, headers: dict[str, str] | None = None) -> Response:
    return _json(status, {"errors": [error]}, headers)


async def _healthz(request: Request) -> Response:
    return _json(200, {"status": "ok"})


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else None
    if not error.details:
        return _errors(error.status, error.error, headers)
    results = {"rcpt_to_errors": error.details[: _most_errors(request)], "total_accepted_recipients": 0}
    return _json(error.status, {"errors": [error.error], "results": results}, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = {404: NOT_FOUND, 405: WRONG_METHOD}.get(error.status_code, ApiError(error.detail))
    return _errors(error.status_code, known, dict(error.headers or {}))


async def _failed(request: Request, error: Exception) -> Response:
    log.error("request_failed", path=request.url.path, exc_info=error)
    return _errors(500, INTERNAL)
