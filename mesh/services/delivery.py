"""What one service is still owed of what this replica wrote: a cursor over the journal.

The journal holds all frames in apply order, and the cursor is a position in it: everything of ours
up to there is with the service. So what is owed survives restarts and outages of any length, and
memory holds only what was journaled a moment ago; what does not fit there is read back from disk.

Delivery is at least once: after a crash, a failed call or a service that lost its data, frames are
offered again, and readers drop them by their seqs.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

from mesh.core import Core
from mesh.services.condition import Condition
from persistence.base import FrameRecord, StorageError

MEMORY_BYTES = 4 << 20
"""Frames kept in memory for a service that is slower than the disk; beyond, they are read back."""
BATCH_BYTES = 1 << 20
BATCH_FRAMES = 512
FIRST_PAGE = 16
"""Frames read back from disk at once, until it is known how large they are."""
REREAD_S = 1.0
DELIVER = "deliver"

Send = Callable[[Sequence[FrameRecord]], Awaitable[None]]


class Delivery:
    """See the module. `run` is one task; `send` returns once the service has all of its frames."""

    def __init__(self, core: Core, condition: Condition, send: Send) -> None:
        self._core = core
        self._condition = condition
        self._send = send
        self._fresh: deque[tuple[int, Sequence[FrameRecord]]] = deque()
        self._fresh_bytes = 0
        self._work = asyncio.Event()
        # Until the end of the journal was seen once, or after too much came at once.
        self._behind = True
        self._newest = 0
        self._owed: dict[tuple[int, int], int] = {}
        self._has: dict[int, int] = {}
        self._page = FIRST_PAGE
        self._epoch = 0
        self._kept = 0
        self._blocking = False
        self.owed_bytes = 0
        """Bytes of our own frames that are on disk here and not with the service."""
        self.cursor = 0

    def __repr__(self) -> str:
        return f"<Delivery to {self._condition.part} up to {self.cursor} of {self._newest}>"

    @property
    def _name(self) -> str:
        return f"{self._condition.part}.cursor"

    @property
    def done(self) -> bool:
        """Whether the service has everything that is on disk here."""
        return self.cursor >= self._newest and not self._behind

    def load(self, meta: Mapping[str, bytes], position: int) -> None:
        """Go on from where an earlier session stopped; `position` is the journal's last."""
        data = meta.get(self._name, b"")
        # Unreadable or of another journal: offering everything again does no harm.
        cursor = int(data) if data.isdigit() else 0
        self.cursor = cursor if cursor <= position else 0
        self._newest = position
        # Whether anything is owed, only the journal knows.
        self._work.set()

    def state(self) -> dict[str, bytes]:
        """What `load` needs in another session."""
        return {self._name: b"%d" % self.cursor}

    def offer(self, position: int, records: Sequence[FrameRecord]) -> None:
        """These frames are on disk now, the last of them at `position`."""
        self._newest = position
        if size := sum(len(record.data) for record in records if record.own):
            self._kept += size
            self._owe(self.owed_bytes + size)
        if not self._behind:
            own: Sequence[FrameRecord] = [record for record in records if record.own]
            self._fresh_bytes += sum(len(record.data) for record in own)
            if self._fresh and not own:
                # However many frames of others come: they take no memory here.
                own = self._fresh.pop()[1]
            self._fresh.append((position, own))
            if self._fresh_bytes > MEMORY_BYTES:
                self._fall_behind()
        self._work.set()

    def again(self) -> None:
        """The service lost what it had: all that the journal still holds is offered again."""
        self.cursor = 0
        # What was pruned since can't be told apart: no more of it than the journal may hold.
        bound = self._core.settings.replica.journal_bytes_max
        self._owe(max(self.owed_bytes, min(self._kept, bound)))
        self._epoch += 1
        self._has.clear()
        self._fall_behind()
        self._work.set()

    def has(self, written: Mapping[int, int]) -> bool:
        """Whether the service has this much {shard: seq} of the present session."""
        return all(self.served(shard) >= seq for shard, seq in written.items())

    def served(self, shard: int) -> int:
        """The last seq of the present session in this shard that the service has, as it said."""
        return self._has.get(shard, 0)

    def keep(self, shard: int, upto: Mapping[int, int]) -> dict[int, int]:
        """The part of `upto` {session: seq} whose frames the journal need not keep for the service.

        Nothing of ours that is owed goes, whatever it costs: nobody else may have it.
        """
        own = self._core.session
        return {
            session: min(seq, self.served(shard))
            if session == own
            else min(seq, self._owed.get((shard, session), seq))
            for session, seq in upto.items()
        }

    async def find_owed(self) -> None:
        """Look through the journal for frames of earlier sessions of ours that are owed still.

        Raises StorageError.
        """
        after = self.cursor
        while after < self._newest and (rows := await self._page_after(after)):
            for _, record in rows:
                if record.own:
                    key = record.shard, record.session
                    self._owed.setdefault(key, record.first - 1)
                    self._owe(self.owed_bytes + len(record.data))
            after = rows[-1][0]
        self._kept = self.owed_bytes

    async def run(self) -> None:
        """Deliver, for as long as the replica lives. Only cancelling ends it."""
        while True:
            await self._work.wait()
            # Whoever says `again` from here on means what is read and sent now, too.
            epoch = self._epoch
            position, records = await self._next()
            if records:
                step = functools.partial(self._deliver, epoch, position, records)
                await self._condition.insist(DELIVER, step)
            elif self._epoch == epoch:
                self.cursor = max(self.cursor, position)
            self._core.waiters.progress()

    async def _deliver(self, epoch: int, position: int, records: Sequence[FrameRecord]) -> None:
        if self._epoch == epoch:
            await self._send(records)
        if self._epoch == epoch:
            self.cursor = max(self.cursor, position)
            self._delivered(records)

    def _delivered(self, records: Sequence[FrameRecord]) -> None:
        own = self._core.session
        self._owe(max(0, self.owed_bytes - sum(len(record.data) for record in records)))
        for record in records:
            if record.session == own:
                self._has[record.shard] = max(record.last, self._has.get(record.shard, 0))
            else:
                key = record.shard, record.session
                if key in self._owed:
                    self._owed[key] = max(record.last, self._owed[key])

    async def _next(self) -> tuple[int, list[FrameRecord]]:
        """What to send now, and the cursor once that is done. Clears `_work` when that is all."""
        if self._behind:
            found = await self._next_from_disk()
            if found is not None:
                return found
            self._behind = self.cursor < self._newest
            if not self._behind:
                self._caught_up()
        records: list[FrameRecord] = []
        position = self.cursor
        size = 0
        while self._fresh and size < BATCH_BYTES and len(records) < BATCH_FRAMES:
            end, own = self._fresh.popleft()
            taken = sum(len(record.data) for record in own)
            self._fresh_bytes -= taken
            if end > self.cursor:
                position = end
                records += own
                size += taken
        if not self._fresh and not self._behind:
            self._work.clear()
        return position, records

    async def _next_from_disk(self) -> tuple[int, list[FrameRecord]] | None:
        newest, epoch = self._newest, self._epoch
        rows = await self._read(self.cursor)
        if not rows:
            if self._epoch == epoch:
                # What may be left before `newest` was pruned: it was not owed.
                self.cursor = max(self.cursor, newest)
            return None
        return rows[-1][0], [record for _, record in rows if record.own]

    def _caught_up(self) -> None:
        """All of ours that the journal holds is there; what it no longer holds was there once."""
        self._owe(0)
        own = self._core.session
        for host in self._core.hosts:
            if seq := host.journaled.get(own, 0):
                self._has[host.index] = seq

    async def _read(self, after: int) -> list[tuple[int, FrameRecord]]:
        while True:
            try:
                return await self._page_after(after)
            except StorageError as error:
                self._core.probe.event("journal.failed", reason=str(error))
                await asyncio.sleep(REREAD_S)

    async def _page_after(self, after: int) -> list[tuple[int, FrameRecord]]:
        rows = await self._core.environment.journal.replay(after, self._page)
        if rows:
            # The next page takes about BATCH_BYTES.
            size = sum(len(record.data) for _, record in rows) // len(rows) + 1
            self._page = max(1, min(BATCH_FRAMES, BATCH_BYTES // size))
        return rows

    def _owe(self, size: int) -> None:
        """So much is owed now. Above the bound edits are refused, until a part of it is gone."""
        self.owed_bytes = size
        bound = self._core.settings.replica.journal_owed_bytes_max
        over = size > (bound - bound // 16 if self._blocking else bound)
        if over == self._blocking:
            return
        self._blocking = over
        part = self._condition.part
        if not over:
            self._core.block(part)
            return
        self._core.block(
            part, f"{size} bytes of own frames are owed to the {part}, at most {bound} may be",
            f"bring it back (replica.health()['{part}'] says what is wrong with it), leave it out "
            "of the settings, or raise replica.journal_owed_bytes_max",
        )  # fmt: skip

    def _fall_behind(self) -> None:
        self._behind = True
        self._fresh.clear()
        self._fresh_bytes = 0
