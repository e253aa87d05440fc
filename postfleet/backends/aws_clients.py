"""SDK clients, opened once in a process, and what their errors mean.

Region, credentials and endpoints are those of the SDK's usual environment: `AWS_REGION` (which AWS sets, and Python's
SDK reads under its older name alone), a role, `AWS_ENDPOINT_URL` and its kin.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from types import TracebackType
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.loaders import create_loader
from botocore.parsers import ResponseParserError
from msgspec import Struct

from postfleet.ports import NotFound, Refused, StorageError, TooLarge, Unavailable

Observer = Callable[[str, str, Mapping[str, int]], None]
"""Told of each call that was answered: service, operation, and `sent` and `received` bytes of body and `attempts`."""

LONGEST_POLL = 20
"""Seconds that SQS lets a receive wait."""
_CONNECT_TIMEOUT = 3.0
_READ_TIMEOUT = 10.0
_POLL_READ_TIMEOUT = LONGEST_POLL + 5.0
_ATTEMPTS = 3
_MODELS = create_loader()
"""The services' descriptions, read once a process: that is most of what it takes to open clients."""

_MISCONFIGURED = (NoCredentialsError, NoRegionError, ParamValidationError, PartialCredentialsError, ProfileNotFound)
TRANSIENT = frozenset(
    """
    BandwidthLimitExceeded ConditionalRequestConflict EC2ThrottledException InternalError InternalFailure
    InternalServerError KmsThrottled LimitExceededException OperationAborted OverLimit PriorRequestNotComplete
    ProvisionedThroughputExceededException QueueDeletedRecently RequestLimitExceeded RequestThrottled
    RequestThrottledException RequestTimeout RequestTimeoutException ServiceUnavailable SlowDown Throttling
    ThrottlingException TooManyRequestsException TransactionInProgressException
    """.split()
)
_TOO_LARGE = frozenset("BatchRequestTooLong EntityTooLarge RequestEntityTooLarge".split())
_MISSING = {
    "NoSuchBucket": "bucket",
    "ResourceNotFoundException": "table",
    "QueueDoesNotExist": "queue",
    "NonExistentQueue": "queue",
}
_DENIED = frozenset("403 AccessDenied AccessDeniedException AllAccessDisabled AuthorizationError".split())
_BAD_CREDENTIALS = frozenset(
    """
    ExpiredToken ExpiredTokenException IncompleteSignature InvalidAccessKeyId InvalidClientTokenId InvalidSecurity
    InvalidSignatureException InvalidToken MissingAuthenticationToken RequestExpired RequestTimeTooSkewed
    SignatureDoesNotMatch UnrecognizedClientException
    """.split()
)


class AwsClients(Struct, frozen=True):
    """One client a service, and for long polls one of its own: sends do not queue behind receives that wait."""

    s3: Any
    sqs: Any
    sqs_poll: Any
    dynamodb: Any
    opened: AsyncExitStack

    async def close(self) -> None:
        await self.opened.aclose()

    async def __aenter__(self) -> AwsClients:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


async def open_clients(concurrency: int = 64, observe: Observer | None = None) -> AwsClients:
    """At most `concurrency` requests of each client are on the way at once; more wait their turn."""
    session = get_session()
    region = os.environ.get("AWS_REGION")
    session.register_component("data_loader", _MODELS)

    async def opened(service: str, read_timeout: float = _READ_TIMEOUT) -> Any:
        client = await stack.enter_async_context(
            session.create_client(service, region_name=region, config=_config(concurrency, read_timeout))
        )
        if observe is not None:
            _report(observe, client)
        return client

    async with AsyncExitStack() as stack:
        with translated("opening the AWS clients"):
            s3, sqs, dynamodb = [await opened(service) for service in ("s3", "sqs", "dynamodb")]
            sqs_poll = await opened("sqs", _POLL_READ_TIMEOUT)
        return AwsClients(s3, sqs, sqs_poll, dynamodb, stack.pop_all())


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """The SDK's errors become those of `postfleet.ports`. `doing` says in their text what was done, and to what."""
    try:
        yield
    except ClientError as error:
        raise _meant(error, doing) from error
    except _MISCONFIGURED as error:
        raise Refused(f"{doing}: {error}: check AWS_REGION and the role or credentials of this process") from error
    except (BotoCoreError, ResponseParserError, OSError) as error:
        raise Unavailable(f"{doing}: {error}") from error


def error_code(error: ClientError) -> str:
    """Without what some services put before it: `AWS.SimpleQueueService.`"""
    return str(error.response.get("Error", {}).get("Code", "")).rpartition(".")[2]


def _meant(error: ClientError, doing: str) -> StorageError:
    code = error_code(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    said = error.response.get("Error", {}).get("Message", "")
    if code in TRANSIENT or status == 429 or status >= 500:
        return Unavailable(f"{doing}: {code}: {said}")
    if code in ("NoSuchKey", "NotFound", "404"):
        return NotFound(f"{doing}: no such key")
    if code in _TOO_LARGE:
        return TooLarge(f"{doing}: {said}")
    if code in _MISSING:
        return Refused(f"{doing}: no such {_MISSING[code]}: check its name, AWS_REGION and whose credentials these are")
    if code in _DENIED:
        return Refused(f"{doing}: access denied: allow {error.operation_name} in the role of this process ({said})")
    if code in _BAD_CREDENTIALS:
        return Refused(f"{doing}: {code}: AWS does not take these credentials: check the role, and the clock ({said})")
    return Refused(f"{doing}: {code}: {said}")


def _config(concurrency: int, read_timeout: float) -> AioConfig:
    """Parameters are not validated, and the SDK need not describe itself anew twice a call: a fifth of a call's CPU.

    Checksums are as each call asks for.
    """
    return AioConfig(
        max_pool_connections=concurrency,
        connect_timeout=_CONNECT_TIMEOUT,
        read_timeout=read_timeout,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        parameter_validation=False,
        user_agent="postfleet",
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )


def _report(observe: Observer, client: Any) -> None:
    """Call `observe` after each answer that `client` gets."""

    def before(request: Any, **rest: object) -> None:
        request.context["sent"] = int(request.headers.get("Content-Length", 0))

    def after(http_response: Any, parsed: Any, model: Any, context: dict[str, Any], **rest: object) -> None:
        sizes = {
            "sent": context["sent"],
            "received": int(http_response.headers.get("content-length", 0)),
            "attempts": 1 + parsed["ResponseMetadata"].get("RetryAttempts", 0),
        }
        observe(model.service_model.service_name, model.name, sizes)

    client.meta.events.register("before-send", before)
    client.meta.events.register("after-call", after)
