"""Checkpoints and a replica: it writes those of the shards whose lease it gets, knows what all of
them contain, and takes from them what nobody else brings.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping

from mesh.committer import Committer
from mesh.core import Core, source_of
from mesh.dissemination import jittered
from mesh.health import CHECKPOINTS
from mesh.joining import Joining
from mesh.services.condition import LAST_WAIT_S, Condition
from mesh.services.log import LogFeed
from persistence.base import CheckpointInfo, CheckpointStore, ServiceUnavailable
from persistence.checkpointer import Capture, Checkpointer

SOURCE = source_of(CHECKPOINTS)
ROUND = "round"
URGENT_S = 0.2
"""Rounds that somebody waits for are no closer to each other than this."""


class CheckpointFeed:
    """See the module. `log`: whose offsets checkpoints carry, if there is one."""

    def __init__(
        self,
        core: Core,
        store: CheckpointStore,
        joining: Joining,
        committer: Committer,
        log: LogFeed | None,
    ) -> None:
        self._core = core
        self._store = store
        self._joining = joining
        self._committer = committer
        self._log = log
        self._urgent = asyncio.Event()
        self._hurried = False
        self._lacking: set[int] = set()
        self._known: dict[int, Mapping[int, int]] = {}
        self.condition = Condition(core, CHECKPOINTS)
        self._checkpointer = Checkpointer(
            store, core.identity.mesh, core.name,
            lease_s=core.settings.postgres.lease_s, probe=core.probe,
            capture=self._capture, frontier=self._frontier,
            floor=lambda shard: core.hosts[shard].lattice.floor,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<CheckpointFeed of {len(self._known)} shards>"

    def has(self, written: Mapping[int, int]) -> bool:
        """Whether verified checkpoints contain this much {shard: seq} of the present session."""
        own = self._core.session
        return all(self._known.get(shard, {}).get(own, 0) >= seq for shard, seq in written.items())

    def urge(self) -> None:
        """Somebody waits for a checkpoint."""
        self._urgent.set()

    async def run(self) -> None:
        """A round after the other, for as long as the replica lives. Only cancelling ends it."""
        interval = self._core.settings.postgres.checkpoint_interval_s
        # A shard that can't be written costs as much at every attempt as one that can.
        most = max(LAST_WAIT_S, interval / 2)
        rng = self._core.environment.entropy.stream("checkpoints")
        while True:
            await self._pause(jittered(interval, rng))
            await self.condition.insist(ROUND, self._round, most)
            self._core.waiters.progress()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._urgent.wait()
        except TimeoutError:
            return
        await asyncio.sleep(min(URGENT_S, seconds))
        self._hurried = True
        self._urgent.clear()

    async def _round(self) -> None:
        # Where nobody waits, the other replicas get the time to take their part of the leases.
        hurried, self._hurried = self._hurried, False
        replicas = 1 + self._core.book.linked
        fresh = None if hurried else -(-len(self._core.hosts) // replicas)
        try:
            await self._checkpointer.round(fresh)
        finally:
            # One shard that can't be written says nothing of the others.
            infos = self._checkpointer.newest
            self._known = {shard: info.frontier for shard, info in infos.items()}
            self._core.waiters.progress()
        before, self._lacking = self._lacking, self._lacks(infos)
        for shard in sorted(before & self._lacking):
            # Neither peers nor bus nor log have brought it since the last round.
            await self._take(shard, infos[shard])

    def _lacks(self, infos: Mapping[int, CheckpointInfo]) -> set[int]:
        """Shards of whose checkpoints something is missing here."""
        hosts = self._core.hosts
        return {
            shard
            for shard, info in infos.items()
            if self._core.subscription.holds(shard)
            and any(not hosts[shard].lattice.seen(one, seq) for one, seq in info.frontier.items())
        }

    async def restore(self) -> None:
        """Take in the newest checkpoint of every shard; returns when they are on disk here.

        The log is read on from where they end. Without an answer from the store nothing happens.
        """
        taken: list[CheckpointInfo] = []
        try:
            infos = await self._store.newest()
            for shard in sorted(infos):
                if not self._core.subscription.holds(shard):
                    continue
                info = await self._take(shard, infos[shard])
                if info is not None:
                    taken.append(info)
        except ServiceUnavailable as error:
            self.condition.failed(ROUND, error)
        else:
            self.condition.worked(ROUND)
        for info in taken:
            await self._core.waiters.until(functools.partial(self._is_here, info))
            if self._log is not None:
                # Not before: what is in it and gets lost in a crash would not be read again.
                self._log.start_at(info.shard, info.log_offset, info.frontier)

    def _is_here(self, info: CheckpointInfo) -> bool:
        """Whether all that the checkpoint contains is on disk."""
        settled = self._core.settled
        return all(settled(info.shard, session, seq) for session, seq in info.frontier.items())

    async def _take(self, shard: int, info: CheckpointInfo) -> CheckpointInfo | None:
        """Join a shard's newest checkpoint at the next cut; None if there is none that is sound."""
        loaded = await self._checkpointer.load(shard, info)
        if loaded is None or not await self._joining.take(shard, loaded.data, SOURCE):
            return None
        return loaded.info

    def _frontier(self, shard: int) -> Mapping[int, int]:
        """What checkpoints are to contain; of a shard that is not held, nothing. Nothing at all
        where nobody would join them, as this replica has no right to give snapshots.
        """
        core = self._core
        writes = core.roll.own.gives_snapshots and core.subscription.holds(shard)
        return core.hosts[shard].journaled if writes else {}

    async def _capture(self, shard: int) -> Capture:
        """The sealed snapshot of a shard, and up to where it contains the shard's log."""
        offset = 0
        if self._log is not None:
            # Before the cut: what is settled now is in every later snapshot.
            offset = self._log.contained(shard)
        return Capture(await self._committer.snapshot(self._core.hosts[shard]), offset)

    async def close(self) -> None:
        """Give up the leases, if the store answers."""
        try:
            await self._checkpointer.close()
        except ServiceUnavailable as error:
            self._core.probe.event("checkpoint.failed", reason=error.reason)
