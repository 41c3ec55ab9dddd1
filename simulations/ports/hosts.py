"""What a simulated host has besides disk and network: its clocks, and its randomness."""

from __future__ import annotations

import random
from hashlib import blake2b

from simulations.loop import SECOND, SimLoop

__all__ = ("START_MS", "SimClock", "SimEntropy", "clone_name", "drawn")

START_MS = 1_780_000_000_000
"""The wall clock when a world begins, for hosts without an error: Unix milliseconds."""


def drawn(seed: int, *path: object) -> bytes:
    """16 bytes for what the path names: every part of a world has chance of its own."""
    name = "/".join(map(str, (seed, *path)))
    return blake2b(name.encode(), digest_size=16, person=b"statemesh.world").digest()


def clone_name(host: str) -> str:
    """What the clone of a host is called; its replica has the name of the original's."""
    return f"{host}-clone"


class SimClock:
    """`persistence.base.Clock` of one host. `skew_ms` is how far its wall clock is off, `drift` by
    how much both clocks run too fast (0.0001: 100 ppm). The loop's own time is the true one.
    """

    def __init__(self, loop: SimLoop, skew_ms: int = 0, drift: float = 0.0) -> None:
        self._loop = loop
        self.skew_ms = self._furthest_ms = skew_ms
        self._rate = (1.0 + drift) / SECOND

    def __repr__(self) -> str:
        return f"SimClock(skew_ms={self.skew_ms}, rate={self._rate * SECOND:.6f})"

    def monotonic(self) -> float:
        """Seconds since the world began, as this host counts them."""
        return self._loop.now_ns * self._rate

    def wall_ms(self) -> int:
        """Unix milliseconds, as this host believes."""
        return START_MS + self.skew_ms + int(self._loop.now_ns * self._rate * 1000)

    def step(self, by_ms: int) -> None:
        """Somebody sets the wall clock, forward or back."""
        self.skew_ms += by_ms
        self._furthest_ms = max(self.skew_ms, self._furthest_ms)

    def furthest_ms(self) -> int:
        """What it would show now, had nobody ever set it back."""
        return self.wall_ms() + self._furthest_ms - self.skew_ms


class SimEntropy:
    """`persistence.base.Entropy` out of the seed: of one run of one process on one host."""

    def __init__(self, seed: int, host: str, incarnation: int) -> None:
        self._key = drawn(seed, "entropy", host, incarnation)
        self._tokens = 0
        self._streams: dict[str, random.Random] = {}

    def __repr__(self) -> str:
        return f"<SimEntropy, {self._tokens} tokens, {len(self._streams)} streams>"

    def token(self, size: int) -> bytes:
        """The next `size` bytes."""
        self._tokens += 1
        parts = []
        for part in range(0, size, 64):
            name = f"token {self._tokens} {part}".encode()
            parts.append(blake2b(name, key=self._key, digest_size=min(64, size - part)).digest())
        return b"".join(parts)

    def stream(self, name: str) -> random.Random:
        """The generator of this name."""
        if name not in self._streams:
            seed = blake2b(f"stream {name}".encode(), key=self._key, digest_size=16).digest()
            self._streams[name] = random.Random(seed)  # noqa: S311 - the seed is the point
        return self._streams[name]
