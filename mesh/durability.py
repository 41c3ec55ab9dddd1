"""How durable is my write: levels, results, and the bookkeeping of who has what on disk.

Levels form no order by themselves; each says where the writes so far have to be. A timeout means
*not yet*, never *undone*: what was written stays written and goes on travelling.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from crdt.errors import CallerError, ServiceError

BUS_LEVEL, LOG_LEVEL, CHECKPOINT_LEVEL = "BUS", "LOG", "CHECKPOINT"
MAJORITY_LEVEL = "MAJORITY"


@dataclass(frozen=True, slots=True)
class Durability:
    """Where a write has to be before `flush` returns."""

    name: str
    replicas: int = 0

    JOURNAL: ClassVar[Durability]
    """On this replica's disk (fsynced)."""

    BUS: ClassVar[Durability]
    """On this replica's disk, and the bus (Redis) has it. Redis may lose it again: see `LOG`."""

    LOG: ClassVar[Durability]
    """On this replica's disk, and all in-sync copies of the event log (Kafka) acknowledged it."""

    CHECKPOINT: ClassVar[Durability]
    """On this replica's disk, and in a verified checkpoint (PostgreSQL). May take as long as
    `postgres.checkpoint_interval_s`, where another replica writes the shard's checkpoints.
    """

    MAJORITY: ClassVar[Durability]
    """On the disks of more than half of the replicas that are registered, this one among them:
    those whose presence is known here and has not expired, counted at the call, linked to this one
    or not. `FlushResult.of` says how many those are. A replica that was cut off for longer than
    presence lasts counts only whom it still sees, so this is no quorum of a fixed membership.
    """

    @staticmethod
    def PEERS(n: int) -> Durability:  # noqa: N802 - reads as the level it is, next to JOURNAL
        """On this replica's disk and on those of `n` other replicas, of those that are or were
        linked to this one directly: only they tell it. Raises CallerError for n < 1.
        """
        if n < 1:
            raise CallerError(f"Durability.PEERS({n}): at least one other replica; or use JOURNAL")
        return Durability("PEERS", n)

    def __str__(self) -> str:
        return f"{self.name}({self.replicas})" if self.replicas else self.name


Durability.JOURNAL = Durability("JOURNAL")
Durability.BUS = Durability(BUS_LEVEL)
Durability.MAJORITY = Durability(MAJORITY_LEVEL)
Durability.LOG = Durability(LOG_LEVEL)
Durability.CHECKPOINT = Durability(CHECKPOINT_LEVEL)


@dataclass(frozen=True, slots=True)
class FlushResult:
    """What was reached: `written` {shard: last seq of this session}, `replicas` other replicas that
    have it, by name, sorted. `of`: how many
    others `PEERS` asks for; of how many replicas, this one included, `MAJORITY` was counted; None
    for other levels.
    """

    level: Durability
    session: int
    written: dict[int, int]
    replicas: tuple[str, ...]
    of: int | None = None


class FlushTimeout(ServiceError):
    """The level was not reached *yet*. The writes stay, and go on towards it: flush again to wait
    longer.
    """

    def __init__(
        self, level: Durability, reached: str, result: FlushResult, timeout: float
    ) -> None:
        self.level = level
        self.result = result
        super().__init__(
            f"{level} was not reached within {timeout:g} s ({reached}); the writes are kept and"
            " still on their way: flush again to wait longer, or look at replica.health()"
        )


class Acknowledgements:
    """Which other replica has journaled how much of this session's writes."""

    def __init__(self) -> None:
        self._by_replica: dict[str, tuple[int, dict[int, int]]] = {}

    def __repr__(self) -> str:
        return f"<Acknowledgements of {sorted(self._by_replica)}>"

    def session(self, replica: str, session: int) -> None:
        """A replica is here under this session. A new one may have lost its disk: it starts from
        nothing.
        """
        known = self._by_replica.get(replica)
        if known is None or known[0] != session:
            self._by_replica[replica] = (session, {})

    def journaled(self, replica: str, shard: int, seq: int) -> None:
        """The replica says that it has this session's operations of the shard on disk up to
        `seq`.
        """
        known = self._by_replica.get(replica)
        if known is not None and seq > known[1].get(shard, 0):
            known[1][shard] = seq

    def holders(self, written: Mapping[int, int]) -> tuple[str, ...]:
        """Names of the replicas that have all of `written`, sorted."""
        return tuple(
            name
            for name in sorted(self._by_replica)
            if all(self._by_replica[name][1].get(shard, 0) >= seq for shard, seq in written.items())
        )


class Waiters:
    """Futures that wait for a condition over memory; looked at whenever something made progress."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return once `condition()` holds. Raises what `fail` is given."""
        if condition():
            return
        future = self.future(condition)
        try:
            await future
        finally:
            future.cancel()
            self._waiting = [entry for entry in self._waiting if entry[1] is not future]

    def future(self, condition: Callable[[], bool]) -> asyncio.Future[None]:
        """A future that is done once `condition()` holds, or fails as `fail` says."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if condition():
            future.set_result(None)
        else:
            self._waiting.append((condition, future))
        return future

    def progress(self) -> None:
        """Something changed: wake those whose condition holds now."""
        if not self._waiting:
            return
        still = []
        for condition, future in self._waiting:
            if future.done():
                continue
            if condition():
                future.set_result(None)
            else:
                still.append((condition, future))
        self._waiting = still

    def fail(self, error: Exception) -> None:
        """Nothing will make progress any more."""
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(error)
        self._waiting = []
