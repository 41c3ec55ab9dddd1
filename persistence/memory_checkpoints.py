"""Checkpoints in memory: the reference the real store is measured by, and nastier on request.

Several `MemoryCheckpoints` share one `MemoryCheckpointServer`, as replicas share a database. The
server's controls do what a real one does at the worst moment: stop, lag, fail before or after it
did what was asked, flip bytes, let a lease run out or give it to somebody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from persistence.base import CheckpointInfo, Clock, Lease, LeaseLost, ServiceUnavailable
from persistence.limits import MAX_SEQ, MAX_SHARDS, MAX_SNAPSHOT_BYTES

Result = TypeVar("Result")

DEFAULT_CAPACITY: Final = 1 << 30
# A replica's name and more; the database's column has the same bound.
MAX_HOLDER_LENGTH: Final = 200
MAX_TTL_S: Final = 86_400.0
CALLS: Final = frozenset({"acquire", "release", "write", "load", "verified", "discard", "newest"})
"""Names for `MemoryCheckpointServer.fail_next`."""


@dataclass(slots=True)
class _Held:
    holder: str
    fence: int
    until: float


class MemoryCheckpointServer:
    """The checkpoints and leases of one mesh. "Durable" here means "until this object goes".

    Leases run by `clock`. Holds at most `capacity` bytes; what would go beyond is refused as on a
    full disk.
    """

    def __init__(self, clock: Clock, *, capacity: int = DEFAULT_CAPACITY) -> None:
        self._clock = clock
        self._capacity = capacity
        self._leases: dict[int, _Held] = {}
        self._rows: dict[int, tuple[CheckpointInfo, bytes]] = {}
        self._last_id = 0
        self._stopped = ""
        self._delay_s = 0.0
        self._failing: dict[str, bool] = {}

    def store(self) -> MemoryCheckpoints:
        """One more client of this server."""
        return MemoryCheckpoints(self)

    def stop(self, reason: str = "the checkpoints in memory were stopped") -> None:
        """Every call fails from now on, until `start`. Checkpoints and leases stay."""
        self._stopped = reason or "stopped"

    def start(self) -> None:
        """Answer again. No-op where it does."""
        self._stopped = ""

    def slow(self, delay_s: float) -> None:
        """Take this many seconds for every call from now on; 0: none.

        What is given up meanwhile happens all the same: the server was asked.
        """
        self._delay_s = delay_s

    def fail_next(self, call: str, *, done: bool = False) -> None:
        """The next call of this name (one of `CALLS`) fails; `done`: only its answer is lost."""
        if call not in CALLS:
            raise ValueError(f"{call!r} is none of {sorted(CALLS)}")
        self._failing[call] = done

    def corrupt(self, id: int) -> None:
        """Flip a bit in the middle of a checkpoint's bytes. KeyError if it is not there."""
        info, data = self._rows[id]
        middle = len(data) // 2
        flipped = bytes((data[middle] ^ 1,))
        self._rows[id] = info, data[:middle] + flipped + data[middle + 1 :]

    def alter(self, id: int, **fields: object) -> None:
        """Change what is said of a checkpoint (fields of CheckpointInfo), not its bytes."""
        info, data = self._rows[id]
        self._rows[id] = replace(info, **fields), data  # type: ignore[arg-type]

    def expire(self, shard: int) -> None:
        """Let the shard's lease run out now. No-op without one."""
        if held := self._leases.get(shard):
            held.until = self._clock.monotonic()

    def steal(self, shard: int, holder: str, ttl_s: float = 30.0) -> Lease:
        """Give the shard's lease to somebody else, valid or not."""
        self.expire(shard)
        lease = self._acquire(shard, holder, ttl_s)
        assert lease is not None
        return lease

    def checkpoints(self, shard: int) -> list[CheckpointInfo]:
        """All of the shard's, unverified ones too, oldest first; whether the server answers or
        not.
        """
        return [info for info, _ in self._rows.values() if info.shard == shard]

    def holder(self, shard: int) -> str:
        """Who holds the shard's lease now; "" if nobody."""
        held = self._leases.get(shard)
        return held.holder if held and held.until > self._clock.monotonic() else ""

    def __repr__(self) -> str:
        state = f"stopped: {self._stopped}" if self._stopped else "up"
        return f"MemoryCheckpointServer({state}, checkpoints={len(self._rows)})"

    # ------------------------------------------------------------------------ what clients ask for

    def _acquire(self, shard: int, holder: str, ttl_s: float) -> Lease | None:
        now = self._clock.monotonic()
        held = self._leases.get(shard)
        if held is not None and held.holder != holder and held.until > now:
            return None
        fence = 1 if held is None else held.fence + (held.holder != holder)
        self._leases[shard] = _Held(holder, fence, now + ttl_s)
        return Lease(shard, holder, fence)

    def _release(self, lease: Lease) -> None:
        held = self._leases.get(lease.shard)
        if held is not None and (held.holder, held.fence) == (lease.holder, lease.fence):
            held.holder, held.until = "", self._clock.monotonic()

    def _write(
        self, lease: Lease, frontier: Mapping[int, int], log_offset: int, digest: bytes, data: bytes
    ) -> int:
        self._fenced(lease)
        if sum(len(held) for _, held in self._rows.values()) + len(data) > self._capacity:
            raise ServiceUnavailable(
                f"the checkpoints in memory are full ({self._capacity} bytes)", "allow more"
            )
        self._last_id += 1
        info = CheckpointInfo(
            id=self._last_id,
            shard=lease.shard,
            fence=lease.fence,
            replica=lease.holder,
            frontier=dict(frontier),
            log_offset=log_offset,
            digest=digest,
            size=len(data),
            written_ms=self._clock.wall_ms(),
            verified=False,
        )
        self._rows[info.id] = info, data
        return info.id

    def _load(self, id: int) -> bytes | None:
        row = self._rows.get(id)
        return None if row is None else row[1]

    def _verified(self, lease: Lease, id: int) -> int:
        self._fenced(lease)
        row = self._rows.get(id)
        if row is None or row[0].shard != lease.shard:
            raise checkpoint_gone(lease.shard, id)
        info, data = row
        self._rows[id] = replace(info, verified=True), data
        age = (info.fence, id)
        older = [each.id for each in self.checkpoints(lease.shard) if (each.fence, each.id) < age]
        for each in older:
            del self._rows[each]
        return len(older)

    def _discard(self, lease: Lease, id: int) -> None:
        self._fenced(lease)
        row = self._rows.get(id)
        if row is not None and row[0].shard == lease.shard and not row[0].verified:
            del self._rows[id]

    def _newest(self) -> dict[int, CheckpointInfo]:
        rows = sorted((info for info, _ in self._rows.values()), key=lambda i: (i.fence, i.id))
        return {info.shard: info for info in rows if info.verified}

    def _fenced(self, lease: Lease) -> None:
        held = self._leases.get(lease.shard)
        if held is None or (held.holder, held.fence) != (lease.holder, lease.fence):
            raise lease_lost(lease)

    def _answer(self) -> None:
        if self._stopped:
            raise ServiceUnavailable(self._stopped, "start it again")

    def _fails(self, call: str) -> bool | None:
        """None: no; else whether what was asked for is done first."""
        return self._failing.pop(call, None)


class MemoryCheckpoints:
    """`persistence.base.CheckpointStore` over a `MemoryCheckpointServer`."""

    def __init__(self, server: MemoryCheckpointServer) -> None:
        self._server = server
        self._closed = False

    async def acquire(self, shard: int, holder: str, ttl_s: float) -> Lease | None:
        """See `CheckpointStore.acquire`. Raises ValueError for arguments that make no lease."""
        check_lease(shard, holder, ttl_s)
        return await self._ask("acquire", lambda: self._server._acquire(shard, holder, ttl_s))

    async def release(self, lease: Lease) -> None:
        """See `CheckpointStore.release`."""
        await self._ask("release", lambda: self._server._release(lease))

    async def write(
        self,
        lease: Lease,
        *,
        frontier: Mapping[int, int],
        log_offset: int,
        digest: bytes,
        data: bytes,
    ) -> int:
        """See `CheckpointStore.write`. Raises ValueError for a checkpoint nobody could store."""
        check_checkpoint(log_offset, data)
        return await self._ask(
            "write", lambda: self._server._write(lease, frontier, log_offset, digest, data)
        )

    async def load(self, id: int) -> bytes | None:
        """See `CheckpointStore.load`."""
        return await self._ask("load", lambda: self._server._load(id))

    async def verified(self, lease: Lease, id: int) -> int:
        """See `CheckpointStore.verified`."""
        return await self._ask("verified", lambda: self._server._verified(lease, id))

    async def discard(self, lease: Lease, id: int) -> None:
        """See `CheckpointStore.discard`. One that counts stays."""
        await self._ask("discard", lambda: self._server._discard(lease, id))

    async def newest(self) -> dict[int, CheckpointInfo]:
        """See `CheckpointStore.newest`."""
        return await self._ask("newest", self._server._newest)

    async def version(self) -> str:
        """See `CheckpointStore.version`."""
        return await self._ask("version", lambda: "checkpoints in memory")

    async def close(self) -> None:
        """See `CheckpointStore.close`. Checkpoints and leases stay with the server."""
        self._closed = True

    def __repr__(self) -> str:
        return f"MemoryCheckpoints({'closed' if self._closed else 'open'}, {self._server!r})"

    async def _ask(self, call: str, work: Callable[[], Result]) -> Result:
        server = self._server
        self._check()
        server._answer()
        try:
            # At least one turn of the loop, as a network takes.
            await asyncio.sleep(server._delay_s)
        except asyncio.CancelledError:
            # The server was asked: it does it for nobody.
            with suppress(ServiceUnavailable, LeaseLost):
                server._answer()
                work()
            raise
        self._check()
        server._answer()
        done = server._fails(call)
        if done is False:
            raise ServiceUnavailable(f"the checkpoints in memory failed at {call}", "try again")
        result = work()
        if done:
            raise ServiceUnavailable(f"the answer to {call} was lost", "try again")
        return result

    def _check(self) -> None:
        if self._closed:
            raise closed_store()


def closed_store() -> ServiceUnavailable:
    """What every store raises after `close`."""
    return ServiceUnavailable("this checkpoint store is closed", "open another", lasting=True)


def lease_lost(lease: Lease) -> LeaseLost:
    """What every store raises for a lease that is not the shard's any more."""
    return LeaseLost(
        f"the lease of shard {lease.shard} is no longer {lease.holder!r}'s (fence {lease.fence}); "
        "nothing was written, acquire it anew"
    )


def checkpoint_gone(shard: int, id: int) -> ServiceUnavailable:
    """What every store raises for marking a checkpoint that somebody removed."""
    return ServiceUnavailable(
        f"checkpoint {id} of shard {shard} is not there any more", "write another"
    )


def check_lease(shard: int, holder: str, ttl_s: float) -> None:
    """What every store demands of a lease; a programmer's mistake otherwise."""
    if not 0 <= shard < MAX_SHARDS:
        raise ValueError(f"shard {shard} is not in 0..{MAX_SHARDS - 1}")
    if not 0 < len(holder) <= MAX_HOLDER_LENGTH or "\0" in holder:
        raise ValueError(f"{holder[:80]!r} names no holder")
    if not 0 < ttl_s <= MAX_TTL_S:
        raise ValueError(f"a lease of {ttl_s} s is not in (0, {MAX_TTL_S}]")


def check_checkpoint(log_offset: int, data: bytes) -> None:
    """What every store demands of a checkpoint; a programmer's mistake otherwise."""
    if not 0 <= log_offset <= MAX_SEQ:
        raise ValueError(f"log offset {log_offset} is not in 0..{MAX_SEQ}")
    if not 0 < len(data) <= MAX_SNAPSHOT_BYTES:
        raise ValueError(f"a checkpoint of {len(data)} bytes, not in 1..{MAX_SNAPSHOT_BYTES}")
