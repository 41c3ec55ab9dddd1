"""Who is there, and what it says of itself. Kinds 20 to 23, from wire version 2 on."""

from __future__ import annotations

from typing import Any, NamedTuple

from crdt.errors import CodecError
from mesh.wire.codec import Word, blob, items, number, text

MAX_ROWS = 256
"""In one message."""
MAX_PRESENCE_BYTES = 16 << 10
"""What one replica may say of itself, encoded."""
MAX_LEFT_MS = 600_000


class PresenceRow(NamedTuple):
    """The newest that somebody knows of one replica.

    `since`: Unix milliseconds at which its session began; `version` grows with every heartbeat;
    `left_ms`: for how long the row counts from now on; `body` is `mesh.presence.Said` as bytes,
    empty for a replica that left.
    """

    replica: str
    since: int
    session: int
    version: int
    left_ms: int
    body: bytes


class Presence(NamedTuple):
    """Rows that are new to the receiver, as far as the sender knows."""

    rows: tuple[PresenceRow, ...]


def row(value: Any) -> PresenceRow:
    """A row of a message, or of the registry. Raises CodecError."""
    if type(value) is not tuple or len(value) != 6:
        raise CodecError("a row of presence has six fields")
    replica, since, session, version, left, body = value
    return PresenceRow(
        text(replica), number(since), number(session, least=1), number(version, least=1),
        number(left, MAX_LEFT_MS), blob(body, MAX_PRESENCE_BYTES),
    )  # fmt: skip


WORDS: tuple[Word, ...] = (
    Word(
        20, Presence, lambda m: (m.rows,),
        1, lambda p: Presence(tuple([row(one) for one in items(p[0], MAX_ROWS)])), since=2,
    ),
)  # fmt: skip
