"""What a journal's content means, and how a frame is applied. Pure: the journal is a port.

A journal holds, in apply order, every frame a replica has applied since its snapshots. Recovery
begins with the snapshots and applies what came after them; the result is the state at the last
durable append, exactly.
"""

from __future__ import annotations

import asyncio
import functools
import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Final

from crdt.errors import CodecError
from crdt.ids import Dot, week_of
from crdt.lattice import Shard
from crdt.operation import Transaction, claims_of, decode_body, operation_count
from crdt.snapshot import decode_head, decode_snapshot
from persistence.base import (
    FrameError,
    FrameRecord,
    Journal,
    JournalDamaged,
    SnapshotRecord,
    StorageError,
)
from persistence.cache import BoundedCache
from persistence.frame import CLOSE_EXTENSION, Header, UnknownKey, UnknownVersion
from persistence.lazy import LazyShard
from persistence.limits import MAX_CACHED_FRAME_BYTES, MAX_CACHED_FRAMES, MAX_KNOWN_FRAMES
from persistence.sealing import Opener

# How many frames recovery asks a journal for at once.
_BATCH: Final = 512
# Entries from which on a state is frozen out of the garbage collector's sight.
_LARGE: Final = 50_000
# Its signature held: its maker sealed it so, by a fault of the program or of the memory.
_UNREADABLE: Final = (
    "close the replica and run `mesh repair` on its folder: every readable frame of its own is "
    "kept, and the rest comes from the others"
)


Names = BoundedCache[tuple[int, int, int], bytes]
"""{(shard, session, first seq): hash} of frames: what such a name stands for."""


def known_names() -> Names:
    """None yet, and never more than `MAX_KNOWN_FRAMES`."""
    return BoundedCache(MAX_KNOWN_FRAMES)


@dataclass(slots=True)
class Recovered:
    """What a journal held. `chain` is {shard: {session: hash of its last frame here}}.

    `position` is that of the last frame read, `frames` and `voids` how many were applied and how
    many of them had a body that is refused everywhere. `forks` are (position, shard, session) of
    frames that do not follow the one of their session before them. `names` are of the last of these
    frames. `stamp` is the greatest of all that was read; a clock that goes on from here follows it.
    """

    shards: dict[int, Shard]
    chain: dict[int, dict[int, bytes]]
    snapshots: dict[int, int] = field(default_factory=dict)
    position: int = 0
    frames: int = 0
    voids: int = 0
    closes: list[Header] = field(default_factory=list)
    forks: list[tuple[int, int, int]] = field(default_factory=list)
    names: Names = field(default_factory=known_names)
    stamp: int = 0


class Recovery:
    """Rebuilds shards: all snapshots first, then frames by position. `result` grows with it."""

    def __init__(self, opener: Opener) -> None:
        genesis = opener.genesis
        self._opener = opener
        self.result = Recovered(
            {number: Shard(genesis.digest_key) for number in range(genesis.shards)},
            {number: {} for number in range(genesis.shards)},
        )

    def add_snapshot(self, record: SnapshotRecord, *, lazily: bool = False) -> None:
        """Begin a shard with its snapshot. Raises JournalDamaged if it is not what its maker
        sealed.

        `lazily`: it is verified and decrypted, and what it holds is read and proven when somebody
        asks for it; that may raise JournalDamaged then.
        """
        where = f"the journal's snapshot of shard {record.shard}"
        key = self._opener.genesis.digest_key
        try:
            opened = self._opener.open_snapshot(record.data)
            self._check_shard(opened.shard, record.shard, where)
            head, body = decode_head(opened.body), opened.body
        except (UnknownKey, UnknownVersion) as fault:
            raise StorageError(f"{where} can't be opened here: {fault}") from fault
        except (FrameError, CodecError) as fault:
            raise JournalDamaged(f"{where} is refused: {fault}") from fault
        shard = LazyShard(key, head, lambda: _content(body, key, where))
        if not lazily:
            shard.load()
        self._opener.trust.keep_all(opened.certificates, shard.frontier)
        self.result.shards[record.shard] = shard
        self.result.chain[record.shard].update(opened.chain)
        self.result.snapshots[record.shard] = record.position
        self.result.stamp = max(self.result.stamp, opened.stamp)

    def add_frame(self, position: int, record: FrameRecord) -> None:
        """Apply a frame, unless its shard's snapshot contains it. Raises StorageError."""
        self.result.position = position
        contained = position <= self.result.snapshots.get(record.shard, 0)
        # The position kept with a snapshot is not believed: what it passes over must be in it.
        if contained and self.result.shards[record.shard].seen(record.session, record.last):
            return
        where = f"the journal's frame at position {position}"
        try:
            opened = self._opener.unseal(record.data)
        except (UnknownKey, UnknownVersion) as fault:
            raise StorageError(f"{where} can't be opened here: {fault}") from fault
        except FrameError as fault:
            raise JournalDamaged(f"{where} is refused: {fault}") from fault
        header = opened.header
        self._check_shard(header.shard, record.shard, where)
        shard = self.result.shards[header.shard]
        if CLOSE_EXTENSION in header.extensions:
            self.result.closes.append(header)
        kept = (record.session, record.first, record.last)
        found = (header.session, header.first, header.last)
        if kept != found:
            raise JournalDamaged(
                f"{where} is kept as (session, first, last) {kept} and says {found}; move the "
                "folder away and provision the replica anew: it gets the state back from its peers"
            )
        if not applies(shard, header):
            raise JournalDamaged(
                f"{where} (shard {header.shard}, session {header.session}, seqs {header.first}.."
                f"{header.last}) comes before what it depends on; move the folder away and "
                "provision the replica anew: it gets the state back from its peers"
            )
        if shard.seen(header.session, header.last):
            # A snapshot joined from a peer can be ahead of what was queued before it: it brought
            # this frame, and knows a later one of its session to chain on.
            return
        chain = self.result.chain[header.shard]
        if chain.get(header.session, header.previous) != header.previous:
            self.result.forks.append((position, header.shard, header.session))
        transactions = read_transactions(header, opened.body)
        self.result.frames += 1
        self.result.voids += transactions is None
        apply_frame(shard, header, transactions)
        self._opener.trust.keep(header.session)
        chain[header.session] = opened.hash
        self.result.names.put((header.shard, header.session, header.first), opened.hash)
        self.result.stamp = max(self.result.stamp, header.stamp)

    def _check_shard(self, found: int, recorded: int, where: str) -> None:
        if found != recorded:
            raise JournalDamaged(f"{where} is kept under shard {recorded} and belongs to {found}")


def _content(body: bytes, digest_key: bytes, where: str) -> Shard:
    """The shard that a snapshot's body amounts to. Raises JournalDamaged."""
    shard = Shard(digest_key)
    try:
        snapshot = decode_snapshot(body)
        shard.join(snapshot)
    except CodecError as fault:
        raise JournalDamaged(f"{where} is refused: {fault}; {_UNREADABLE}") from fault
    if shard.digest() != snapshot.digest:
        raise JournalDamaged(
            f"{where} has digest {shard.digest().hex()}, not {snapshot.digest.hex()} as it says; "
            f"{_UNREADABLE}"
        )
    return shard


def recover(
    snapshots: Iterable[SnapshotRecord],
    frames: Iterable[tuple[int, FrameRecord]],
    opener: Opener,
) -> Recovered:
    """What snapshots and frames (in apply order, as `Journal.replay` gives them) amount to.

    Sessions met on the way are known to the opener's trust afterwards. Raises StorageError.
    """
    recovery = Recovery(opener)
    for snapshot in snapshots:
        recovery.add_snapshot(snapshot)
    for position, frame in frames:
        recovery.add_frame(position, frame)
    return recovery.result


async def recover_journal(journal: Journal, opener: Opener, *, gc_freeze: bool = True) -> Recovered:
    """`recover` on a journal, in batches, so that memory stays bounded by the state. A shard whose
    snapshot contains all that there is of it is a `LazyShard`: what it holds is not read yet.

    The work is done in a thread: an event loop that others share goes on meanwhile. `gc_freeze`:
    the cyclic garbage collector of the process is off while it lasts.
    """
    recovery = Recovery(opener)
    snapshots = await journal.snapshots()

    def join() -> None:
        for snapshot in snapshots:
            recovery.add_snapshot(snapshot, lazily=True)

    def apply(batch: Sequence[tuple[int, FrameRecord]]) -> None:
        for position, frame in batch:
            recovery.add_frame(position, frame)

    with uncollected() if gc_freeze else nullcontext():
        await asyncio.to_thread(join)
        after = 0
        while batch := await journal.replay(after, _BATCH):
            await asyncio.to_thread(apply, batch)
            after = batch[-1][0]
        # Who starts from it asks for the digests at once, on the event loop.
        await asyncio.to_thread(lambda: [one.digest() for one in recovery.result.shards.values()])
    return recovery.result


def freeze_large(shards: Iterable[Shard]) -> None:
    """If there is much in these shards, take all objects there are out of the cyclic garbage
    collector's sight: it need not walk through a large state that stays, again and again.
    """
    if sum(shard.entry_count for shard in shards) >= _LARGE:
        gc.freeze()


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the cyclic garbage collector: all that is made here stays, and each of its rounds
    stops every thread for the longer the more there is.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@functools.lru_cache(MAX_CACHED_FRAMES)
def _decoded(body: bytes) -> tuple[Transaction, ...]:
    """A small body, decoded once for all replicas of a process that get it."""
    return tuple(decode_body(body))


def read_transactions(header: Header, body: bytes) -> Sequence[Transaction] | None:
    """The transactions of an opened frame; None if it is void: seqs used up, nothing applied.

    A pure function of the frame's bytes, so every replica comes to the same verdict.
    """
    try:
        small = len(body) <= MAX_CACHED_FRAME_BYTES
        transactions = _decoded(body) if small else decode_body(body)
    except CodecError:
        return None
    if operation_count(transactions) != header.last - header.first + 1:
        return None
    return transactions


def claims(header: Header, transactions: Sequence[Transaction] | None) -> tuple[Dot, ...]:
    """What a frame's removals say their author had seen, as (session, seq), beyond its own past and
    what the deps name. None: void, it claims nothing.

    An honest author's deps lead back to all of it. Others' removals must not come before it either:
    what a removal names and does not find would live on where it comes later. A pure function of
    the frame's bytes.
    """
    if transactions is None:
        return ()
    claimed = claims_of(transactions)
    claimed.pop(header.session, None)
    for session, seq in header.deps:
        if claimed.get(session, seq + 1) <= seq:
            del claimed[session]
    return tuple(sorted(claimed.items()))


def applies(shard: Shard, header: Header) -> bool:
    """Whether a shard holds everything a frame names before it: its predecessor and its deps."""
    if header.first > 1 and not shard.seen(header.session, header.first - 1):
        return False
    return all(shard.seen(session, seq) for session, seq in header.deps)


def apply_frame(shard: Shard, header: Header, transactions: Sequence[Transaction] | None) -> None:
    """Apply a frame for which `applies` holds (None: void). What was applied stays as it is."""
    session, first, last = header.session, header.first, header.last
    if week_of(session) < shard.floor:
        return
    fresh = shard.frontier.get(session, 0) < last
    if transactions is None:
        # Or the session's later frames would wait for ever.
        shard.use_up(session, first, last)
    else:
        shard.apply_transactions(session, first, transactions)
    if fresh:
        shard.frame_applied(session, first, last, header.deps)
