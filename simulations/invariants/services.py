"""What must hold of the services that replicas share: what is said to be there is, and nothing is
let go before the log has it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mesh.durability import Durability
from persistence.base import FrameRecord, LogRecord
from persistence.frame import Header, parse_frame
from simulations.invariants.base import HARM, Checker, lost_shards
from simulations.ports.services import BUS, LOG

if TYPE_CHECKING:
    from simulations.world import Host, World

__all__ = ("LogComplete", "LogFirst", "Served", "Settles", "Spans", "service_checkers")


class Spans:
    """Which numbers there are, of those that came in runs."""

    def __init__(self) -> None:
        self._numbers: set[int] = set()

    def __repr__(self) -> str:
        return f"<Spans of {len(self._numbers)}>"

    def add(self, first: int, last: int) -> None:
        """These are there."""
        self._numbers.update(range(first, last + 1))

    def begin_at_one(self) -> None:
        """All before the first that is there are, too."""
        if self._numbers:
            self._numbers.update(range(1, min(self._numbers)))

    def lacking(self, first: int, last: int) -> list[int]:
        """Those between, both included, that are not there."""
        return [one for one in range(first, last + 1) if one not in self._numbers]


class Settles(Checker):
    """What holds some time after all agree."""

    def lacking(self) -> list[str]:
        """What is not so yet, in words."""
        return []

    def judge(self) -> None:
        """It had the time to come in."""
        for lack in self.lacking():
            self.wrong(lack)


class _OfLog(Settles):
    """Knows what the log has, and what it had. What retention removed it has: it was to go. What
    it lost it had.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._read: Counter[int] = Counter()
        self._seen: dict[int, list[tuple[int, Header]]] = {}
        self._have: dict[int, dict[int, Spans]] = {}
        self._had: dict[int, dict[int, Spans]] = {}
        self._retained: set[int] = set()
        world.services.on_log_cut.append(self._cut)

    def has(self, shard: int, session: int) -> Spans:
        """What the log has of a session. Once retention has removed records of the shard, what
        comes first of a session looks as if that before it had been removed.
        """
        self._look(shard)
        spans = self._have.setdefault(shard, {}).setdefault(session, Spans())
        if shard in self._retained:
            spans.begin_at_one()
        return spans

    def had(self, shard: int, session: int) -> Spans:
        """What the log has of a session, or had before it lost records: until a replica looks, it
        can't know of that.
        """
        self._look(shard)
        return self._had.setdefault(shard, {}).setdefault(session, Spans())

    def _look(self, shard: int) -> None:
        """All that came since the last look."""
        server = self.world.services.log_server
        records = server.records(shard)
        for record in records[bisect_left(records, self._read[shard], key=_offset) :]:
            header = _header(self.world, record.data)
            self._seen.setdefault(shard, []).append((record.offset, header))
            for spans in (self._have, self._had):
                of_session = spans.setdefault(shard, {}).setdefault(header.session, Spans())
                of_session.add(header.first, header.last)
        self._read[shard] = server.end(shard)

    def _cut(self, shard: int, end: int) -> None:
        """The log will remove old records, and lose those from this offset on."""
        self._look(shard)
        if end >= self._read[shard]:
            self._retained.add(shard)
        else:
            self._read[shard] = end
            kept = [one for one in self._seen.get(shard, ()) if one[0] < end]
            self._seen[shard], self._have[shard] = kept, {}
            for _, header in kept:
                spans = self._have[shard].setdefault(header.session, Spans())
                spans.add(header.first, header.last)


class LogComplete(_OfLog):
    """A flush at LOG that returned was in the log; in the end the log has all that a journal has,
    and had all that was written.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._owed: dict[str, list[FrameRecord]] = {}

    def journaled(self, host: Host, frames: Sequence[FrameRecord]) -> None:
        """See `Checker.journaled`. An author keeps a frame until the log has it."""
        self._owed.setdefault(host.name, []).extend(frame for frame in frames if frame.own)

    def event(self, host: str, kind: str, fields: Mapping[str, object]) -> None:
        """See `Checker.event`."""
        if kind == "disk.lost" or kind in HARM:
            lost = lost_shards(fields)
            owed = self._owed.get(host, ())
            self._owed[host] = [frame for frame in owed if not lost(frame.shard)]
        if kind == "acknowledged" and fields["level"] == Durability.LOG:
            shard, session, seq = _written(fields)
            lacks = self.had(shard, session).lacking(1, seq)
            if lacks:
                self.wrong(
                    f"{host} acknowledged seq {seq} of session {session} in shard {shard} as "
                    f"LOG, and the log lacks {lacks}"
                )

    def lacking(self) -> list[str]:
        """Frames that are on a disk and not in the log, or were and never were in it, in words."""
        found: list[str] = []
        for host in self.world.hosts.values():
            for frames, spans in (
                (host.disk.frames(), self.has),
                (self._owed.get(host.name, ()), self.had),
            ):
                found += [
                    f"{host.name} journaled {_named(frame)}, and the log has not"
                    for frame in frames
                    if spans(frame.shard, frame.session).lacking(frame.first, frame.last)
                ]
        return found


class LogFirst(_OfLog):
    """No author's journal forgets a frame, and no replica has the bus drop one, before the log has
    it. What no journal holds any more can't come into the log, and is in snapshots alone: such a
    hole has been told of, or the checkpoint has it.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._own: dict[tuple[str, int], list[FrameRecord]] = {}
        self._holes: dict[tuple[int, int], int] = {}
        world.services.on_trim.append(self._trimmed)

    def journaled(self, host: Host, frames: Sequence[FrameRecord]) -> None:
        """See `Checker.journaled`."""
        for frame in frames:
            if frame.own:
                self._own.setdefault((host.name, frame.shard), []).append(frame)

    def event(self, host: str, kind: str, fields: Mapping[str, object]) -> None:
        """See `Checker.event`."""
        if kind == "disk.lost" or kind in HARM:
            for where in [where for where in self._own if where[0] == host]:
                del self._own[where]
        elif kind == "log.hole":
            shard, session, upto = (int(str(fields[name])) for name in ("shard", "session", "upto"))
            self._holes[shard, session] = max(upto, self._holes.get((shard, session), 0))
        elif kind == "journal.pruned":
            self._pruned(host, int(str(fields["shard"])))

    def _pruned(self, name: str, shard: int) -> None:
        own = self._own.get((name, shard), [])
        on_disk = _places(self.world.machine(name).disk.frames())
        for frame in own:
            if _place(frame) not in on_disk:
                lacks = self.had(shard, frame.session).lacking(frame.first, frame.last)
                if lacks:
                    self.wrong(f"{name} forgot {_named(frame)}, and the log lacks {lacks}")
        self._own[name, shard] = [frame for frame in own if _place(frame) in on_disk]

    def _trimmed(self, shard: int, data: bytes) -> None:
        """A replica had the bus drop this."""
        header = _header(self.world, data)
        session = header.session
        newest = self.world.services.checkpoint(shard)
        held = 0 if newest is None else newest[0].frontier.get(session, 0)
        excused = max(held, self._holes.get((shard, session), 0))
        lacks = self.had(shard, session).lacking(max(header.first, excused + 1), header.last)
        if lacks:
            self.wrong(
                f"the bus was told to drop seq {header.first} to {header.last} of session "
                f"{session} in shard {shard}, and the log lacks {lacks}"
            )


class Served(Checker):
    """A flush at BUS that returned was, at some time, in one and the same data of the bus, with all
    before it that its author still has.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._taken: dict[tuple[int, int], dict[str, Spans]] = {}
        world.services.on_publish.append(self._published)

    def _published(self, generation: str, shard: int, data: bytes) -> None:
        """The bus took a frame."""
        header = _header(self.world, data)
        taken = self._taken.setdefault((shard, header.session), {})
        taken.setdefault(generation, Spans()).add(header.first, header.last)

    def event(self, host: str, kind: str, fields: Mapping[str, object]) -> None:
        """See `Checker.event`."""
        if kind != "acknowledged" or fields["level"] != Durability.BUS:
            return
        shard, session, seq = _written(fields)
        owed = [
            frame
            for frame in self.world.machine(host).disk.frames()
            if (frame.shard, frame.session) == (shard, session) and frame.first <= seq
        ]
        generations = self._taken.get((shard, session), {})
        if not any(_all_in(owed, taken) for taken in generations.values()) and owed:
            self.wrong(
                f"{host} acknowledged seq {seq} of session {session} in shard {shard} as BUS, and "
                f"none of its data ever had {len(owed)} frames up to it: {sorted(generations)}"
            )


def service_checkers(world: World) -> list[Checker]:
    """Those for the services that this world has."""
    made: list[Checker] = []
    if LOG in world.services.names:
        made += [LogFirst(world), LogComplete(world)]
    if BUS in world.services.names:
        made.append(Served(world))
    return made


def _all_in(frames: Sequence[FrameRecord], spans: Spans) -> bool:
    return not any(spans.lacking(frame.first, frame.last) for frame in frames)


def _header(world: World, data: bytes) -> Header:
    mesh = world.authority.mesh
    return parse_frame(data, mesh.id, mesh.shards).header


def _offset(record: LogRecord) -> int:
    return record.offset


def _written(fields: Mapping[str, object]) -> tuple[int, int, int]:
    shard, session, seq = (int(str(fields[name])) for name in ("shard", "session", "seq"))
    return shard, session, seq


def _named(frame: FrameRecord) -> str:
    return f"seq {frame.first} to {frame.last} of session {frame.session} in shard {frame.shard}"


def _place(frame: FrameRecord) -> tuple[int, int, int]:
    return frame.shard, frame.session, frame.first


def _places(frames: Sequence[FrameRecord]) -> set[tuple[int, int, int]]:
    return {_place(frame) for frame in frames}
