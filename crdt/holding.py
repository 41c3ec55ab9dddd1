"""What one path holds: one entry, or several.

A path with one entry, by far the most common, holds it as a flat tuple of two ints and bytes,
which the garbage collector stops tracking. A path with several holds a `Many`: {session: (seq,
payload)}, or {session: {seq: payload}} for a session that has several, so that appending to a feed
and replacing one of a thousand counter rows take constant time.
"""

from __future__ import annotations

Entry = tuple[int, int, bytes]
Row = tuple[int, bytes] | dict[int, bytes]
Many = dict[int, Row]
Holding = Entry | Many


def entries_of(holding: Holding) -> list[Entry]:
    """All entries of a path, sorted by dot."""
    if isinstance(holding, tuple):
        return [holding]
    found: list[Entry] = []
    for session, row in holding.items():
        if isinstance(row, tuple):
            found.append((session, row[0], row[1]))
        else:
            found.extend((session, seq, payload) for seq, payload in row.items())
    found.sort()
    return found


def holding_of(entries: list[Entry]) -> Holding:
    """The holding of one or more entries, sorted by dot."""
    if len(entries) == 1:
        return entries[0]
    many: Many = {}
    for session, seq, payload in entries:
        add(many, session, seq, payload)
    return many


def last_of(holding: Holding) -> tuple[Entry, ...]:
    """Each session's entry with the greatest seq. Rows grow in the order of their seqs."""
    if isinstance(holding, tuple):
        return (holding,)
    found: list[Entry] = []
    for session, row in holding.items():
        if isinstance(row, tuple):
            found.append((session, row[0], row[1]))
        else:
            seq = next(reversed(row))
            found.append((session, seq, row[seq]))
    return tuple(found)


def payload_at(holding: Holding | None, session: int, seq: int) -> bytes | None:
    """The payload a path holds under one dot."""
    if holding is None:
        return None
    if isinstance(holding, tuple):
        return holding[2] if holding[0] == session and holding[1] == seq else None
    row = holding.get(session)
    if row is None:
        return None
    if isinstance(row, tuple):
        return row[1] if row[0] == seq else None
    return row.get(seq)


def add(many: Many, session: int, seq: int, payload: bytes) -> None:
    """One more entry; its dot must not be there yet."""
    row = many.get(session)
    if row is None:
        many[session] = (seq, payload)
    elif isinstance(row, tuple):
        many[session] = {row[0]: row[1], seq: payload}
    else:
        row[seq] = payload


def copy_of(holding: Holding) -> Holding:
    """A holding that shares nothing with this one that could change."""
    if isinstance(holding, tuple):
        return holding
    return {
        session: row if isinstance(row, tuple) else row.copy() for session, row in holding.items()
    }
