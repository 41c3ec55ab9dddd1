"""Which shards a replica holds, where it does not hold all of them. Said once, when a link is up.

Nobody sends it frames of other shards, waits for it to have them, or keeps them for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.wire.codec import Word, items, shard_index
from persistence.limits import MAX_SHARDS


@dataclass(frozen=True, slots=True)
class Holds:
    """The sender holds these shards only."""

    shards: tuple[int, ...]


WORDS = (
    Word(
        28, Holds, lambda m: (list(m.shards),), 1,
        lambda p: Holds(tuple(shard_index(one) for one in items(p[0], MAX_SHARDS))), since=2,
    ),
)  # fmt: skip
