"""The event log and a replica: own frames go in, everybody's are read, holes are filled.

Reading the log to its end, always, costs little (what is here already is passed over by its header)
and serves three ends: what neither peer nor bus could bring comes from here; the journal may forget
others' frames only once the log has them; and what the log lacks for too long, because its author
is gone, is uploaded from here.

A log can lose records: an election that no copy with the newest could take part in, a topic that
was deleted and made anew. Offsets alone don't show it once others have written as many again. So
the last record that was read is looked up now and then; if it is another, everything begins anew.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

from crdt.errors import CodecError
from crdt.frontier import flat, from_flat
from crdt.structure import pack, unpack
from mesh.core import Core, source_of
from mesh.dissemination import jittered
from mesh.health import LOG
from mesh.ingest import Ingest, Received, Reception
from mesh.services.condition import Condition
from mesh.services.delivery import Delivery
from mesh.services.intake import awaited, judge
from mesh.services.tail import Tail
from persistence.base import (
    EventLog,
    FrameRecord,
    LogFrame,
    LogRecord,
    ServiceUnavailable,
    StorageError,
)
from persistence.frame import events_in

RECORDS = 1_000
"""Records asked for at once."""
SLICE = 32
"""Records taken in before other tasks get a turn."""
UPLOAD_FRAMES = 64
SHORT_WAIT_S = 0.01
"""Longest time one read blocks while shards are left out that will soon be read on."""
GAP_S = 1.0
"""Who was not answered for so much longer than he asked to wait looks up what he had read: the
process was stopped, or the log was away for a time."""
STATE = "log.state"
READ, UPLOAD = "read", "upload"
SOURCE = source_of(LOG)
UNPROVEN = (Reception.REFUSED, Reception.UNCERTIFIED)


class _Last(NamedTuple):
    """The last record of a shard that was read; without a hash: none was."""

    offset: int = -1
    hash: bytes = b""


class LogFeed:
    """See the module. `room` waits while too much that was received is not on disk yet."""

    def __init__(
        self, core: Core, ingest: Ingest, log: EventLog, room: Callable[[], Awaitable[None]]
    ) -> None:
        self._core = core
        self._ingest = ingest
        self._log = log
        self._room = room
        self._judge = functools.partial(judge, core)
        self._truncated: set[int] = set()
        self._met = False
        self._heard = 0.0
        self._lagging: dict[tuple[int, int], int] = {}
        self._open = asyncio.Event()
        self._open.set()
        self.frontier: dict[int, dict[int, int]] = {host.index: {} for host in core.hosts}
        self._last: dict[int, _Last] = {}
        self._held = [host.index for host in core.held]
        self.tail: Tail[int] = Tail(dict.fromkeys(self._held, 0))
        self.condition = Condition(core, LOG)
        self.delivery = Delivery(core, self.condition, self._append)

    def __repr__(self) -> str:
        return f"<LogFeed {self.delivery!r}, {self.tail!r}>"

    # ------------------------------------------------------------------ what is kept

    def load(self, meta: Mapping[str, bytes], position: int) -> None:
        """Go on where an earlier session stopped; at the beginning, if that is unreadable."""
        self.delivery.load(meta, position)
        data = meta.get(STATE, b"")
        offsets: dict[int, int] = {}
        frontier: dict[int, dict[int, int]] = {}
        last: dict[int, _Last] = {}
        try:
            # Older programs did not keep the last record.
            for shard, offset, sessions, *read in unpack(data):
                offsets[int(shard)] = int(offset)
                frontier[int(shard)] = from_flat(sessions)
                if read:
                    last[int(shard)] = _Last(int(read[0]), bytes(read[1]))
        except (CodecError, TypeError, ValueError):
            return
        if offsets.keys() == set(self._held):
            self.tail.seek(offsets)
            self.frontier |= frontier
            self._last = last

    def state(self) -> dict[str, bytes]:
        """What `load` needs in another session: how far the log was read, and how far served."""
        self.tail.settle(self._judge)
        safe = self.tail.safe()
        read = [
            [shard, safe[shard], flat(self.frontier[shard]), *self._last.get(shard, ())]
            for shard in sorted(safe)
        ]
        return {**self.delivery.state(), STATE: pack(read)}

    def keep(self, shard: int, upto: Mapping[int, int]) -> dict[int, int]:
        """The part of `upto` that the log has: what the journal may forget."""
        own, there = self._core.session, self.frontier[shard]
        return {
            session: seq if session == own else min(seq, there.get(session, 0))
            for session, seq in self.delivery.keep(shard, upto).items()
        }

    # ------------------------------------------------------------------ reading

    def start_at(self, shard: int, offset: int, frontier: Mapping[int, int]) -> None:
        """A checkpoint that is on disk here contains all that the log has of this shard below
        `offset`. What else is in its frontier only checkpoints hold, as far as we know: it is not
        waited for.
        """
        self.tail.seek({shard: offset})
        self._last.pop(shard, None)
        self.frontier[shard] = dict(frontier)

    def hold(self) -> None:
        """Don't read until `go`: checkpoints may spare most of it."""
        self._open.clear()

    def go(self) -> None:
        """Read."""
        self._open.set()

    def contained(self, shard: int) -> int:
        """The offset below which all that the log has of this shard is on disk here."""
        self.tail.settle(self._judge)
        return self.tail.safe()[shard]

    async def ends(self) -> dict[int, int]:
        """{shard: offset} where the log ends now. Raises ServiceUnavailable."""
        bounds = await self._log.bounds()
        return {shard: end for shard, (_, end) in bounds.items() if shard in self._held}

    def restored(self, ends: Mapping[int, int]) -> bool:
        """Whether all below these offsets is on disk here, was refused, or waits for causes that
        are not in the log.
        """
        return _reached(self.tail.taken(self._judge), ends)

    async def run(self) -> None:
        """Read, for as long as the replica lives. Only cancelling ends it."""
        await self._open.wait()
        while True:
            self.tail.settle(self._judge)
            for shard in self.tail.review(self._core.now(), self._judge):
                self._core.probe.event("log.reread", shard=shard)
            positions = self.tail.reading(self._judge)
            if not positions:
                await self._core.waiters.until(lambda: bool(self.tail.reading(self._judge)))
                continue
            moves = self.tail.moves
            step = functools.partial(self._read, positions)
            records = await self.condition.insist(READ, step)
            if self.tail.moves == moves:
                await self._take(records)
            self._core.waiters.progress()

    async def _read(self, positions: Mapping[int, int]) -> Sequence[LogRecord]:
        moves, core = self.tail.moves, self._core
        self._met = self._met and core.now() - self._heard < GAP_S
        try:
            if not self._met:
                await self._meet()
                self._met = True
            if self.tail.moves != moves:
                return ()
            whole = len(positions) == len(self._held)
            wait = core.settings.kafka.poll_s if whole else SHORT_WAIT_S
            until = core.now() + wait + GAP_S
            records = await self._log.read(positions, limit=RECORDS, wait_s=wait)
            self._heard = core.now()
            if self._heard > until:
                await self._meet()
        except ServiceUnavailable:
            # Who knows what comes back.
            self._met = False
            raise
        self._made_anew({one.shard for one in records if one.offset < positions[one.shard]})
        return records

    async def _meet(self) -> None:
        """See whether the log still has what was read. Raises ServiceUnavailable."""
        bounds = await self._log.bounds()
        self._truncated = {shard for shard, (first, _) in bounds.items() if first > 0}
        read, last = self.tail.positions(), dict(self._last)
        lost = {
            shard
            for shard, (_, end) in bounds.items()
            if max(read.get(shard, 0), last.get(shard, _Last()).offset + 1) > end
        }
        left = {shard: one for shard, one in last.items() if shard not in lost}
        while left:
            offsets = {shard: one.offset for shard, one in left.items()}
            records = await self._log.read(offsets, limit=len(left), wait_s=SHORT_WAIT_S)
            if not records:
                break
            for record in records:
                one = left.pop(record.shard, None)
                if one is None or not record.data or record.offset > one.offset:
                    continue  # Retention has removed it: it was there once.
                if _named(record) != one:
                    lost.add(record.shard)
        self._made_anew(lost)

    def _made_anew(self, shards: set[int]) -> None:
        """The log lost what was read of these shards, or a part of it. Begin anew."""
        if not shards:
            return
        for shard in sorted(shards):
            self.frontier[shard] = {}
            self._last.pop(shard, None)
            self._core.probe.event("log.reset", shard=shard)
        # Where the log ended when it lacked that means nothing any more.
        self._lagging = {}
        self.tail.seek(dict.fromkeys(sorted(shards), 0))
        self.delivery.again()

    async def _take(self, records: Sequence[LogRecord]) -> None:
        moves = self.tail.moves
        for at, record in enumerate(records, 1):
            self._take_one(record)
            if at % SLICE == 0:
                await self._room()
                await asyncio.sleep(0)
                if self.tail.moves != moves:
                    return

    def _take_one(self, record: LogRecord) -> None:
        frame = None
        if record.data:  # else it stands for offsets that hold nothing (any more)
            self._last[record.shard] = _named(record)
            received = self._ingest.frame(record.data, SOURCE)
            self._note(received, record.shard)
            frame = awaited(self._core, received, record.shard)
        if frame is None:
            self.tail.passed(record.shard, record.offset + 1)
        else:
            self.tail.took(record.offset + 1, frame, self._core.now())

    def _note(self, received: Received, shard: int) -> None:
        """The log has this frame, if it is one, and where readers look for it."""
        reception, header = received
        if header is not None and reception not in UNPROVEN and header.shard == shard:
            self._has(shard, header.session, header.first, header.last)

    def _has(self, shard: int, session: int, first: int, last: int) -> None:
        """The log has these operations. Its frontier has no holes, but at a truncated beginning."""
        there = self.frontier[shard]
        have = there.get(session, 0)
        # Where retention has removed the beginning, what comes first has no predecessor there.
        beginning = not have and shard in self._truncated
        if first <= have + 1 or beginning:
            there[session] = max(have, last)

    # ------------------------------------------------------------------ writing

    async def _append(self, records: Sequence[FrameRecord]) -> None:
        await self._log.append([self._log_frame(record) for record in records])

    def _log_frame(self, record: FrameRecord) -> LogFrame:
        events = events_in(self._core.opener.header(record.data))
        return LogFrame(record.shard, record.session, record.first, events, record.data)

    async def fill_holes(self) -> None:
        """Upload what the log lacks for too long: of others, and of ours that it had and lost. Have
        what was read looked up. Runs for as long as the replica lives.
        """
        rng = self._core.environment.entropy.stream("log.upload")
        interval = self._core.settings.kafka.upload_after_s
        ends: Mapping[int, int] = {}
        while True:
            # Not all replicas at once: the first to come spares the others.
            await asyncio.sleep(interval + jittered(interval, rng) / 2)
            self._met = False
            if not self.condition.ok:
                self._lagging = {}
                continue
            # What was lacking is there now, if it was in the log at that time.
            if self._lagging and not _reached(self.tail.positions(), ends):
                continue
            for (shard, session), upto in sorted(self._lagging.items()):
                await self._upload(shard, session, upto)
            self._lagging = self._lacking()
            try:
                ends = await self.ends() if self._lagging else {}
            except ServiceUnavailable:
                self._lagging = {}  # The reading loop meets the same, and tells.

    def _lacking(self) -> dict[tuple[int, int], int]:
        """{(shard, session): seq} of what is on disk here and not in the log, but for what of ours
        it was not given yet.
        """
        found: dict[tuple[int, int], int] = {}
        for host in self._core.held:
            there, served = self.frontier[host.index], self.delivery.served(host.index)
            for session, seq in host.journaled.items():
                due = min(seq, served) if session == self._core.session else seq
                if due > there.get(session, 0):
                    found[host.index, session] = due
        return found

    async def _upload(self, shard: int, session: int, upto: int) -> None:
        probe = self._core.probe
        where = {"shard": shard, "session": session}
        while (after := self.frontier[shard].get(session, 0)) < upto:
            try:
                records = await self._core.environment.journal.frames(
                    shard, session, after, upto, UPLOAD_FRAMES
                )
            except StorageError as error:
                probe.event("journal.failed", reason=str(error))
                return
            run = _unbroken(records, after)
            if run:
                await self.condition.insist(UPLOAD, functools.partial(self._append, run))
                self._has(shard, session, run[0].first, run[-1].last)
                probe.event("log.uploaded", frames=len(run), **where)
            else:
                # Only snapshots and checkpoints hold it still; waiting for it would never end.
                missing = records[0].first - 1 if records else upto
                self._has(shard, session, after + 1, missing)
                probe.event("log.hole", after=after, upto=missing, **where)


def _named(record: LogRecord) -> _Last:
    return _Last(record.offset, blake2b(record.data, digest_size=8).digest())


def _reached(positions: Mapping[int, int], ends: Mapping[int, int]) -> bool:
    return all(positions.get(shard, 0) >= end for shard, end in ends.items())


def _unbroken(records: Sequence[FrameRecord], after: int) -> list[FrameRecord]:
    """The records up to the first that does not follow."""
    run: list[FrameRecord] = []
    for record in records:
        if record.first > after + 1:
            break
        run.append(record)
        after = record.last
    return run
