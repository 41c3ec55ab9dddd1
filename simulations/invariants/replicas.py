"""What must hold in a simulated world: one class for each family of invariants.

A checker is told of everything that happens while it happens (probe events, frames on disks), looks
at the replicas every half second, and judges what there is at the end. What is wrong it keeps as
`Violation`; the first few are enough. What is judged from states alone is in `checkers`, which
rehearsals over real processes use as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from persistence.base import FrameRecord
from persistence.frame import parse_frame
from simulations.agents.clients import judges
from simulations.agents.writers import Promises
from simulations.checkers import Evidence, differences, evidence, lost, missing, resurrected
from simulations.invariants.base import HARM, Checker, lost_shards
from simulations.invariants.bounds import holdings
from simulations.invariants.lies import LiesNamed
from simulations.invariants.resync import ResyncBound
from simulations.judges import Judge
from simulations.ports.hosts import clone_name

if TYPE_CHECKING:
    from simulations.world import Host, World

__all__ = ("checkers_for", "collect")

IDLE_MESSAGES_PER_S = 12.0
"""What a replica with nothing to do may send to each of its peers."""


class NothingRefused(Checker):
    """Among honest replicas nothing is refused, void, forked or forged; nobody fails."""

    ALARMS = frozenset(
        {
            "replica.failed", "frame.refused", "frame.void", "frame.forked", "frame.stuck",
            "lattice.conflict", "digest.mismatch", "link.flood", "link.error", "snapshot.refused",
            "snapshot.failed", "message.refused", "identity.cloned", "close.damaged",
            "checkpoint.stale", "wire.newer",
        }
    )  # fmt: skip

    def event(self, host: str, kind: str, fields: Mapping[str, object]) -> None:
        """See `Checker.event`."""
        damaged = kind == "start.failed" and "JournalDamaged" in str(fields.get("reason"))
        if not (kind in self.ALARMS or damaged):
            return
        if not self.excused(kind, self.spoiled.shard(fields)):
            shown = ", ".join(f"{name}={value}" for name, value in fields.items())
            self.wrong(f"{host}: {kind} ({shown})")


class StrongConvergence(Checker):
    """Who has applied the same operations has the same state, at any moment, on any side."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._digests: dict[object, tuple[bytes, str]] = {}

    def look(self) -> None:
        """See `Checker.look`."""
        for host in self.world.up:
            for index, shard in host.lattices.items():
                same = (index, shard.floor, frozenset(shard.frontier.items()))
                digest = shard.digest()
                known, who = self._digests.setdefault(same, (digest, host.name))
                if known != digest:
                    self.wrong(
                        f"shard {index}: {who} and {host.name} have the frontier "
                        f"{dict(sorted(shard.frontier.items()))} and different digests",
                        index,
                    )


class Monotone(Checker):
    """What a replica has on disk it has for ever, across restarts too, unless its disk is lost."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._had: dict[str, tuple[int, dict[int, dict[int, int]]]] = {}

    def look(self) -> None:
        """See `Checker.look`."""
        for host in self.world.up:
            replica = host.replica
            assert replica is not None
            journaled = replica.journaled()
            losses, before = self._had.get(host.name, (host.losses, {}))
            if losses == host.losses:
                for shard, frontier in before.items():
                    for session, seq in frontier.items():
                        if journaled[shard].get(session, 0) < seq:
                            self.wrong(
                                f"{host.name} had seq {seq} of session {session} in shard {shard} "
                                f"on disk, and has {journaled[shard].get(session, 0)}"
                            )
            self._had[host.name] = host.losses, journaled


class UniqueIds(Checker):
    """One (shard, session, seq) names one thing only, wherever it is."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._frames: dict[tuple[int, int, int], FrameRecord] = {}

    def journaled(self, host: Host, frames: Sequence[FrameRecord]) -> None:
        """See `Checker.journaled`."""
        for frame in frames:
            name = frame.shard, frame.session, frame.first
            known = self._frames.setdefault(name, frame)
            if known.data is not frame.data and known.data != frame.data:
                self.wrong(
                    f"{host.name}: two frames of session {frame.session} in shard {frame.shard} "
                    f"begin with seq {frame.first}",
                    frame.shard,
                )


class OnDiskFirst(Checker):
    """Nothing leaves a replica before it is on its disk: whoever has a frame has it from there."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._written: dict[tuple[int, int], int] = {}

    def journaled(self, host: Host, frames: Sequence[FrameRecord]) -> None:
        """See `Checker.journaled`."""
        for frame in frames:
            name = frame.shard, frame.session
            if frame.own:
                self._written[name] = max(frame.last, self._written.get(name, 0))
            elif self._written.get(name, 0) < frame.last:
                self.wrong(
                    f"{host.name} has seq {frame.last} of session {frame.session} in shard "
                    f"{frame.shard} on disk, which its author has not"
                )


class CausalDelivery(Checker):
    """A journal holds what a frame rests on before the frame: its predecessor, and its deps."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._deps: dict[tuple[int, int, int], tuple[tuple[int, int], ...]] = {}
        self._have: dict[tuple[str, int], dict[int, int]] = {}
        self._joined: set[tuple[str, int]] = set()

    def event(self, host: str, kind: str, fields: Mapping[str, object]) -> None:
        """A snapshot brings more than frames say: that shard is not judged from then on."""
        if kind == "snapshot.joined":
            self._joined.add((host, int(str(fields["shard"]))))
        elif kind == "disk.lost":
            for name in [name for name in self._have if name[0] == host]:
                del self._have[name]
        elif kind in HARM:  # which of the frames it holds, nobody said
            self._joined.update((host, shard) for shard in range(self.world.authority.mesh.shards))

    def journaled(self, host: Host, frames: Sequence[FrameRecord]) -> None:
        """See `Checker.journaled`."""
        for frame in frames:
            where = host.name, frame.shard
            if where in self._joined:
                continue
            have = self._have.setdefault(where, {})
            lacks = [(frame.session, frame.first - 1), *self._deps_of(frame)]
            lacks = [(session, seq) for session, seq in lacks if have.get(session, 0) < seq]
            if lacks:
                self.wrong(
                    f"{host.name} journaled seq {frame.first} of session {frame.session} in shard "
                    f"{frame.shard} without {lacks}"
                )
            have[frame.session] = max(frame.last, have.get(frame.session, 0))

    def _deps_of(self, frame: FrameRecord) -> tuple[tuple[int, int], ...]:
        name = frame.shard, frame.session, frame.first
        if name not in self._deps:
            mesh = self.world.authority.mesh
            self._deps[name] = parse_frame(frame.data, mesh.id, mesh.shards).header.deps
        return self._deps[name]


class Converged(Checker):
    """Once the faults are over, everybody has the same operations and the same state."""

    def end(self, found: Sequence[Evidence]) -> None:
        """See `Checker.end`."""
        for difference in differences(found):
            self.wrong(difference)


class NothingLost(Checker):
    """What was acknowledged is everywhere in the end, unless the one disk that had it was lost."""

    def __init__(self, world: World, promises: Promises) -> None:
        super().__init__(world)
        self._promises = promises
        self._liars: dict[str, None] = {}

    def event(self, host: str, kind: str, fields: Mapping[str, object]) -> None:
        """See `Checker.event`."""
        if kind == "disk.lost" or kind in HARM:
            lost = lost_shards(fields)
            self._promises.disk_lost(host, lost, self.world.authority.mesh.shards)
        elif kind == "equivocated":
            self._liars[host] = None

    def end(self, found: Sequence[Evidence]) -> None:
        """See `Checker.end`."""
        for liar in self._liars:
            self._promises.lied(liar)
        for one in lost(found, self._promises.acknowledged):
            self.wrong(str(one))
        for lack in missing(found, self._promises.papers):
            self.wrong(lack)


class NothingResurrected(Checker):
    """What was deleted by an acknowledged deletion is nowhere."""

    def __init__(self, world: World, promises: Promises) -> None:
        super().__init__(world)
        self._promises = promises

    def end(self, found: Sequence[Evidence]) -> None:
        """See `Checker.end`."""
        for back in resurrected(found, self._promises.deleted):
            self.wrong(back)


class Acknowledgements(Checker):
    """A flush that returns says the truth: that much is on the disks of all whom it names."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._on_disk: Counter[tuple[str, int, int]] = Counter()
        self._joined: set[tuple[str, int]] = set()

    def journaled(self, host: Host, frames: Sequence[FrameRecord]) -> None:
        """See `Checker.journaled`."""
        for frame in frames:
            name = host.name, frame.shard, frame.session
            self._on_disk[name] = max(self._on_disk[name], frame.last)

    def event(self, host: str, kind: str, fields: Mapping[str, object]) -> None:
        """See `Checker.event`. What a snapshot brought is on no list: such disks are not judged."""
        if kind == "snapshot.joined":
            self._joined.add((host, int(str(fields["shard"]))))
        if kind != "acknowledged":
            return
        shard, session, seq = (int(str(fields[name])) for name in ("shard", "session", "seq"))
        others = str(fields["others"])
        for name in [host, *filter(None, others.split(","))]:
            # A clone's acknowledgements count for its original's, and none can tell them apart.
            same = name, clone_name(name)
            have = max(self._on_disk[one, shard, session] for one in same)
            if have < seq and not any((one, shard) in self._joined for one in same):
                self.wrong(
                    f"{host} acknowledged seq {seq} of session {session} in shard {shard} as "
                    f"{fields['level']}, and {name} has {have} of them on disk"
                )


class Quiet(Checker):
    """Who has nothing to say says little: after convergence traffic falls to its idle rate."""

    def judge(self, seconds: float, messages: int) -> None:
        """So many messages went over the network in so many seconds of nothing."""
        count = len(self.world.names)
        bound = IDLE_MESSAGES_PER_S * count * (count - 1) * seconds
        if messages > bound:
            self.wrong(f"{messages} messages in {seconds:g} s of nothing, more than {bound:g}")


class BoundedMemory(Checker):
    """What waits in a replica, to be applied, sent or written, stays within its bound."""

    def look(self) -> None:
        """See `Checker.look`."""
        for host in self.world.up:
            assert host.replica is not None
            for what, size, bound in holdings(host.replica):
                if size > bound:
                    self.wrong(f"{host.name}: {size} {what}, at most {bound}")


class OfHistory(Checker):
    """What a judge says of what clients did and saw."""

    def __init__(self, world: World, promises: Promises, judge: Judge) -> None:
        super().__init__(world)
        self._promises = promises
        self.judge = judge

    @property
    def name(self) -> str:
        """The judge's."""
        return type(self.judge).__name__

    def end(self, found: Sequence[Evidence]) -> None:
        """See `Checker.end`. Where values turn into others, or one name has two frames, nothing is
        promised of what clients see.
        """
        del found
        history = self._promises.history
        if self.excused(StrongConvergence.__name__):
            spoiled = self.spoiled
            history = history.without(lambda document: spoiled.of(document) in spoiled.shards)
        for wrong in self.judge.judge(history):
            self.wrong(wrong)


def collect(world: World) -> list[Evidence]:
    """What every replica that is up has, at this instant."""
    return [evidence(host.name, host.lattices, ()) for host in world.up]


def checkers_for(world: World, promises: Promises) -> list[Checker]:
    """All of them."""
    plain: tuple[type[Checker], ...] = (
        NothingRefused, StrongConvergence, Monotone, UniqueIds, OnDiskFirst, CausalDelivery,
        Acknowledgements, BoundedMemory, Converged, Quiet, LiesNamed, ResyncBound,
    )  # fmt: skip
    made: list[Checker] = [each(world) for each in plain]
    made += [
        NothingLost(world, promises),
        NothingResurrected(world, promises),
    ]
    made += [OfHistory(world, promises, judge) for judge in judges()]
    return made
