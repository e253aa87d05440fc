"""The blob store on one S3 bucket: a blob is an object of the same key."""

from __future__ import annotations

import base64
import secrets
import zlib
from collections.abc import Sequence
from typing import Any

from botocore.exceptions import ClientError

from postfleet.backends.aws_backoff import TRIES, back_off
from postfleet.backends.aws_clients import error_code, translated
from postfleet.backends.aws_ranges import RangeReader
from postfleet.ports import Unavailable

_PAGE = 1000
"""Most keys that S3 lists, or deletes, in one request."""


class AwsBlobStore:
    """Blobs carry CRC-32, computed here once: S3 refuses a body that does not fit it, keeps it, and shows it to whoever
    reads the whole blob. It costs a third of an MD5, and with it the SDK signs the body no more over TLS.
    """

    def __init__(self, s3: Any, bucket: str) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._ranges = RangeReader(self._read)

    async def put(self, key: str, data: bytes) -> None:
        with translated(f"blob {key}"):
            await self._s3.put_object(Bucket=self._bucket, Key=key, Body=data, ChecksumCRC32=_crc32(data))

    async def append(self, key: str, data: bytes) -> tuple[str, int]:
        await self.put(key, data)
        return key, 0

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        """The HTTP client and the SDK repeat a put whose reply was lost, unseen; the repetition is refused for what
        the first one stored. So the object names the call that wrote it, and a refusal is no answer by itself.
        """
        call = secrets.token_hex(8)
        with translated(f"blob {key}"):
            for attempt in range(TRIES):
                refusal = await self._create(key, data, call)
                if refusal is None:
                    return True
                if refusal == "PreconditionFailed" and (writer := await self._writer(key)) is not None:
                    return writer == call
                await back_off(attempt)
        raise Unavailable(f"blob {key}: others write and delete it again and again")

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        if length is None:
            return await self._read(key, offset, None)
        return (await self._ranges.get(key, offset, max(length, 1)))[:length]

    async def list(self, prefix: str, after: str = "", limit: int = 1000) -> list[str]:
        keys: list[str] = []
        more = True
        while more and len(keys) < limit:
            with translated(f"blobs {prefix}"):
                page = await self._s3.list_objects_v2(
                    Bucket=self._bucket,
                    Prefix=prefix,
                    StartAfter=keys[-1] if keys else after,
                    MaxKeys=min(_PAGE, limit - len(keys)),
                )
            keys += [found["Key"] for found in page.get("Contents", ())]
            more = page["IsTruncated"]
        return keys

    async def delete(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), _PAGE):
            await self._delete(keys[start : start + _PAGE])

    async def _create(self, key: str, data: bytes, call: str) -> str | None:
        """None, or why S3 did not."""
        try:
            await self._s3.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=data,
                ChecksumCRC32=_crc32(data),
                IfNoneMatch="*",
                Metadata={"call": call},
            )
        except ClientError as error:
            if error_code(error) in ("PreconditionFailed", "ConditionalRequestConflict"):
                return error_code(error)
            raise
        return None

    async def _writer(self, key: str) -> str | None:
        """The call that stored the blob, empty where it says none; None when there is no blob."""
        try:
            head = await self._s3.head_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if error_code(error) in ("404", "NoSuchKey"):
                return None
            raise
        return str(head["Metadata"].get("call", ""))

    async def _read(self, key: str, offset: int, length: int | None) -> bytes:
        part = {"ChecksumMode": "ENABLED"}
        if offset or length is not None:
            part = {"Range": f"bytes={offset}-" + ("" if length is None else str(offset + length - 1))}
        with translated(f"blob {key}"):
            try:
                response = await self._s3.get_object(Bucket=self._bucket, Key=key, **part)
            except ClientError as error:
                if error_code(error) == "InvalidRange":
                    return b""
                raise
            async with response["Body"] as body:
                return bytes(await body.read())

    async def _delete(self, keys: Sequence[str]) -> None:
        left: Sequence[str] = keys
        for attempt in range(TRIES):
            with translated(f"{len(left)} blobs, {left[0]} first"):
                deletion = {"Objects": [{"Key": key} for key in left], "Quiet": True}
                reply = await self._s3.delete_objects(Bucket=self._bucket, Delete=deletion)
            errors = [error for error in reply.get("Errors", ()) if error["Code"] != "NoSuchKey"]
            if not errors:
                return
            left = [error["Key"] for error in errors]
            await back_off(attempt)
        raise Unavailable(f"{len(left)} blobs are not deleted, {left[0]} first: {errors[0]['Code']}")


def _crc32(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
