from __future__ import annotations

from collections.abc import Mapping

import pytest
from botocore.exceptions import ClientError, NoRegionError, ReadTimeoutError
from support.fault_proxy import FaultProxy, json_error

from postfleet.backends.aws_clients import open_clients, translated
from postfleet.ports import NotFound, Refused, StorageError, TooLarge, Unavailable


def said_by_aws(code: str, status: int) -> ClientError:
    reply = {"Error": {"Code": code, "Message": "why"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(reply, "DoThis")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (said_by_aws("ThrottlingException", 400), Unavailable, "place: ThrottlingException: why"),
        (said_by_aws("ProvisionedThroughputExceededException", 400), Unavailable, "place: Provisioned"),
        (said_by_aws("SlowDown", 503), Unavailable, "place: SlowDown"),
        (said_by_aws("NeverHeardOfIt", 500), Unavailable, "place: NeverHeardOfIt: why"),
        (said_by_aws("OverLimit", 403), Unavailable, "place: OverLimit"),
        (said_by_aws("NoSuchKey", 404), NotFound, "place: no such key"),
        (said_by_aws("EntityTooLarge", 400), TooLarge, "place: why"),
        (said_by_aws("NoSuchBucket", 404), Refused, "place: no such bucket: check its name, AWS_REGION"),
        (said_by_aws("ResourceNotFoundException", 400), Refused, "place: no such table: check its name"),
        (said_by_aws("AWS.SimpleQueueService.NonExistentQueue", 400), Refused, "place: no such queue: check its name"),
        (said_by_aws("AccessDenied", 403), Refused, "place: access denied: allow DoThis in the role"),
        (
            said_by_aws("SignatureDoesNotMatch", 403),
            Refused,
            "place: SignatureDoesNotMatch: .* check the role",
        ),
        (said_by_aws("NeverHeardOfIt", 400), Refused, "place: NeverHeardOfIt: why"),
        (ReadTimeoutError(endpoint_url="http://host"), Unavailable, "place: Read timeout on endpoint URL"),
        (ConnectionResetError("reset by peer"), Unavailable, "place: reset by peer"),
        (NoRegionError(), Refused, "place: You must specify a region.: check AWS_REGION"),
    ],
)
def test_what_the_sdk_raises_becomes_an_error_of_the_ports(
    error: Exception, kind: type[StorageError], text: str
) -> None:
    """Exactly one of the ports' kinds, whose text says what, where and, if it is up to the operator, what to do."""
    with pytest.raises(StorageError, match=text) as raised, translated("place"):
        raise error
    assert type(raised.value) is kind


def test_errors_of_the_ports_pass() -> None:
    """What is translated already stays as it is."""
    with pytest.raises(NotFound, match="as it was"), translated("place"):
        raise NotFound("as it was")


async def test_an_observer_is_told_of_each_answered_call(proxy: FaultProxy) -> None:
    """Service, operation, bytes of both bodies, and how often the SDK asked."""
    calls: list[tuple[str, str, Mapping[str, int]]] = []
    proxy.answer(lambda request: request.operation == "ListQueues", json_error(500, "InternalError"))
    async with await open_clients(observe=lambda *call: calls.append(call)) as clients:
        await clients.sqs.list_queues(QueueNamePrefix="none")
        await clients.s3.list_buckets()
    (service, operation, sizes), (other, _, _) = calls
    assert (service, operation, sizes["sent"], sizes["attempts"], other) == (
        *("sqs", "ListQueues", len(b'{"QueueNamePrefix": "none"}'), 2, "s3"),
    )
    assert sizes["received"] > 0


async def test_nobody_answering_is_unavailable(monkeypatch: pytest.MonkeyPatch, moto: Mapping[str, str]) -> None:
    """A refused connection is no answer: the text says where it was tried."""
    for name, value in moto.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    async with await open_clients() as clients:
        with pytest.raises(Unavailable, match=r"place: .*http://127\.0\.0\.1:1"), translated("place"):
            await clients.sqs.list_queues()
