"""Growing broadcast trees: who pushes whose frames on. Kinds 13 to 19, since wire version 2.

What would be announcements of single frames (*IHAVE* in the paper) is `repair.Journaled` here: how
far the sender has each session on disk says the same in fewer bytes, and only what is true.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mesh.wire.codec import Word, items, number

MAX_TREES = 16_384
"""Sessions that one message names."""


@dataclass(frozen=True, slots=True)
class Prune:
    """The sender gets frames of these sessions by another way: don't push them any more."""

    sessions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Graft:
    """Push frames of these sessions again, from now on. What the sender lacks it asks for."""

    sessions: tuple[int, ...]


def _sessions(value: Any) -> tuple[int, ...]:
    return tuple([number(one, least=1) for one in items(value, MAX_TREES)])


WORDS: tuple[Word, ...] = (
    Word(13, Prune, lambda m: (m.sessions,), 1, lambda p: Prune(_sessions(p[0])), since=2),
    Word(14, Graft, lambda m: (m.sessions,), 1, lambda p: Graft(_sessions(p[0])), since=2),
)
