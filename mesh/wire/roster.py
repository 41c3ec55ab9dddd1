"""Who belongs to the mesh, and with which keys. Kinds 24 to 27, from wire version 2 on.

Mesh keys are said in the clear inside a link, which is TLS between two members; they go nowhere
else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mesh.wire.codec import Word, blob, items, number
from persistence.limits import MAX_KEY_ID, MAX_ROSTER_BYTES, MAX_ROSTER_KEYS, MESH_KEY_BYTES


@dataclass(frozen=True, slots=True)
class RosterVersion:
    """Which roster the sender has (0: none), and the ids of the mesh keys it has."""

    version: int
    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RosterNews:
    """The roster the sender has, as the authority signed it."""

    roster: bytes


@dataclass(frozen=True, slots=True)
class MeshKeys:
    """Mesh keys {key id: 32 bytes} that the other side lacks."""

    keys: tuple[tuple[int, bytes], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class WantKeys:
    """Send me these mesh keys, if you have them."""

    keys: tuple[int, ...]


def _ids(value: Any) -> tuple[int, ...]:
    return tuple(number(one, MAX_KEY_ID, 1) for one in items(value, MAX_ROSTER_KEYS))


def _keys(parts: tuple[Any, ...]) -> MeshKeys:
    flat = items(parts[0], 2 * MAX_ROSTER_KEYS)
    pairs = zip(_ids(flat[::2]), flat[1::2], strict=False)
    return MeshKeys(tuple((key_id, blob(key, MESH_KEY_BYTES)) for key_id, key in pairs))


WORDS: tuple[Word, ...] = (
    Word(
        24, RosterVersion, lambda m: (m.version, list(m.keys)), 2,
        lambda p: RosterVersion(number(p[0]), _ids(p[1])), since=2,
    ),
    Word(
        25, RosterNews, lambda m: (m.roster,), 1,
        lambda p: RosterNews(blob(p[0], MAX_ROSTER_BYTES)), since=2,
    ),
    Word(26, MeshKeys, lambda m: ([part for row in m.keys for part in row],), 1, _keys, since=2),
    Word(27, WantKeys, lambda m: (list(m.keys),), 1, lambda p: WantKeys(_ids(p[0])), since=2),
)  # fmt: skip
