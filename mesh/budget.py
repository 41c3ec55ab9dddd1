"""What a peer may make this replica do: what messages cost, and budgets that fill with time.

Rules of this file: pure; times are numbers the caller passes.

Theory of operation: token buckets. Nothing is refused for its price. Who has spent more than it has
is not read from until time has paid, so that TCP slows it down as any reader that is slow
(back-pressure). There are two budgets, since one means more than the other: no program of ours
makes so many *calls* for long, and who does loses the link (`manners`). *Volume* is large where
states are large, also between honest replicas: it is only ever slowed down.

Free, as it is no more than there is: frames that are new here, parts of a snapshot that was asked
for, and whatever the peer is given for the first time over a link. Frames are slowed down by the
disk (`links.Conversation.room`).
"""

from __future__ import annotations

from typing import Final

from mesh.wire import (
    Certificates,
    Frames,
    Frontier,
    Message,
    SnapshotPart,
    Summary,
    Want,
)
from mesh.wire.presence import Presence

UNITS_PER_S: Final = 8_192.0
"""A unit is some 20 µs of this replica's time: one peer may take a sixth of a core, for ever."""
UNITS_MOST: Final = 16_384.0
"""Saved up while a peer is quiet."""
DEBT_MOST: Final = 32_768.0
"""One large answer is not held against a peer for longer than 4 s."""
PAUSE_S: Final = 0.05
"""Who waits, waits for so long at least."""
BREAK_S: Final = 0.25
"""Who has saved up this much is within its limit again."""

CAPTURE_CALLS: Final = 8
"""What asks for a capture of all shards counts for so many messages."""
BYTES_A_UNIT: Final = 2_048
"""Of numbers, which are decoded one by one."""
BLOB_BYTES_A_UNIT: Final = 8_192
"""Of bytes that are only looked at."""
SNAPSHOT_UNITS: Final = 256
"""However small: it is brought to disk first."""
SNAPSHOT_BYTES_A_UNIT: Final = 1_024


class Budget:
    """So many units, that time fills up."""

    def __init__(self) -> None:
        self._units = UNITS_MOST
        self._at = 0.0
        self._since: float | None = None

    def __repr__(self) -> str:
        return f"<Budget of {self._units:.0f} units>"

    def spend(self, units: float, now: float) -> None:
        """Take so much; there may be less than nothing left."""
        self._fill(now)
        self._units = max(-DEBT_MOST, self._units - units)

    def wait(self, now: float) -> float:
        """Seconds until it makes sense to go on; 0.0 while something is left."""
        self._fill(now)
        if self._units > 0:
            return 0.0
        if self._since is None:
            self._since = now
        return PAUSE_S - self._units / UNITS_PER_S

    def over_for(self, now: float) -> float:
        """For how many seconds it has been used up, without a break; 0.0: it is not."""
        self._fill(now)
        return 0.0 if self._since is None else now - self._since

    def is_full(self, now: float) -> bool:
        """Whether it is as a new one."""
        self._fill(now)
        return self._units >= UNITS_MOST

    def _fill(self, now: float) -> None:
        if now == self._at:
            return
        self._units = min(UNITS_MOST, self._units + max(0.0, now - self._at) * UNITS_PER_S)
        self._at = now
        if self._units >= BREAK_S * UNITS_PER_S:
            self._since = None


class Account:
    """Both budgets of one peer, whatever links it has had."""

    def __init__(self) -> None:
        self.calls = Budget()
        self.volume = Budget()

    def __repr__(self) -> str:
        return f"<Account: calls {self.calls!r}, volume {self.volume!r}>"

    def wait(self, now: float) -> float:
        """Seconds until the peer should be read from again."""
        return max(self.calls.wait(now), self.volume.wait(now))

    def hear(
        self, message: Message | None, size: int, now: float, *, captured: bool = False
    ) -> None:
        """A message of so many bytes came; None: one that could not be read.

        `captured`: a capture of all shards is due for this peer anyway, and costs nothing more.
        """
        capture = 0 if captured else CAPTURE_CALLS
        match message:
            case Frames() | SnapshotPart():
                return
            case Summary():
                self.calls.spend(1 + capture, now)
            case Frontier():
                self.calls.spend(1 + capture * message.reply, now)
            case _:
                self.calls.spend(1, now)
        self.volume.spend(size // BYTES_A_UNIT + _items(message), now)

    def answer(self, size: int, now: float) -> None:
        """The peer is sent so many bytes that it asked for."""
        self.volume.spend(size // BYTES_A_UNIT, now)

    def again(self, size: int, now: float) -> None:
        """A frame of so many bytes came that was of no use, or is sent a second time."""
        self.volume.spend(2 + size // BLOB_BYTES_A_UNIT, now)

    def snapshot_again(self, size: int, now: float) -> None:
        """A shard is made into so many bytes, and sent, a second time."""
        self.volume.spend(SNAPSHOT_UNITS + size // SNAPSHOT_BYTES_A_UNIT, now)

    def is_full(self, now: float) -> bool:
        """Whether there is nothing to be remembered."""
        return self.calls.is_full(now) and self.volume.is_full(now)


def _items(message: Message | None) -> int:
    """What the items in a message cost beyond their bytes."""
    match message:
        case Certificates():
            return 4 * len(message.certificates)  # Each is verified.
        case Presence():
            return len(message.rows)  # Each may have to be passed on.
        case Want():
            return len(message.ranges) // 16
        case _:
            return 0
