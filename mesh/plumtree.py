"""Broadcast trees: by which link the frames of a session come, and over which they are pushed on.

Rules of this file: pure; times are numbers the caller passes.

Theory of operation: Plumtree (Leitão, Pereira, Rodrigues: *Epidemic Broadcast Trees*, SRDS 2007),
with a tree for each session, which is what its section on many senders comes to. A new session's
frames are flooded: every replica pushes them on over all its links. A frame that comes a second
time says that its link is not needed, and the receiver prunes it: that link turns from *eager* to
*lazy*, over which is only said how far the session is on disk. What is left are the edges of a
tree, on which every frame comes to every replica once. Whoever learns over a lazy link of what did
not come in time asks for it there and grafts that link to its tree.

Two departures. Of two ways the better stays, not always the faster: the bus costs its readers
nothing, and the author's own link is one hop. And who loses the link its frames come by grafts all
others at once, instead of waiting for announcements: the copies too many are pruned again.

Guarantees nothing alone: what is lost on the way is found by anti-entropy. All state is bounded and
soft; forgetting any of it costs copies.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

GRACE_S: Final = 0.25
"""How long what was announced may be on its way before it is asked for."""
AGAIN_S: Final = 1.0
"""How long until another link that announced it is grafted."""
TRIES: Final = 5
"""Then it is left to anti-entropy: whoever announced it may not have it."""
MAX_ARRIVALS: Final = 65_536

RELAY, AUTHOR, BUS = range(3)
"""How good a way is: over somebody's link, over the author's own, by the bus."""

K = TypeVar("K")
V = TypeVar("V")
FrameKey = tuple[int, int, int]
"""(shard, session, first seq)."""


class _Recent(Generic[K, V]):
    """The newest so many entries."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: K, value: V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def get(self, key: K) -> V | None:
        return self._entries.get(key)

    def pop(self, key: K) -> V | None:
        return self._entries.pop(key, None)

    def items(self) -> list[tuple[K, V]]:
        return list(self._entries.items())


@dataclass(slots=True)
class _Lack:
    """Something that was announced and is not here: up to which seq, since when, by whom."""

    seq: int
    due: float
    links: list[str]
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Overdue:
    """What did not come: ask this link for it, and graft it."""

    link: str
    shard: int
    session: int
    seq: int


class Trees:
    """See the module. Links are known by the peer's name; `limit`: sessions kept account of, for
    each link.
    """

    def __init__(self, own: int, limit: int) -> None:
        self._own = own
        self._limit = limit
        self._parents: _Recent[int, tuple[str, int]] = _Recent(limit)
        self._lazy: dict[str, _Recent[int, None]] = {}
        self._told: dict[str, _Recent[int, None]] = {}
        self._arrived: _Recent[FrameKey, str] = _Recent(MAX_ARRIVALS)
        self._lacks: _Recent[tuple[int, int], _Lack] = _Recent(MAX_ARRIVALS)

    def __repr__(self) -> str:
        return f"<Trees of {len(self._parents)} sessions over {sorted(self._lazy)}>"

    # ------------------------------------------------------------------ links

    def up(self, link: str) -> None:
        """A new link: eager for every session."""
        self._lazy[link] = _Recent(self._limit)
        self._told[link] = _Recent(self._limit)

    def down(self, link: str) -> list[int]:
        """The link is gone. The sessions whose frames came by it: graft the others for them."""
        self._lazy.pop(link, None)
        self._told.pop(link, None)
        return self._orphaned(link)

    def bus_down(self, name: str) -> list[int]:
        """The bus is gone. The sessions whose frames came by it."""
        return self._orphaned(name)

    def _orphaned(self, way: str) -> list[int]:
        orphans = [session for session, (parent, _) in self._parents.items() if parent == way]
        for session in orphans:
            self._parents.pop(session)
        return orphans

    # ------------------------------------------------------------------ outwards

    def eager(self, link: str, session: int) -> bool:
        """Whether frames of the session are pushed over this link."""
        lazy = self._lazy.get(link)
        return lazy is not None and session not in lazy

    def prune(self, link: str, sessions: Iterable[int]) -> None:
        """The peer gets them by another way."""
        if (lazy := self._lazy.get(link)) is not None:
            for session in sessions:
                lazy.put(session, None)

    def graft(self, link: str, sessions: Iterable[int]) -> None:
        """The peer wants them by this link."""
        if (lazy := self._lazy.get(link)) is not None:
            for session in sessions:
                lazy.pop(session)

    def take(self, key: FrameKey) -> str | None:
        """The way a frame came by that is to be pushed on now, once; None: it is not."""
        return self._arrived.pop(key)

    # ------------------------------------------------------------------ inwards

    def fresh(self, key: FrameKey, way: str, rank: int) -> None:
        """A new frame was pushed to us."""
        self._arrived.put(key, way)
        if key[1] not in self._told.get(way, ()):  # else it had left before it was pruned
            self._parents.put(key[1], (way, rank))

    def again(self, session: int, way: str, rank: int) -> str | None:
        """A frame that is here already was pushed to us: the link to prune, if one is to be."""
        if session == self._own:
            return self._tell(way, session)
        parent, parents_rank = self._parents.get(session) or ("", RELAY)
        if parent == way:
            return None
        if not parent or (rank > parents_rank and session not in self._told.get(way, ())):
            self._parents.put(session, (way, rank))
            return self._tell(parent, session)
        return self._tell(way, session) if rank < BUS else None

    def repaired(self, session: int, link: str, rank: int) -> bool:
        """A frame that nobody pushed was asked of this link: whether to graft it, so that the next
        one comes by itself.
        """
        told = self._told.get(link)
        if told is None or (self._parents.get(session) is not None and session not in told):
            return False
        told.pop(session)
        self._parents.put(session, (link, rank))
        return True

    def _tell(self, link: str, session: int) -> str | None:
        told = self._told.get(link)
        if told is None or session in told:
            return None
        told.put(session, None)
        return link

    def regraft(self, link: str, session: int) -> None:
        """This link is asked to push the session again."""
        if (told := self._told.get(link)) is not None:
            told.pop(session)

    # ------------------------------------------------------------------ announcements

    def announced(self, shard: int, session: int, seq: int, link: str, now: float) -> None:
        """A peer has on disk what is not here."""
        key = shard, session
        lack = self._lacks.get(key)
        if lack is None:
            self._lacks.put(key, _Lack(seq, now + GRACE_S, [link]))
            return
        lack.seq = max(seq, lack.seq)
        if link not in lack.links:
            lack.links.append(link)

    def overdue(self, here: Callable[[int, int, int], bool], now: float) -> list[Overdue]:
        """What to ask for now. `here(shard, session, seq)`: whether it has come."""
        found = []
        for (shard, session), lack in self._lacks.items():
            if here(shard, session, lack.seq) or lack.tries >= TRIES:
                self._lacks.pop((shard, session))
            elif now >= lack.due:
                link = lack.links[lack.tries % len(lack.links)]
                lack.tries += 1
                lack.due = now + AGAIN_S
                found.append(Overdue(link, shard, session, lack.seq))
        return found
