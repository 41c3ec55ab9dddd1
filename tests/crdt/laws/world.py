"""A few replicas of one shard: they write, honestly or not, in frames that cross, get lost, come
twice and out of order; they join snapshots, crash, begin new sessions and raise the floor.

A run is a list of `Step`s, so that Hypothesis can shrink it; every list is a valid run. Frames go
through `encode_body`, the inbox of `mesh` and `decode_body`, as they do in a replica.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from hypothesis import strategies as st

from crdt.errors import CodecError
from crdt.ids import RANDOM_BITS, Dot, week_of
from crdt.lattice import Shard
from crdt.operation import Operation, Transaction, decode_body, encode_body
from crdt.snapshot import ShardSnapshot
from mesh.inbox import Arrival, Inbox
from persistence.frame import Header

from .authors import act
from .places import DOCUMENTS, TEXT

KEY: Final = b"the mesh's digest key"
PEERS: Final = 4

# Hypothesis shrinks to the first of each: to steps that are none.
NOTHING: Final = "nothing"
ALWAYS: Final = (NOTHING, "write", "write", "write", "tell", "tell", "join")
OTHERS: Final = (
    "blind", "remove", "below", "retire", "text", "hostile", "void", "bounded", "cut", "keep",
    "crash", "renew", "age", "raise",
)  # fmt: skip


class Step(NamedTuple):
    """Who does what, and three choices on how."""

    who: int
    what: str
    place: int = 0
    choice: int = 0
    other: int = 0


Script = list[Step]


class Focus(NamedTuple):
    """What a script is about: two places, and a few kinds of steps besides those of all scripts.

    Where everything happens everywhere, little meets. After Groce, Zhang, Eide, Chen, Regehr:
    "Swarm Testing" (ISSTA 2012).
    """

    places: tuple[int, int]
    others: list[str]

    def of(self, drawn: list[tuple[int, int, int, int, int]]) -> Script:
        menu = (*ALWAYS, *self.others * 2)
        return [
            Step(who, menu[what % len(menu)], self.places[place % 2], choice, other)
            for who, what, place, choice, other in drawn
            if menu[what % len(menu)] != NOTHING
        ]


steps: st.SearchStrategy[Script] = st.builds(
    Focus.of,
    st.builds(
        Focus,
        st.tuples(st.integers(0, 15), st.integers(0, 15)),
        st.lists(st.sampled_from(OTHERS), min_size=1, max_size=5),
    ),
    st.lists(
        st.tuples(
            st.sampled_from((0, 0, 1, 1, 2, PEERS - 1)),
            st.integers(0, len(ALWAYS) + 9),
            st.integers(0, 1),
            st.integers(0, 7),
            st.integers(0, 7),
        ),
        min_size=20,  # else most would be short
        max_size=40,
    ),
)


class Frame(NamedTuple):
    """What one session wrote in one flush; `context` is all its author had seen: the
    specification's side of `deps`.
    """

    session: int
    first: int
    last: int
    deps: tuple[Dot, ...]
    body: bytes
    operations: tuple[Operation, ...]
    context: dict[int, int]

    @property
    def dots(self) -> dict[Dot, Operation]:
        """Its operations, as its author performed them."""
        return {(self.session, seq): each for seq, each in enumerate(self.operations, self.first)}


Known = dict[Dot, Frame]
"""Frames by their first dot."""


class Joined(NamedTuple):
    """A snapshot in a journal, and the frames it was made of."""

    snapshot: ShardSnapshot
    known: Known


@dataclass
class Kept:
    """A snapshot that somebody holds on to, and what it was when it was taken."""

    snapshot: ShardSnapshot
    entries: dict[str, dict[bytes, tuple[tuple[int, int, bytes], ...]]]
    digest: bytes


class Peer:
    """One replica: its shard, its inbox, its journal, and what it wrote since the last cut."""

    def __init__(self, session: int) -> None:
        self.session = session
        self.journal: list[Frame | Joined] = []
        self.durable = 0  # how much of the journal a crash will leave
        self.kept: list[Kept] = []
        self._begin()

    def __repr__(self) -> str:
        return f"<Peer {self.session:x}: {self.shard}>"

    def _begin(self) -> None:
        self.shard = Shard(KEY)
        self.inbox = Inbox(self.shard.seen)
        self.known: Known = {}
        self.pending: list[Operation] = []
        self.waiting: Known = {}

    @property
    def told(self) -> dict[Dot, Operation]:
        """Every operation that is in here, in a causal order."""
        found = {dot: each for frame in self.known.values() for dot, each in frame.dots.items()}
        seq = self.shard.frontier.get(self.session, 0) - len(self.pending)
        return found | {(self.session, seq + n): op for n, op in enumerate(self.pending, 1)}

    # ------------------------------------------------------------------------------------- writing

    def write(self, operation: Operation) -> None:
        """Perform an operation of one's own; it leaves with the next cut."""
        self.shard.apply(self.session, self.next_seq, operation)
        self.pending.append(operation)

    @property
    def next_seq(self) -> int:
        return self.shard.frontier.get(self.session, 0) + 1

    def cut(self) -> None:
        """Make a frame of what was written since the last one."""
        if not self.pending:
            return
        last = self.next_seq - 1
        body = encode_body([Transaction("edit", "a", last, "", tuple(self.pending))])
        self._framed(last + 1 - len(self.pending), last, body, tuple(self.pending))
        self.pending.clear()

    def write_garbage(self, count: int) -> None:
        """A frame that no receiver can read: its seqs are used up."""
        self.cut()
        first = self.next_seq
        self.shard.use_up(self.session, first, first + count - 1)
        nothing = Operation(DOCUMENTS[0], b"", None)
        self._framed(first, first + count - 1, b"\xc1", (nothing,) * count)

    def _framed(
        self, first: int, last: int, body: bytes, operations: tuple[Operation, ...]
    ) -> None:
        shard, session = self.shard, self.session
        deps = tuple(sorted((s, n) for s, n in shard.heads.items() if s != session))
        context = {**shard.frontier, session: first - 1}
        frame = Frame(session, first, last, deps, body, operations, context)
        shard.frame_applied(session, first, last, deps)
        self.known[session, first] = frame
        self.journal.append(frame)

    # ------------------------------------------------------------------------------------- hearing

    def tell(self, other: Peer, choice: int) -> None:
        """Send what the other lacks: all, some, some twice, in one of several orders."""
        self.cut()
        self.durable = len(self.journal)
        lacks = [frame for dot, frame in self.known.items() if dot not in other.known]
        if choice % 2:
            lacks.reverse()
        if choice in (2, 3):
            lacks = lacks[1::2] + lacks[:1]
        elif choice in (4, 5):
            lacks = lacks[:2] + lacks[:1]
        elif choice in (6, 7):
            lacks = lacks[len(lacks) // 2 :] + list(self.known.values())[:2]
        other.hear(lacks)

    def hear(self, frames: Iterable[Frame]) -> None:
        """Take frames in, in any order; apply what can be."""
        for frame in frames:
            header = Header(
                1, b"", 0, frame.session, frame.first, frame.last, frame.deps, 0, 0, 0, b"", {}
            )
            self.waiting[frame.session, frame.first] = frame
            self.inbox.offer(Arrival(header, b"", frame.body, "", 0.0))
        self._pump()

    def _pump(self) -> None:
        while arrival := self.inbox.take():
            self._apply(self.waiting[arrival.session, arrival.first])
            self.inbox.advanced(arrival.session, arrival.last)

    def _apply(self, frame: Frame) -> None:
        session, first, last = frame.session, frame.first, frame.last
        try:
            transactions = decode_body(frame.body)
        except CodecError:
            self.shard.use_up(session, first, last)
        else:
            self.shard.apply_transactions(session, first, transactions)
        self.shard.frame_applied(session, first, last, frame.deps)
        self.known[session, first] = frame
        self.journal.append(frame)

    def join(self, other: Peer) -> None:
        """Take over the other's state, as it is on its disk."""
        other.cut()
        other.durable = len(other.journal)
        self._join(Joined(other.shard.snapshot(), dict(other.known)))
        self.inbox.rescan()
        self._pump()

    def _join(self, joined: Joined) -> None:
        self.shard.join(joined.snapshot)
        self.known.update(joined.known)
        self.journal.append(joined)

    # ---------------------------------------------------------------------------- coming and going

    def keep(self) -> None:
        """Take a snapshot, and hold on to it."""
        self.cut()
        snapshot = self.shard.snapshot()
        self.kept.append(Kept(snapshot, snapshot.entries, snapshot.digest))

    def renew(self, session: int) -> None:
        """Go on in a new session; the old one has ended."""
        self.cut()
        self.durable = len(self.journal)
        self.session = session

    def crash(self, session: int, *, lose: bool) -> None:
        """Begin again from the journal, in a new session; all that nobody waits for may be lost."""
        if not lose:
            self.cut()
            self.durable = len(self.journal)
        journal = self.journal[: self.durable]
        self.journal = []
        self.session = session
        self._begin()
        for record in journal:
            if isinstance(record, Frame):
                self._apply(record)
            else:
                self._join(record)


class World:
    """All replicas, and what the coordinator knows of sessions."""

    def __init__(self) -> None:
        self.week = 1
        self._sessions = 0
        self.peers = [Peer(self.fresh_session()) for _ in range(PEERS)]

    def fresh_session(self) -> int:
        """The id of a session that is born now."""
        self._sessions += 1
        return (self.week << RANDOM_BITS) | self._sessions

    def play(self, step: Step) -> None:
        """One step."""
        peer = self.peers[step.who]
        partner = self.peers[(step.who + 1 + step.other % (PEERS - 1)) % PEERS]
        match step.what:
            case "tell":
                peer.tell(partner, step.choice)
            case "join":
                peer.join(partner)
            case "cut":
                peer.cut()
            case "keep":
                peer.keep()
            case "crash":
                peer.crash(self.fresh_session(), lose=step.choice % 2 == 0)
            case "renew":
                peer.renew(self.fresh_session())
            case "age":
                self.age()
                peer.shard.raise_floor(self.week)
            case "raise":
                peer.cut()
                peer.shard.raise_floor(self.week)
            case "void" if step.choice >= 6:
                peer.write_garbage(1 + step.other)
            case _:
                act(peer, step)

    def age(self) -> None:
        """A week passes: all sessions end, everyone gets all they wrote, so that the floor may be
        raised.
        """
        self.week += 1
        for peer in self.peers:
            peer.renew(self.fresh_session())
        self.everyone_hears_everything()
        for peer in self.peers:
            peer.durable = len(peer.journal)

    def everyone_hears_everything(self) -> None:
        """Every frame reaches everyone. Of floors the highest does, too."""
        for peer in self.peers * 2:
            for other in self.peers:
                if other is not peer:
                    peer.tell(other, 0)
        floor = max(peer.shard.floor for peer in self.peers)
        for peer in self.peers:
            peer.shard.raise_floor(floor)


def run(script: Script) -> World:
    """Play a script."""
    world = World()
    for step in script:
        world.play(step)
    for peer in world.peers:
        peer.cut()
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
        **visible(shard, snapshot),
        "digest": snapshot.digest,
        "count": shard.entry_count,
    }


def visible(shard: Shard, snapshot: ShardSnapshot) -> dict[str, object]:
    """The part of the state that digests are about."""
    texts = {}
    for document in snapshot.texts:
        text = shard.text(document, TEXT)
        if text is not None and text.value():
            texts[document] = text.value()
    return {
        "entries": snapshot.entries,
        "texts": texts,
        "generations": snapshot.generations,
    }


def copy(shard: Shard) -> Shard:
    """An independent shard with the same state."""
    twin = Shard(KEY)
    twin.join(shard.snapshot())
    return twin


def known_upto(told: dict[Dot, Operation], floor: int) -> dict[int, int]:
    """The frontier of somebody who knows these operations."""
    return {session: seq for session, seq in sorted(told) if week_of(session) >= floor}
