"""The registry of a mesh on Redis: rows that expire, under a bounded number of names.

Keys are `statemesh:{MESH}:row:NAME`, each with its own time to live, and `statemesh:{MESH}:rows`, a
sorted set of names by when they expire (server's clock, milliseconds): it is what bounds them. They
share the hash tag of all of a mesh's keys and touch no stream, so that no registry of any size
costs a frame. Pure: commands and replies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from mesh.environment import ANNOUNCED_MAX

Command: TypeAlias = tuple[str | bytes | int, ...]

CHUNK = 500
"""Rows asked for at once."""


class RegistryKeys:
    """The commands for the registry whose keys start so."""

    def __init__(self, prefix: str) -> None:
        self._rows = f"{prefix}:row:"
        self._index = f"{prefix}:rows"

    def __repr__(self) -> str:
        return f"<RegistryKeys {self._index}>"

    def leave(self, name: str, row: bytes, ttl_s: float, time: Sequence[bytes]) -> list[Command]:
        """Store a row, or remove it if it is empty. `time` is what the server answers to TIME."""
        now = int(time[0]) * 1000 + int(time[1]) // 1000
        ttl = max(1, int(ttl_s * 1000))
        key = self._rows + name
        keep: list[Command] = [
            ("SET", key, row, "PX", ttl), ("ZADD", self._index, now + ttl, name),
        ]  # fmt: skip
        drop: list[Command] = [("DEL", key), ("ZREM", self._index, name)]
        return [
            *(keep if row else drop),
            ("ZREMRANGEBYSCORE", self._index, "-inf", now),
            ("ZREMRANGEBYRANK", self._index, 0, -(ANNOUNCED_MAX + 1)),
        ]

    def names(self) -> Command:
        """All names there may be."""
        return ("ZRANGE", self._index, 0, -1)

    def rows(self, names: Sequence[str]) -> list[Command]:
        """The rows of these, in groups of `CHUNK`."""
        return [
            ("MGET", *(self._rows + name for name in names[start : start + CHUNK]))
            for start in range(0, len(names), CHUNK)
        ]


def wanted(reply: Sequence[bytes], prefix: str) -> list[str]:
    """The names that start so, in order; what is no text is nobody's."""
    names = (name.decode(errors="replace") for name in reply[:ANNOUNCED_MAX])
    return sorted(name for name in names if name.startswith(prefix))


def found(names: Sequence[str], replies: Sequence[Sequence[Any]]) -> dict[str, bytes]:
    """{name: row} of those that have not expired."""
    values = [value for reply in replies for value in reply]
    pairs = zip(names, values, strict=True)
    return {name: value for name, value in pairs if isinstance(value, bytes)}


def cuts(keys: Sequence[str], below: Mapping[int, Sequence[str]]) -> list[Command]:
    """Trim every stream below the least of the positions given for it. ValueError: one is none."""

    def ordinal(position: str) -> tuple[int, int]:
        major, _, minor = position.partition("-")
        return int(major), int(minor)

    return [
        ("XTRIM", keys[shard], "MINID", "~", min(positions, key=ordinal))
        for shard, positions in sorted(below.items())
        if positions and all(positions)
    ]
