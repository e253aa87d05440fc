"""What a message is made of: read once per transmission, rendered per recipient, late."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable

from postfleet.content.render import Renderer
from postfleet.ports import BlobStore
from postfleet.stages import BlobRef, Message, Transmission

CACHE_BYTES = 64 * 1024 * 1024
DENSE = 2
"""One read takes several contents of a blob when what lies between is less than what is wanted."""

Content = bytes | Renderer


class Contents:
    """Raw messages are read per Order; templates stay, since a campaign's next Order wants them again."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._templates: OrderedDict[BlobRef, Renderer] = OrderedDict()
        self._size = 0

    async def load(self, transmissions: Iterable[Transmission]) -> dict[BlobRef, Content]:
        """Raises `NotFound` when a blob is gone."""
        found: dict[BlobRef, Content] = {}
        raw: dict[str, list[BlobRef]] = {}
        for transmission in transmissions:
            if transmission.content_kind == "raw":
                raw.setdefault(transmission.content.key, []).append(transmission.content)
            else:
                found[transmission.content] = await self._template(transmission.content)
        runs = [run for references in raw.values() for run in dense_runs(references)]
        for part in await asyncio.gather(*map(self._read, runs)):
            found.update(part)
        return found

    async def _template(self, reference: BlobRef) -> Renderer:
        if reference in self._templates:
            self._templates.move_to_end(reference)
            return self._templates[reference]
        renderer = Renderer(await self._blobs.get(reference.key, reference.offset, reference.length))
        if reference not in self._templates:
            self._templates[reference] = renderer
            self._size += reference.length
        while self._size > CACHE_BYTES and len(self._templates) > 1:
            dropped, _ = self._templates.popitem(last=False)
            self._size -= dropped.length
        return renderer

    async def _read(self, run: list[BlobRef]) -> dict[BlobRef, Content]:
        start = run[0].offset
        data = await self._blobs.get(run[0].key, start, run[-1].offset + run[-1].length - start)
        return {each: data[each.offset - start : each.offset - start + each.length] for each in run}


def dense_runs(references: Iterable[BlobRef]) -> list[list[BlobRef]]:
    """References of one blob, each run worth a single read."""
    runs: list[list[BlobRef]] = []
    wanted = 0
    for each in sorted(set(references), key=lambda reference: reference.offset):
        if runs and each.offset + each.length - runs[-1][0].offset <= DENSE * (wanted + each.length):
            runs[-1].append(each)
            wanted += each.length
        else:
            runs.append([each])
            wanted = each.length
    return runs


def build(content: Content, transmission: Transmission, message: Message) -> bytes:
    """The finished message, CRLF line ends, not dot-stuffed."""
    if isinstance(content, bytes):
        return content
    return content.render(transmission, message)
