"""Who writes which checkpoint when, and what one must stand before it counts.

A replica that has on its disk what a shard's newest checkpoint lacks tries to get the shard's
lease, and keeps it for as long as it lives: one writer for a shard, first come. A round takes only
so many new leases as fall to one of the replicas there are, and each begins with other shards
(rendezvous hashing, Thaler and Ravishankar 1998), so that the work is shared. What it writes is
proven first, then read back byte for byte, and only then replaces the older one. So whatever
happens at whatever moment, the newest verified checkpoint is whole, and never lacks what the one
before it had.

    have news ─► lease ─► capture ─► prove ─► write ─► load back ─► verified (older ones go)
                                                           └─ other bytes ─► discard, older stays

A writer that dies in between leaves an unverified checkpoint; the next one that is verified takes
it along. A writer that goes on removes what he left before he writes again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from crdt.errors import CodecError, MeshError
from crdt.frontier import covers
from crdt.ids import week_of
from crdt.lattice import Shard
from crdt.snapshot import ShardSnapshot, decode_snapshot
from persistence.base import (
    CheckpointInfo,
    CheckpointStore,
    FrameError,
    Lease,
    LeaseLost,
    Probe,
    ServiceUnavailable,
)
from persistence.certificates import Trust
from persistence.genesis import Genesis
from persistence.sealing import Opener

__all__ = ("Capture", "Checkpointer", "LoadedCheckpoint", "prove")

# How often a checkpoint may be replaced while it is being loaded.
_LOAD_ATTEMPTS: Final = 3
_WAIT_CURE: Final = "it is tried again; see the replica's log for other complaints"


@dataclass(frozen=True, slots=True)
class Capture:
    """A shard as it is on this replica's disk: the sealed snapshot, and the log offset below which
    it contains every record, determined before the snapshot was cut.
    """

    data: bytes = field(repr=False)
    log_offset: int


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """A checkpoint whose sealed bytes were opened and proven; `info` agrees with them.

    Only `info.log_offset` rests on its writer's and the database's word.
    """

    info: CheckpointInfo
    data: bytes = field(repr=False)


class Checkpointer:
    """Writes checkpoints of the shards whose lease it gets, and loads those of all.

    `holder` names this replica among those of the mesh. `capture` gives a shard's present state;
    `frontier` what of it is on this replica's disk, {session: seq}; `floor` the week below which
    its sessions are closed. Holds leases of `lease_s` seconds, renewed by every round: rounds must
    come more often than that. Not to be used from two tasks at once, but for `load`.
    """

    def __init__(
        self,
        store: CheckpointStore,
        genesis: Genesis,
        holder: str,
        *,
        lease_s: float,
        probe: Probe,
        capture: Callable[[int], Awaitable[Capture]],
        frontier: Callable[[int], Mapping[int, int]],
        floor: Callable[[int], int] = lambda _: 0,
    ) -> None:
        self._store = store
        self._genesis = genesis
        self._holder = holder
        self._lease_s = lease_s
        self._probe = probe
        self._capture = capture
        self._frontier = frontier
        self._floor = floor
        self._leases: dict[int, Lease] = {}
        self._newest: Mapping[int, CheckpointInfo] = {}
        # {shard: (id of a checkpoint, whether it stood the proof)}, of the last one tried.
        self._judged: dict[int, tuple[int, bool]] = {}
        # {shard: id}, of what was written and is not known to count.
        self._pending: dict[int, int] = {}
        # The shard where a round begins: after the one at which the last was broken off, so that
        # one that always takes too long does not keep all behind it from their turn.
        self._start = 0

    def __repr__(self) -> str:
        return f"<Checkpointer {self._holder!r} holds the leases of {sorted(self._leases)}>"

    @property
    def newest(self) -> Mapping[int, CheckpointInfo]:
        """{shard: its newest verified checkpoint} as last heard, also by a round that failed."""
        return self._newest

    @property
    def leases(self) -> Mapping[int, Lease]:
        """{shard: lease} of those held, as far as is known here."""
        return self._leases

    async def round(self, fresh: int | None = None) -> Mapping[int, CheckpointInfo]:
        """Write a checkpoint of every shard that has news and is ours to write; returns `newest`.

        At most `fresh` leases are new ones, where that is said.

        One at a time. A shard that can't be written does not keep the others from it, unless the
        store itself fails. Raises ServiceUnavailable for the first failure, after all this.
        """
        self._newest = await self._store.newest()
        wanted = await self._lease(self._has_news(), fresh)
        failures: list[ServiceUnavailable] = []
        written = False
        for shard in wanted:
            try:
                written |= await self._may_write(shard) and await self._write(shard)
            except LeaseLost as error:
                self._lost(shard, str(error))
            except ServiceUnavailable as error:
                self._failed(shard, error, failures)
                self._start = (shard + 1) % self._genesis.shards
                break
            except _Unsound as error:
                self._failed(shard, error.failure, failures)
            except MeshError as error:
                failure = ServiceUnavailable(
                    f"shard {shard} can't be made a checkpoint: {error}", _WAIT_CURE
                )
                self._failed(shard, failure, failures)
                # Somebody else may be able to.
                await self._give_up(shard)
        if written:
            self._newest = await self._store.newest()
        if failures:
            raise failures[0]
        return self._newest

    async def load(self, shard: int, info: CheckpointInfo | None = None) -> LoadedCheckpoint | None:
        """The shard's newest checkpoint, opened and proven; None if there is none that is sound.

        `info`: what `newest` said of it a moment ago, which saves asking. Raises
        ServiceUnavailable.
        """
        for _ in range(_LOAD_ATTEMPTS):
            info = info or (await self._store.newest()).get(shard)
            if info is None:
                return None
            data = await self._store.load(info.id)
            if data is not None:
                sound = await self._judge(info, data)
                return LoadedCheckpoint(info, data) if sound else None
            # Replaced by a newer one meanwhile.
            info = None
        raise ServiceUnavailable(
            f"the checkpoint of shard {shard} was replaced {_LOAD_ATTEMPTS} times while it was "
            "loaded",
            "try again",
        )

    async def close(self) -> None:
        """Give up all leases. Raises ServiceUnavailable if the store does not answer: they run out
        by themselves then. Idempotent.
        """
        leases, self._leases = self._leases, {}
        for lease in leases.values():
            await self._store.release(lease)

    # ---------------------------------------------------------------------------------- the leases

    def _has_news(self) -> list[int]:
        """Shards of which something is here that their newest checkpoint lacks.

        Without those of which that one has more than we, and is sound: somebody else should write.
        """
        shards = self._genesis.shards
        order = ((self._start + at) % shards for at in range(shards))
        return [
            shard
            for shard in order
            if self._lacking(shard) and not (self._behind(shard) and self._proven(shard))
        ]

    def _lacking(self, shard: int) -> bool:
        """Whether the newest checkpoint lacks something that is here."""
        here, newest = self._frontier(shard), self._sound(shard)
        return bool(here) if newest is None else not covers(newest.frontier, here)

    def _behind(self, shard: int) -> bool:
        """Whether something is missing here that the newest checkpoint has, as it says."""
        newest = self._sound(shard)
        if newest is None:
            return False
        here, floor = self._frontier(shard), self._floor(shard)
        return any(
            seq > here.get(session, 0) and week_of(session) >= floor
            for session, seq in newest.frontier.items()
        )

    def _proven(self, shard: int) -> bool:
        newest = self._newest.get(shard)
        return newest is not None and self._judged.get(shard) == (newest.id, True)

    def _sound(self, shard: int) -> CheckpointInfo | None:
        """The shard's newest checkpoint, unless it is known not to stand the proof."""
        newest = self._newest.get(shard)
        return None if newest and self._judged.get(shard) == (newest.id, False) else newest

    async def _lease(self, wanted: Sequence[int], fresh: int | None) -> list[int]:
        """Renew all leases held and try to get those wanted, at most `fresh` of them; returns
        those wanted that are held.

        What is newest is asked anew where another may have written since it was: before a lease
        was ours.
        """
        gained = False
        left = self._genesis.shards if fresh is None else fresh
        new = sorted((shard for shard in wanted if shard not in self._leases), key=self._rank)
        for shard in [*sorted(self._leases), *new]:
            if not left and shard not in self._leases:
                continue
            if shard not in wanted and self._behind(shard):
                await self._give_up(shard)
                continue
            held = self._leases.get(shard)
            lease = await self._store.acquire(shard, self._holder, self._lease_s)
            if lease is None:
                self._lost(shard, "another replica holds it")
                continue
            self._leases[shard] = lease
            left -= held is None
            if lease != held:
                gained = True
                self._probe.event("checkpoint.lease", shard=shard, held=True, fence=lease.fence)
        if gained:
            self._newest = await self._store.newest()
        return [shard for shard in wanted if shard in self._leases and self._lacking(shard)]

    def _rank(self, shard: int) -> bytes:
        """Where a shard comes in the order in which this replica tries to get leases."""
        return blake2b(f"{self._holder} {shard}".encode(), digest_size=8).digest()

    async def _may_write(self, shard: int) -> bool:
        """Whether what is here contains all of the newest checkpoint, and the lease is still ours.

        A checkpoint that claims more is believed only if it stands the proof: one that nobody could
        ever reach would be in the way for ever.
        """
        held, newest = self._leases[shard], self._sound(shard)
        if newest and self._behind(shard) and await self._is_sound(newest):
            self._probe.sometimes("a checkpoint has what its lease's holder lacks")
            await self._give_up(shard)
            return False
        # Where there are many shards or large ones, it may have run out since it was renewed.
        lease = await self._store.acquire(shard, self._holder, self._lease_s)
        if lease == held:
            return True
        self._lost(shard, "it had run out")
        if lease is not None:
            # Another had it in between, and may have written: the next round looks first.
            await self._store.release(lease)
        return False

    async def _give_up(self, shard: int) -> None:
        lease = self._leases.pop(shard, None)
        if lease is not None:
            self._probe.event("checkpoint.lease", shard=shard, held=False, reason="given up")
            await self._store.release(lease)

    def _lost(self, shard: int, reason: str) -> None:
        if self._leases.pop(shard, None) is not None:
            self._probe.event("checkpoint.lease", shard=shard, held=False, reason=reason)

    # ----------------------------------------------------------------------------------- the bytes

    async def _write(self, shard: int) -> bool:
        """Write one, read it back, and let it count; False where it would bring nothing."""
        lease = self._leases[shard]
        captured = await self._capture(shard)
        snapshot = await asyncio.to_thread(prove, self._genesis, shard, captured.data)
        newest = self._sound(shard)
        if newest and not all(snapshot.seen(*dot) for dot in newest.frontier.items()):
            # Of a state that goes on growing this does not happen; should it, the older one stays.
            self._probe.event("checkpoint.stale", shard=shard)
            return False
        if shard in self._pending:
            # A store that takes what it can't give back must not fill up with attempts.
            await self._store.discard(lease, self._pending[shard])
        made = await self._store.write(
            lease,
            frontier=snapshot.frontier,
            log_offset=captured.log_offset,
            digest=snapshot.digest,
            data=captured.data,
        )
        self._pending[shard] = made
        back = await self._store.load(made)
        if back != captured.data:
            await self._store.discard(lease, made)
            raise _Unsound(shard, made, gone=back is None)
        replaced = await self._store.verified(lease, made)
        del self._pending[shard]
        self._judged[shard] = made, True
        self._probe.event(
            "checkpoint.written",
            shard=shard,
            id=made,
            bytes=len(captured.data),
            sessions=len(snapshot.frontier),
            log_offset=captured.log_offset,
            replaced=replaced,
        )
        return True

    async def _is_sound(self, info: CheckpointInfo) -> bool:
        """Load it and see. One that is gone meanwhile was replaced by a sound one."""
        data = await self._store.load(info.id)
        return data is None or await self._judge(info, data)

    async def _judge(self, info: CheckpointInfo, data: bytes) -> bool:
        """Whether these bytes are what is said of them; the verdict is remembered."""
        try:
            await asyncio.to_thread(_prove_info, self._genesis, info, data)
        except (FrameError, CodecError) as error:
            self._judged[info.shard] = info.id, False
            self._probe.event(
                "checkpoint.refused",
                shard=info.shard,
                id=info.id,
                replica=info.replica,
                reason=f"{type(error).__name__}: {error}",
            )
            return False
        self._judged[info.shard] = info.id, True
        return True

    def _failed(
        self, shard: int, failure: ServiceUnavailable, failures: list[ServiceUnavailable]
    ) -> None:
        failures.append(failure)
        self._probe.event("checkpoint.failed", shard=shard, reason=failure.reason)


class _Unsound(MeshError):
    """The store gave back something else than it was given."""

    def __init__(self, shard: int, id: int, *, gone: bool) -> None:
        what = "nothing" if gone else "other bytes than were written"
        self.failure = ServiceUnavailable(
            f"checkpoint {id} of shard {shard} was read back at once, and {what} came; it was "
            "discarded and the older one stays",
            "check the database's disk and memory",
        )
        super().__init__(str(self.failure))


def prove(genesis: Genesis, shard: int, data: bytes) -> ShardSnapshot:
    """The snapshot in sealed bytes, everything in it proven from nothing but the genesis.

    Its signature and certificates, that it is of this shard, that a replica could go on from it,
    and that its digest is that of its content. Takes time in proportion to its size: call it in a
    thread. Raises FrameError or CodecError.
    """
    opened = Opener(genesis, Trust(genesis)).open_snapshot(data)
    if opened.shard != shard:
        raise CodecError(f"a snapshot of shard {opened.shard}, not of shard {shard}")
    snapshot = decode_snapshot(opened.body)
    if not opened.certificates.keys() >= snapshot.frontier.keys():
        raise CodecError("a snapshot without the certificates of all its sessions")
    scratch = Shard(genesis.digest_key)
    scratch.join(snapshot)
    if scratch.digest() != snapshot.digest:
        raise CodecError("a snapshot whose digest is not that of its content")
    return snapshot


def _prove_info(genesis: Genesis, info: CheckpointInfo, data: bytes) -> None:
    snapshot = prove(genesis, info.shard, data)
    if (snapshot.frontier, snapshot.digest) != (info.frontier, info.digest):
        raise CodecError("frontier or digest are not those of the sealed snapshot")
