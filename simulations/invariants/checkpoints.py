"""What must hold of checkpoints: each says the truth, and a replica could go on from it.

The judge keeps a shard of its own for each: all frames that ever were on a disk, up to the newest
cut and no further, each after what it rests on. That is what a checkpoint with this cut must be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from crdt.lattice import Shard
from crdt.snapshot import ShardSnapshot, decode_snapshot
from persistence.base import CheckpointInfo, FrameRecord
from persistence.certificates import Trust
from persistence.frame import Frame, parse_frame
from persistence.journal import applies, apply_frame, read_transactions
from persistence.sealing import Opener, VerifiedFrame
from simulations.invariants.base import Checker
from simulations.invariants.services import Settles
from simulations.ports.services import CHECKPOINTS, LOG

if TYPE_CHECKING:
    from simulations.world import Host, World

__all__ = ("CheckpointsWhole", "checkpoint_checkers")


class CheckpointsWhole(Settles):
    """A checkpoint that counts holds exactly what its cut claims; the cut is causally closed, has
    all that the one before it had, and all that the log has below the offset that it names. With
    the rest of the log it gives what the replicas have.

    Where the log lost records, offsets from there on mean others: those of a writer who has not
    said that he knows (`log.reset`), and of the checkpoint that he was at when he did, are of the
    log that was.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world)
        mesh = world.authority.mesh
        self._opener = Opener(mesh, Trust(mesh))
        self._frames: dict[int, dict[tuple[int, int], Frame]] = {}
        self._rebuilt = {shard: Shard(mesh.digest_key) for shard in range(mesh.shards)}
        self._judged: dict[int, int] = {}
        self._lost: dict[tuple[str, int], int] = {}
        self._told: set[tuple[str, int]] = set()
        world.services.on_log_cut.append(self._cut)

    def journaled(self, host: Host, frames: Sequence[FrameRecord]) -> None:
        """See `Checker.journaled`."""
        del host
        for record in frames:
            of_shard = self._frames.setdefault(record.shard, {})
            place = record.session, record.first
            if place not in of_shard:
                of_shard[place] = self._parsed(record.data)

    def event(self, host: str, kind: str, fields: Mapping[str, object]) -> None:
        """See `Checker.event`."""
        if kind == "checkpoint.written":
            self._judge_newest(int(str(fields["shard"])))
        elif kind == "log.reset":
            self._told.add((host, int(str(fields["shard"]))))

    def _cut(self, shard: int, end: int) -> None:
        """The log will lose records from this offset on."""
        if end < self.world.services.log_server.end(shard):
            for name in self.world.names:
                self._lost[name, shard] = min(end, self._lost.get((name, shard), end))
                self._told.discard((name, shard))

    def look(self) -> None:
        """See `Checker.look`. Of some nobody told: the answer to their writer got lost."""
        for shard in self._rebuilt:
            self._judge_newest(shard)

    def _judge_newest(self, shard: int) -> None:
        newest = self.world.services.checkpoint(shard)
        if newest is None or self._judged.get(shard) == newest[0].id or self.violations:
            return
        info, data = newest
        self._judged[shard] = info.id
        snapshot = self._opened(data)
        found = [*self._differs(info, snapshot), *self._unfounded(info, snapshot)]
        for each in found:
            self.wrong(f"checkpoint {info.id} of shard {shard} by {info.replica} {each}", shard)

    def _opened(self, data: bytes) -> ShardSnapshot:
        return decode_snapshot(self._opener.open_snapshot(data).body)

    def _differs(self, info: CheckpointInfo, snapshot: ShardSnapshot) -> Iterable[str]:
        """Where it is not what is said of it."""
        if dict(info.frontier) != dict(snapshot.frontier) or info.digest != snapshot.digest:
            yield "is not what the store says of it"
        if LOG in self.world.services.names:
            writer = info.replica, info.shard
            known = min(info.log_offset, self._lost.get(writer, info.log_offset))
            if writer in self._told:
                self._lost.pop(writer, None)
                self._told.discard(writer)
            for record in self.world.services.log_server.records(info.shard):
                if record.offset >= known:
                    return
                header = self._parsed(record.data).header
                if not snapshot.seen(header.session, header.last):
                    yield (
                        f"lacks seq {header.first} to {header.last} of session {header.session}, "
                        f"which the log has at {record.offset}, below {info.log_offset}"
                    )
                    return

    def _unfounded(self, info: CheckpointInfo, snapshot: ShardSnapshot) -> Iterable[str]:
        """Where it is not what its cut claims."""
        rebuilt = self._rebuilt[info.shard]
        lost = {one: n for one, n in rebuilt.frontier.items() if not snapshot.seen(one, n)}
        if lost:
            yield f"lacks {lost}, which the one before it had"
        frames = [
            frame
            for (session, first), frame in self._frames.get(info.shard, {}).items()
            if snapshot.seen(session, first) and not rebuilt.seen(session, frame.header.last)
        ]
        waiting = self._replay(rebuilt, frames)
        if waiting:
            header = waiting[0].header
            yield (
                f"claims seq {header.first} of session {header.session} without what that rests "
                f"on: {[(header.session, header.first - 1), *header.deps]}"
            )
        rebuilt.raise_floor(snapshot.floor)
        if not waiting and rebuilt.frontier != snapshot.frontier:
            claimed, there = dict(snapshot.frontier), dict(rebuilt.frontier)
            differing = {
                one: (n, there.get(one, 0)) for one, n in claimed.items() if there.get(one) != n
            }
            yield f"claims {{session: (seq, seq of whole frames there were)}} {differing}"
        elif not waiting and rebuilt.digest() != snapshot.digest:
            yield "has another state than the operations that it claims amount to"

    def lacking(self) -> list[str]:
        """See `Settles.lacking`."""
        return [lack for _, lack in self._lacks()]

    def judge(self) -> None:
        """See `Settles.judge`."""
        for shard, lack in self._lacks():
            self.wrong(lack, shard)

    def _lacks(self) -> list[tuple[int, str]]:
        if self.violations or LOG not in self.world.services.names:
            return []
        return [
            (shard, lack)
            for shard, held in self.world.up[0].lattices.items()
            if not self.excused(self.name, shard)
            for lack in self._short(shard, held)
        ]

    def _short(self, shard: int, held: Shard) -> Iterable[str]:
        """Where checkpoint and log don't give what a replica has."""
        newest = self.world.services.checkpoint(shard)
        if newest is None:
            return
        info, data = newest
        restored = Shard(self.world.authority.mesh.digest_key)
        restored.join(self._opened(data))
        records = self.world.services.log_server.records(shard)
        rest = [self._parsed(one.data) for one in records if one.offset >= info.log_offset]
        waiting = self._replay(restored, rest)
        if restored.frontier != held.frontier or restored.digest() != held.digest():
            yield (
                f"checkpoint {info.id} of shard {shard} by {info.replica} and {len(rest)} records "
                f"of the log from {info.log_offset} on, {len(waiting)} of which can't be applied, "
                "don't give what the replicas have"
            )

    def _replay(self, shard: Shard, frames: Sequence[Frame]) -> list[Frame]:
        """Apply them, each after what it rests on; those that are left."""
        waiting = list(frames)
        while waiting:
            still = [frame for frame in waiting if not self._applied(shard, frame)]
            if len(still) == len(waiting):
                break
            waiting = still
        return waiting

    def _applied(self, shard: Shard, frame: Frame) -> bool:
        header = frame.header
        if not applies(shard, header):
            return False
        opened = self._opener.decrypt(VerifiedFrame(header, frame, ""))
        apply_frame(shard, header, read_transactions(header, opened.body))
        return True

    def _parsed(self, data: bytes) -> Frame:
        mesh = self.world.authority.mesh
        return parse_frame(data, mesh.id, mesh.shards)


def checkpoint_checkers(world: World) -> list[Checker]:
    """Those for a world with a checkpoint store."""
    return [CheckpointsWhole(world)] if CHECKPOINTS in world.services.names else []
