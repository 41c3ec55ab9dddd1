"""A few replicas of one shard that write, hear from each other in causal order, and join.

A run is a list of plain numbers, so that Hypothesis can shrink it; every list is a valid run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from hypothesis import strategies as st

from crdt.codec import encode, encode_stamped
from crdt.frontier import covers
from crdt.ids import Dot
from crdt.lattice import Shard
from crdt.operation import Operation, Removal
from crdt.paths import TypeCode, child_path, element_path, field_path
from crdt.types.rules import ENABLED, PRESENT
from crdt.types.text import Insert, TextState

KEY = b"the mesh's digest key"
DOCUMENTS = ("Task/1", "Task/2")
MAP = field_path("m", TypeCode.MAP)
INNER = child_path(MAP, "inner", TypeCode.MAP)
SET = field_path("s", TypeCode.SET)
TEXT = field_path("t", TypeCode.TEXT)
PLACES = (
    (field_path("r", TypeCode.REGISTER), encode_stamped(1, "x")),
    (field_path("c", TypeCode.COUNTER), encode(7)),
    (field_path("f", TypeCode.FLAG), ENABLED),
    (element_path(SET, "red"), PRESENT),
    (child_path(MAP, "k", TypeCode.REGISTER), encode_stamped(2, [1, 2])),
    (child_path(INNER, 5, TypeCode.COUNTER), encode(-1)),
)
FEED = field_path("l", TypeCode.FEED)
PREFIXES = (b"", MAP, INNER, SET)

Step = tuple[int, int, int, int]
steps = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 7), st.integers(0, 11), st.integers(0, 3)),
    max_size=40,
)


class Told(NamedTuple):
    """One operation with what its author had: what a frame of one operation says."""

    dot: Dot
    operation: Operation
    context: dict[int, int]
    deps: tuple[Dot, ...]


@dataclass
class Peer:
    """One replica: its shard, and every operation it knows, in the order it applied them."""

    session: int
    shard: Shard = field(default_factory=lambda: Shard(KEY))
    told: dict[Dot, Told] = field(default_factory=dict)

    def write(self, operation: Operation) -> Told:
        seq = self.shard.frontier.get(self.session, 0) + 1
        deps = tuple(sorted((s, n) for s, n in self.shard.heads.items() if s != self.session))
        told = Told((self.session, seq), operation, dict(self.shard.frontier), deps)
        self.take(told)
        return told

    def take(self, told: Told) -> None:
        session, seq = told.dot
        assert covers(self.shard.frontier, told.context), "the test itself broke causal order"
        self.shard.apply(session, seq, told.operation)
        self.shard.frame_applied(session, seq, seq, told.deps)
        self.told[told.dot] = told

    def hear(self, other: Peer, backwards: bool) -> None:
        """Apply all that the other knows, in one of the causal orders."""
        waiting = [told for dot, told in other.told.items() if dot not in self.told]
        if backwards:
            waiting.reverse()
        while waiting:
            for told in list(waiting):
                if covers(self.shard.frontier, told.context):
                    self.take(told)
                    waiting.remove(told)

    def join(self, other: Peer) -> None:
        self.shard.join(other.shard.snapshot())
        self.told |= {dot: told for dot, told in other.told.items() if dot not in self.told}

    def removal(self, document: str, path: bytes, *, prefix: bool) -> tuple[Removal, ...]:
        """Of what is live there now, as an author says it."""
        if prefix:
            live = [entry for _, entries in self.shard.under(document, path) for entry in entries]
        else:
            live = list(self.shard.entries(document, path))
        seen = tuple(sorted({(s, self.shard.frontier[s]) for s, _, _ in live}))
        return (Removal(path, prefix, seen),) if seen else ()

    def act(self, kind: int, place: int, other: int) -> None:
        """One write, chosen by three numbers."""
        document = DOCUMENTS[other % len(DOCUMENTS)]
        if kind == 0:
            prefix = PREFIXES[place % len(PREFIXES)]
            removals = self.removal(document, prefix, prefix=True)
            self.write(Operation(document, prefix, None, removals))
        elif kind == 1:
            stamp = self.shard.frontier.get(self.session, 0)
            self.write(Operation(document, FEED, encode_stamped(stamp, "item"), ()))
        elif kind == 2:
            state = self.shard.text(document, TEXT)
            copy = TextState() if state is None else TextState.load(state.encode())
            index = min(place, len(copy.value()))
            update = copy.edit(self.session, [Insert(index, chr(97 + place))])
            self.write(Operation(document, TEXT, update, ()))
        elif kind == 3:
            path, _ = PLACES[place % len(PLACES)]
            # An invalid payload: void, but its seq is used up.
            self.write(
                Operation(document, path, b"\xc1", self.removal(document, path, prefix=False))
            )
        else:
            path, payload = PLACES[place % len(PLACES)]
            removals = self.removal(document, path, prefix=False)
            # Sometimes an author who does not overwrite what he saw, or who only removes.
            if kind == 4:
                removals = ()
            self.write(Operation(document, path, None if kind == 5 else payload, removals))


def run(script: list[Step], peers: int = 3) -> list[Peer]:
    """Play a script. Of each step: who, what (0-5 a write, 6 hear, 7 join), and two choices."""
    world = [Peer(session + 1) for session in range(peers)]
    for who, kind, place, other in script:
        peer = world[who % peers]
        partner = world[(who + 1 + other % (peers - 1)) % peers]
        if kind == 6:
            peer.hear(partner, backwards=place % 2 == 1)
        elif kind == 7:
            peer.join(partner)
        else:
            peer.act(kind if place < 9 else 8, place, other)
    return world


def state(shard: Shard) -> dict[str, object]:
    """Everything two replicas must agree on. Texts by what they show: yrs has many encodings of
    one state.
    """
    snapshot = shard.snapshot()
    return {
        "floor": snapshot.floor,
        "frontier": snapshot.frontier,
        "heads": snapshot.heads,
        "entries": snapshot.entries,
        "texts": {
            (document, path): TextState.load(data).value()
            for document, fields in snapshot.texts.items()
            for path, data in fields.items()
        },
        "digest": snapshot.digest,
        "count": shard.entry_count,
    }


def copy(shard: Shard) -> Shard:
    """An independent shard with the same state."""
    twin = Shard(KEY)
    twin.join(shard.snapshot())
    return twin
