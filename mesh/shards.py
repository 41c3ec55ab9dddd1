"""One shard as a replica holds it: the lattice, what waits to get in, what waits to get out.

Rules of this file: synchronous, no I/O. The order of things is decided by the committer; here each
step is one call that leaves the shard whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crdt.access import ShardView
from crdt.clock import HybridClock
from crdt.frontier import frontier_hash
from crdt.ids import Dot
from crdt.lattice import Shard
from crdt.operation import Transaction, encode_body, void
from crdt.snapshot import ShardSnapshot, encode_snapshot
from mesh.inbox import Arrival, Inbox
from mesh.outbox import Cut, Outbox
from mesh.repair import Capture
from persistence.base import FrameRecord
from persistence.frame import CLOSE_EXTENSION, EVENTS_EXTENSION, frame_hash
from persistence.journal import apply_frame
from persistence.lazy import LazyShard
from persistence.limits import MAX_DEPS
from persistence.sealing import Draft, Sealer

ABSORB_HEADS = 1_024
"""Beyond this many heads a replica with nothing to say writes a frame that says nothing but them:
all of them become its past, and one head is left.
"""
MAX_HEADS = MAX_DEPS - 64
"""With this many, received frames wait until such a frame is cut: no frame can name many more."""
HEADS_TYPE = "mesh.heads"
CLOSE_TYPE = "mesh.close"
HEADS_DOCUMENT = "mesh/heads"
"""A name for operations that touch nothing; no such document ever exists."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a frame that got in.

    `transactions` is None where its body was malformed: its seqs are used up and nothing was
    applied. `forked`: it does not follow the frame of its session that we have.
    """

    transactions: Sequence[Transaction] | None
    forked: bool


@dataclass(frozen=True, slots=True)
class TakenSnapshot:
    """A whole shard at one instant, not encoded yet. Nobody may change it, and it never changes, so
    any thread may seal it.

    `certificates` are those of its sessions, `chain` has the hash of each one's last frame, `stamp`
    is by the hybrid clock.
    """

    shard: int
    state: ShardSnapshot
    certificates: Sequence[bytes]
    chain: Mapping[int, bytes]
    stamp: int

    def seal(self, sealer: Sealer) -> bytes:
        """Encoded and sealed: about a microsecond an entry. Raises InvalidValue if it is too
        large.
        """
        body = encode_snapshot(self.state)
        return sealer.seal_snapshot(self.shard, body, self.certificates, self.chain, self.stamp)


class ShardHost:
    """Lattice, inbox and outbox of one shard, and what of it is on disk."""

    def __init__(
        self,
        index: int,
        session: int,
        lattice: Shard,
        *,
        frame_bytes: int,
        inbox_frames: int,
        inbox_bytes: int,
    ) -> None:
        self.index = index
        self.session = session
        self.lattice = lattice
        self.view = ShardView(lattice, session)
        self.inbox = Inbox(lattice.seen, max_frames=inbox_frames, max_bytes=inbox_bytes)
        self.outbox = Outbox(frame_bytes)
        self.chain: dict[int, bytes] = {}
        self.journaled: dict[int, int] = dict(lattice.frontier)
        self.frames_since_snapshot = self.bytes_since_snapshot = self.snapshot_bytes = 0
        self.kept_for_peers = False
        self.conflicts = 0
        self.closing = 0
        self._changed = True
        self._latest: Capture | None = None
        self.published: Capture
        """What others are told: set by the committer."""

    def __repr__(self) -> str:
        return f"<ShardHost {self.index}: {self.lattice!r}, {self.inbox!r}, {self.outbox!r}>"

    def committed(self, transaction: Transaction) -> int:
        """An own transaction was applied to the lattice and waits for the next cut: its size."""
        self._changed = True
        return self.outbox.add(transaction)

    @property
    def loaded(self) -> bool:
        """Whether what the shard holds is in memory. If not, whoever touches it waits for that."""
        return not isinstance(self.lattice, LazyShard)

    def load(self) -> None:
        """Have what the shard holds in memory. Raises JournalDamaged."""
        if isinstance(self.lattice, LazyShard):
            self.lattice.load()

    @property
    def crowded(self) -> bool:
        """Whether no more frames may be applied before the next cut, or before it is loaded."""
        return len(self.lattice.heads) >= MAX_HEADS or not self.loaded

    def absorb(self, actor: str, clock: HybridClock) -> int:
        """If there are too many heads, write what names them in the next cut and has no other
        effect: its size. Only right after a cut, so that it comes before everything else.
        """
        heads = len(self.lattice.heads)
        if heads <= ABSORB_HEADS or self.closing:
            return 0
        size = 0
        for _ in range(-(-heads // MAX_DEPS)):
            nothing = void(HEADS_DOCUMENT)
            self.lattice.apply(self.session, self.outbox.written + 1, nothing)
            transaction = Transaction(HEADS_TYPE, actor, clock.now(), "", (nothing,))
            size += self.outbox.add(transaction, alone=True)
        self._changed = True
        return size

    def sign_off(self, actor: str, clock: HybridClock) -> int:
        """If this session wrote here, let a last frame say that it ends, nothing else: its size.

        Whatever was written before is in earlier frames; nothing may be written after it.
        """
        if not self.outbox.written or self.closing:
            return 0
        nothing = void(HEADS_DOCUMENT)
        self.closing = self.outbox.written + 1
        self.lattice.apply(self.session, self.closing, nothing)
        self._changed = True
        transaction = Transaction(CLOSE_TYPE, actor, clock.now(), "", (nothing,))
        return self.outbox.add(transaction, alone=True)

    def draft(self, cut: Cut) -> Draft:
        """One cut as a draft that depends on all that is applied here. Seal it before the next."""
        session = self.session
        heads = sorted(dot for dot in self.lattice.heads.items() if dot[0] != session)
        # Only frames of `absorb` ever meet more than fit. They say nothing, so nothing is lost
        # where one comes before a frame it doesn't name; the last of them names the rest.
        deps = tuple(heads[:MAX_DEPS])
        self.lattice.frame_applied(session, cut.first, cut.last, deps)
        return Draft(
            self.index, cut.first, cut.last, deps, cut.stamp,
            self.chain.get(session, b""), encode_body(cut.transactions),
            self._extensions(cut),
        )  # fmt: skip

    def sealed(self, draft: Draft, data: bytes) -> FrameRecord:
        """A draft of ours has become these bytes."""
        self.chain[self.session] = frame_hash(data)
        self._grown(len(data))
        return FrameRecord(self.index, self.session, draft.first, draft.last, True, data)

    def apply(self, arrival: Arrival, transactions: Sequence[Transaction] | None) -> Applied:
        """Apply a frame that the inbox let through, and what `read_transactions` read in it.

        Total: of a malformed body (None) only the seqs are used up.
        """
        header = arrival.header
        lattice, session = self.lattice, header.session
        follows = None
        if lattice.frontier.get(session, 0) == header.first - 1:
            follows = self.chain.get(session)
        apply_frame(lattice, header, transactions)
        self.chain[session] = arrival.hash
        self._grown(len(arrival.raw))
        self._changed = True
        return Applied(transactions, follows not in (None, header.previous))

    def join(
        self, snapshot: ShardSnapshot, chain: Mapping[int, bytes], fresh: Shard | None = None
    ) -> set[str]:
        """Take in a peer's whole shard; returns the documents that changed.

        `fresh`: the shard that the snapshot amounts to; adopted while nothing else is here.
        """
        before = dict(self.lattice.frontier)
        if fresh is not None and self.lattice.is_empty:
            changed = self.lattice.adopt(fresh)
        else:
            changed = self.lattice.join(snapshot)
        for session, last in chain.items():
            if self.lattice.frontier.get(session, 0) > before.get(session, 0):
                self.chain[session] = last
        self._changed = True
        return changed

    def parted(self, snapshot: ShardSnapshot, chain: Mapping[int, bytes]) -> list[Dot]:
        """(session, last seq) of sessions of which somebody has as much as we, and by his word
        another last frame: as each frame names the one before it, their histories differ.
        """
        mine, frontier = self.chain, self.lattice.frontier
        return [
            (session, seq)
            for session, last in chain.items()
            if mine.get(session, last) != last
            and (seq := snapshot.frontier.get(session, 0))
            and seq == frontier.get(session)
        ]

    def new_conflicts(self) -> list[tuple[str, bytes, tuple[int, int]]]:
        """Conflicting dots found since last asked."""
        found = list(self.lattice.conflicts)[self.conflicts :]
        self.conflicts += len(found)
        return found

    @property
    def changed(self) -> bool:
        """Whether anything happened since the last capture."""
        return self._changed

    def capture(self) -> Capture:
        """Frontier and digest at this instant. Only right after a cut; published when that is on
        disk.
        """
        if self._changed or self._latest is None:
            lattice = self.lattice
            frontier = dict(lattice.frontier)
            self._latest = Capture(
                self.index, lattice.floor, frontier, frontier_hash(frontier, lattice.floor),
                lattice.digest(), lattice.entry_count,
            )  # fmt: skip
            self._changed = False
        return self._latest

    def snapshot(self, certificates: Sequence[bytes], stamp: int) -> TakenSnapshot:
        """The whole shard at this instant; what comes later counts for the next one. Only right
        after a cut.
        """
        state = self.lattice.snapshot()
        chain = {one: last for one, last in self.chain.items() if one in state.frontier}
        self.frames_since_snapshot = self.bytes_since_snapshot = 0
        return TakenSnapshot(self.index, state, certificates, chain, stamp)

    def snapshot_due(self, frames: int) -> bool:
        """Whether the snapshot should be renewed: after that many frames at the earliest, and only
        once they outweigh it, so that what snapshots cost stays in proportion to what is written.
        """
        return (
            self.frames_since_snapshot >= frames
            and self.bytes_since_snapshot >= self.snapshot_bytes
        )

    def _extensions(self, cut: Cut) -> dict[str, bytes]:
        if cut.last == self.closing:
            return {EVENTS_EXTENSION: b"0", CLOSE_EXTENSION: b"%d" % cut.last}
        return {EVENTS_EXTENSION: b"%d" % len(cut.transactions)}

    def _grown(self, size: int) -> None:
        self.frames_since_snapshot += 1
        self.bytes_since_snapshot += size

    def pending(self) -> int:
        """Operations applied here that are not on disk yet."""
        return sum(
            max(0, seq - self.journaled.get(one, 0)) for one, seq in self.lattice.frontier.items()
        )
