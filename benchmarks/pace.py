"""Sending at a steady rate, and updates that carry the instant they were made at."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

UPDATE_BYTES = 60


async def paced(count: int, per_second: float, send: Callable[[int], Awaitable[None]]) -> None:
    """Call `send(0)`, `send(1)`, … at this rate, one after the other; late ones follow at once."""
    begun = time.monotonic()
    for number in range(count):
        ahead = begun + number / per_second - time.monotonic()
        await asyncio.sleep(max(0.0, ahead))
        await send(number)


def stamped() -> str:
    """An update of `UPDATE_BYTES` bytes that tells when it was made."""
    return f"{time.monotonic_ns():020d}".ljust(UPDATE_BYTES, ".")


def is_stamped(update: str) -> bool:
    """Whether it is such an update."""
    return len(update) == UPDATE_BYTES and update[:20].isdigit()


def age(update: str | bytes) -> float:
    """Seconds since it was made, in this process or another: Linux has one monotonic clock."""
    return (time.monotonic_ns() - int(update[:20])) / 1e9
