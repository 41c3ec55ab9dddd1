"""The real clock and the real entropy, for the composition root and for tools outside a replica."""

from __future__ import annotations

import hashlib
import random
import secrets
import time

__all__ = ("SystemClock", "SystemEntropy")


class SystemClock:
    """`persistence.base.Clock` of this host; `wall_ms` follows it also when it is set back."""

    def monotonic(self) -> float:
        """Seconds since some fixed instant of this boot."""
        return time.monotonic()

    def wall_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC."""
        return time.time_ns() // 1_000_000

    def __repr__(self) -> str:
        return "SystemClock()"


class SystemEntropy:
    """`persistence.base.Entropy` from the operating system; it also seeds the streams, once."""

    def __init__(self) -> None:
        self._seed = secrets.token_bytes(16)
        self._streams: dict[str, random.Random] = {}

    def token(self, size: int) -> bytes:
        """`size` bytes from the operating system's generator, fit for keys."""
        return secrets.token_bytes(size)

    def stream(self, name: str) -> random.Random:
        """The generator called `name`: for jitter and choice, not for keys. Names are few."""
        if name not in self._streams:
            seed = hashlib.blake2b(self._seed + name.encode(), digest_size=16).digest()
            self._streams[name] = random.Random(seed)  # noqa: S311 - jitter, not keys
        return self._streams[name]

    def __repr__(self) -> str:
        return f"SystemEntropy(streams={sorted(self._streams)})"
