"""How frames and announcements travel: pushing, announcing, queueing, dialling again.

Rules of this file: pure; times are numbers the caller passes, choices come from the generator it
passes.

Theory of operation: every replica dials a few others, chosen so that all together are well linked.
Over those links frames are pushed along trees (`plumtree`); what got lost on the way is found by
anti-entropy (Demers et al. 1987): an announcement of all shards to one random peer per interval,
when a link comes up, and after a large change. So any connected topology converges.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from mesh.wire import MAX_FRAMES, MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    import random

FRAMES_PER_MESSAGE_BYTES = 32 << 10
FRAMES_PER_TURN_BYTES = 8 << 10
"""Frames of a message that are dealt with before others have the event loop."""
MAX_CONTROL_MESSAGES = 4_096
MAX_CONTROL_BYTES = 4 * MAX_MESSAGE_BYTES
"""Some of the largest messages there are; a handful of frontiers of a hundred thousand sessions."""


class SendQueue:
    """What waits to be sent over one link, in order: frames and control messages.

    Bounded: frames that don't fit are dropped *for this peer* and `behind` is set: when the queue
    is empty again the peer is told our summary and fetches what it lacks. Control messages beyond
    their bounds, in number or in bytes, mean a peer that asks and never reads: `offer` says so and
    the link is to be closed.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._items: deque[tuple[bool, bytes]] = deque()
        self._control = self._control_bytes = 0
        self.bytes = 0
        self.behind = False

    def __repr__(self) -> str:
        return f"<SendQueue {len(self._items)} waiting, {self.bytes} bytes>"

    def __bool__(self) -> bool:
        return bool(self._items)

    def offer(self, message: bytes) -> bool:
        """Queue an encoded control message; False if there are too many."""
        size = self._control_bytes + len(message)
        if self._control >= MAX_CONTROL_MESSAGES or size > MAX_CONTROL_BYTES:
            return False
        self._control += 1
        self._control_bytes = size
        self._add(False, message)
        return True

    def push(self, frame: bytes, *, asked: bool = False) -> bool:
        """Queue a frame; False if it was dropped for this peer.

        Never dropped: a frame that goes alone, and one that was asked for and waited for `room`.
        """
        if self._items and self.bytes + len(frame) > self._max_bytes and not (asked and self.room):
            self.behind = True
            return False
        self._add(True, frame)
        return True

    @property
    def room(self) -> bool:
        """Whether what is sent on request may add more: less than half full."""
        return self.bytes <= self._max_bytes // 2

    def take(self) -> bytes | tuple[bytes, ...]:
        """What goes next: an encoded control message, or frames that make up one message."""
        is_frame, data = self._items.popleft()
        self.bytes -= len(data)
        if not is_frame:
            self._control -= 1
            self._control_bytes -= len(data)
            return data
        frames, size = [data], len(data)
        while self._items and self._items[0][0] and len(frames) < MAX_FRAMES:
            size += len(self._items[0][1])
            if size > FRAMES_PER_MESSAGE_BYTES:
                break
            frames.append(self._items.popleft()[1])
            self.bytes -= len(frames[-1])
        return tuple(frames)

    def _add(self, is_frame: bool, data: bytes) -> None:
        self._items.append((is_frame, data))
        self.bytes += len(data)


def slices(frames: Sequence[bytes]) -> Iterator[tuple[bytes, ...]]:
    """The frames, in order, in parts of about `FRAMES_PER_TURN_BYTES`; of none, one part."""
    part: list[bytes] = []
    size = 0
    for frame in frames:
        if part and size + len(frame) > FRAMES_PER_TURN_BYTES:
            yield tuple(part)
            part, size = [], 0
        part.append(frame)
        size += len(frame)
    yield tuple(part)


class Backoff:
    """Waits between attempts: doubling from `least` to `most` seconds, each drawn from its upper
    half.
    """

    def __init__(self, least: float, most: float, rng: random.Random) -> None:
        self._least, self._most, self._rng = least, most, rng
        self._next = least

    def wait(self) -> float:
        """Seconds until the next attempt."""
        bound, self._next = self._next, min(self._most, self._next * 2)
        return bound * (0.5 + self._rng.random() / 2)

    def reset(self) -> None:
        """It worked: start over."""
        self._next = self._least


class Limiter:
    """At most `burst` events at once and `per_second` on average; more is a flood."""

    def __init__(self, burst: int, per_second: float) -> None:
        self._burst, self._rate = float(burst), per_second
        self._left, self._at = float(burst), 0.0

    def allow(self, now: float) -> bool:
        """Count one event; False if it is one too many."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def keeps_new(own: str, peer: str, old_dialled: bool, new_dialled: bool) -> bool:
    """Which of two links to one peer stays: the one dialled by the smaller name; of equals the
    newer.

    Both sides decide alike whatever order they see the links in. `…_dialled`: this side dialled it.
    """
    if old_dialled == new_dialled:
        return True
    return new_dialled == (own < peer)


def jittered(interval: float, rng: random.Random) -> float:
    """An interval of ±25 %, so that replicas don't fall into step."""
    return interval * (0.75 + rng.random() / 2)


def chosen(own: str, addresses: Iterable[str], count: int) -> list[str]:
    """So many of the addresses to dial: others for each replica, and the same as long as they are
    there (highest random weight, Thaler and Ravishankar 1998).

    What all replicas choose is together a random graph; of `count` 3 or more it is connected, but
    for a chance that vanishes with their number.
    """

    def weight(address: str) -> bytes:
        return hashlib.blake2b(address.encode(), key=own.encode()[:64], digest_size=8).digest()

    return sorted(addresses, key=weight)[:count]


def pick(names: Sequence[str], rng: random.Random) -> str | None:
    """One of the names (sorted first, so that a seed decides), None if there is none."""
    ordered = sorted(names)
    return ordered[rng.randrange(len(ordered))] if ordered else None
