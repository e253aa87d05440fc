"""How what AWS put off, in part or for a conflict, is asked for again. Whole requests the SDK repeats itself."""

from __future__ import annotations

import asyncio
import random

TRIES = 8
_FIRST, _LONGEST = 0.05, 2.0


async def back_off(attempt: int) -> None:
    """Wait before the repetition after `attempt`, counted from 0: somewhere up to 50 ms, 100 ms ... 2 s."""
    longest = min(_LONGEST, _FIRST * 2**attempt)
    await asyncio.sleep(random.uniform(0, longest))  # noqa: S311 - spreads repetitions, keeps no secret
