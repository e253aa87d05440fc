"""The state table on one DynamoDB table.

p, s     partition and sort key; the sort key begins with what the item is: `=` a row, `+` a counter
v, b     version and body of a row
z        the body, compressed, in place of b
c        value of a counter
n        the write that left the item as it is
e        expiry, whole Unix seconds: the table's TTL attribute

The SDK repeats a write whose reply was lost, unseen, and the repetition fails its condition: the write itself stands in
its way. The item's `n` tells that from a lost race.
"""

from __future__ import annotations

import math
import secrets
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from postfleet.backends.aws_backoff import TRIES, back_off
from postfleet.backends.aws_clients import error_code, translated
from postfleet.ports import MAX_ROW, Row, TooLarge, Unavailable, Written

PARTITION, SORT, EXPIRES = "p", "s", "e"
"""Attributes that the table is made with."""

COMPRESSED_FROM = 1024
"""Bytes of body: DynamoDB bills each KB begun of a write."""
_ROW, _COUNTER = "=", "+"
_BATCH = 100
"""Most items that DynamoDB reads in one request."""
_MAX_PARTITION, _MAX_SORT = 2048, 1024
"""Bytes of UTF-8."""

Item = Mapping[str, Mapping[str, Any]]
"""An item or a key in DynamoDB's JSON: attribute -> {type: value}."""


class _Refusal(NamedTuple):
    item: Item | None
    """What failed the condition; None: there is no such item."""


class AwsStateTable:
    """Reads are strongly consistent. Expiries are kept in whole seconds, rounded up."""

    def __init__(self, dynamodb: Any, table: str) -> None:
        self._dynamodb = dynamodb
        self._table = table

    async def get(self, partition: str, sort: str) -> Row | None:
        with translated(f"row {partition} {sort}"):
            item = await self._item(_key(partition, _ROW + sort))
        return _row(item) if item else None

    async def get_many(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Row]:
        wanted = [_key(partition, _ROW + sort) for partition, sort in dict.fromkeys(keys)]
        rows: list[Row] = []
        for start in range(0, len(wanted), _BATCH):
            rows += await self._batch(wanted[start : start + _BATCH])
        return {(row.partition, row.sort): row for row in rows}

    async def put_if_absent(self, partition: str, sort: str, body: bytes, expires: float | None = None) -> Written:
        row = Row(partition, sort, 1, body, _whole(expires))
        return await self._put(row, ConditionExpression=f"attribute_not_exists({PARTITION})")

    async def put_if(self, expected: Row, body: bytes, expires: float | None = None) -> Written:
        row = Row(expected.partition, expected.sort, expected.version + 1, body, _whole(expires))
        values = {":v": {"N": str(expected.version)}}
        return await self._put(row, ConditionExpression="v = :v", ExpressionAttributeValues=values)

    async def delete_if(self, expected: Row) -> bool:
        with translated(f"deleting row {expected.partition} {expected.sort}"):
            refusal = await self._conditional(
                self._dynamodb.delete_item,
                _key(expected.partition, _ROW + expected.sort),
                Key=_key(expected.partition, _ROW + expected.sort),
                ConditionExpression=f"attribute_not_exists({PARTITION}) OR v = :v",
                ExpressionAttributeValues={":v": {"N": str(expected.version)}},
            )
        return refusal is None or refusal.item is None

    async def add(self, partition: str, sort: str, amount: int, ceiling: int, expires: float | None = None) -> int:
        """An add whose reply was lost is counted again only if another came in between; the ceiling holds even then."""
        key = _key(partition, _COUNTER + sort)
        take = min(amount, ceiling)
        with translated(f"counter {partition} {sort}"):
            while take > 0:
                refusal = await self._count(key, take, ceiling, expires)
                if refusal is None:
                    return take
                # The value only grows, so that every refusal leaves less to take.
                take = min(amount, ceiling - _value(refusal.item))
        return 0

    async def query(
        self,
        partition: str,
        *,
        prefix: str = "",
        start: str = "",
        end: str | None = None,
        limit: int = 1000,
        descending: bool = False,
    ) -> list[Row]:
        low = _ROW + max(prefix, start)
        beyond = _past(_ROW + prefix)
        if end is not None:
            beyond = min(beyond, _ROW + end)
        rows: list[Row] = []
        following: dict[str, Any] = {}
        while low < beyond and len(rows) < limit:
            with translated(f"rows {partition} {prefix}"):
                page = await self._dynamodb.query(
                    TableName=self._table,
                    KeyConditionExpression=f"{PARTITION} = :p AND {SORT} BETWEEN :low AND :beyond",
                    ExpressionAttributeValues={":p": {"S": partition}, ":low": {"S": low}, ":beyond": {"S": beyond}},
                    ConsistentRead=True,
                    ScanIndexForward=not descending,
                    Limit=limit - len(rows),
                    **following,
                )
            # BETWEEN includes its upper bound.
            rows += [_row(item) for item in page["Items"] if item[SORT]["S"] != beyond]
            if "LastEvaluatedKey" not in page:
                break
            following = {"ExclusiveStartKey": page["LastEvaluatedKey"]}
        return rows

    # ------------------------------------------------------------ requests

    async def _item(self, key: Item) -> Item | None:
        reply = await self._dynamodb.get_item(TableName=self._table, Key=key, ConsistentRead=True)
        item: Item | None = reply.get("Item")
        return item

    async def _batch(self, keys: Sequence[Item]) -> list[Row]:
        rows: list[Row] = []
        fruitless = 0
        while keys:
            with translated(f"{len(keys)} rows of {self._table}"):
                reply = await self._dynamodb.batch_get_item(
                    RequestItems={self._table: {"Keys": keys, "ConsistentRead": True}}
                )
            rows += map(_row, reply["Responses"].get(self._table, ()))
            left = reply.get("UnprocessedKeys", {}).get(self._table, {}).get("Keys", [])
            fruitless = fruitless + 1 if len(left) == len(keys) else 0
            if fruitless == TRIES:
                raise Unavailable(f"{self._table}: {len(left)} rows are put off again and again")
            if fruitless:
                await back_off(fruitless)
            keys = left
        return rows

    async def _put(self, row: Row, **condition: Any) -> Written:
        _check_size(row)
        key = _key(row.partition, _ROW + row.sort)
        write = secrets.token_bytes(8)
        name, body = stored(row.body)
        item = {**key, "v": {"N": str(row.version)}, name: {"B": body}, "n": {"B": write}, **_expiry(row.expires)}
        with translated(f"row {row.partition} {row.sort}"):
            refusal = await self._conditional(self._dynamodb.put_item, key, Item=item, **condition)
        if refusal is None or _left_by(refusal.item, write):
            return Written(True, row)
        return Written(False, _row(refusal.item) if refusal.item else None)

    async def _count(self, key: Item, take: int, ceiling: int, expires: float | None) -> _Refusal | None:
        write = secrets.token_bytes(8)
        refusal = await self._conditional(
            self._dynamodb.update_item,
            key,
            Key=key,
            UpdateExpression="ADD c :take SET n = :n"
            + (f" REMOVE {EXPIRES}" if expires is None else f", {EXPIRES} = :e"),
            ConditionExpression="attribute_not_exists(c) OR (c <= :room AND n <> :n)",
            ExpressionAttributeValues={
                ":take": {"N": str(take)},
                ":room": {"N": str(ceiling - take)},
                ":n": {"B": write},
                **({} if expires is None else {":e": {"N": str(math.ceil(expires))}}),
            },
        )
        return None if refusal is None or _left_by(refusal.item, write) else refusal

    async def _conditional(
        self, request: Callable[..., Awaitable[object]], key: Item, **arguments: Any
    ) -> _Refusal | None:
        """None when the condition held. Not every engine shows what failed it; then the item is read."""
        try:
            await request(TableName=self._table, ReturnValuesOnConditionCheckFailure="ALL_OLD", **arguments)
        except ClientError as error:
            if error_code(error) != "ConditionalCheckFailedException":
                raise
            return _Refusal(error.response.get("Item") or await self._item(key))
        return None


def stored(body: bytes) -> tuple[str, bytes]:
    """A row's body as (attribute, value)."""
    if len(body) >= COMPRESSED_FROM:
        compressed = zlib.compress(body, 1)
        if len(compressed) < len(body):
            return "z", compressed
    return "b", body


def _key(partition: str, sort: str) -> dict[str, Mapping[str, Any]]:
    return {PARTITION: {"S": partition}, SORT: {"S": sort}}


def _row(item: Item) -> Row:
    expires = float(item[EXPIRES]["N"]) if EXPIRES in item else None
    body = zlib.decompress(item["z"]["B"]) if "z" in item else item["b"]["B"]
    return Row(item[PARTITION]["S"], item[SORT]["S"][1:], int(item["v"]["N"]), body, expires)


def _value(counter: Item | None) -> int:
    return int(counter["c"]["N"]) if counter else 0


def _left_by(item: Item | None, write: bytes) -> bool:
    return item is not None and item["n"]["B"] == write


def _whole(expires: float | None) -> float | None:
    return None if expires is None else float(math.ceil(expires))


def _expiry(expires: float | None) -> Item:
    return {} if expires is None else {EXPIRES: {"N": f"{expires:.0f}"}}


def _check_size(row: Row) -> None:
    name = f"row {row.partition[:100]} {row.sort[:100]}"
    if len(row.body) > MAX_ROW:
        raise TooLarge(f"{name}: {len(row.body)} bytes are over {MAX_ROW}")
    if len(row.partition.encode()) > _MAX_PARTITION or len(row.sort.encode()) >= _MAX_SORT:
        raise TooLarge(f"{name}: partitions have at most {_MAX_PARTITION} bytes, sort keys fewer than {_MAX_SORT}")


def _past(prefix: str) -> str:
    """The least string greater than everything with this prefix, in the order of UTF-8, which skips the surrogates."""
    stem = prefix.rstrip("\U0010ffff")
    following = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if following == 0xD800 else following)
