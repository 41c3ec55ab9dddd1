"""A process that writes without a pause and says what was acknowledged, until something kills it.

`python -m simulations.rehearsal.writer`, with its task as first line on standard input. It speaks
as `agent` does: lines of JSON both ways. Said is only what `flush` returned for, and after it did.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import traceback
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from mesh.durability import Durability, FlushTimeout
from mesh.editing import Backpressure
from mesh.environment import Bus, Environment
from mesh.instrumentation import LoggingProbe
from mesh.replica import Replica
from mesh.settings import PeersSettings, RedisSettings, ReplicaSettings, Settings
from mesh.transports.discovery import StaticSeeds
from mesh.transports.tcp import TcpTransport
from persistence.base import JournalDamaged
from persistence.identity import open_identity
from persistence.salvage import rebuild
from persistence.sqlite import open_journal
from persistence.system import SystemClock, SystemEntropy
from simulations.rehearsal import wire
from simulations.rehearsal.points import Fuse, FusedJournal
from simulations.rehearsal.specimen import GONE, KEPT, Specimen

EARLY, UNDEAD = "early", "undead"
"""Faults that a writer can be given, for the checkers to find: it says that writes are safe before
they are; it writes again what it has deleted."""
_EARLY_BY_MS: Final = 250

_SHARED: Final = 8
_TEXT_MAX: Final = 400
_FLUSH_TIMEOUT_S: Final = 2.0
_SNAPSHOT_FRAMES: Final = 40


@dataclass(frozen=True, slots=True)
class WriterTask:
    """What a writer is told first. `rate`: edits a second; `seed` decides what it writes."""

    name: str
    parent: int
    folder: str
    seeds: tuple[str, ...]
    seed: int
    rate: int
    levels: tuple[str, ...]
    redis: str = ""
    plant: str = ""

    def line(self) -> bytes:
        """As one line."""
        return wire.pack(asdict(self))

    @staticmethod
    def read(line: bytes) -> WriterTask:
        """Raises MessageError."""
        try:
            values = wire.unpack(line)
            return WriterTask(
                **{**values, "seeds": tuple(values["seeds"]), "levels": tuple(values["levels"])}
            )
        except (KeyError, TypeError) as error:
            raise wire.MessageError(f"not a writer's task: {error}") from error


@dataclass(slots=True)
class Unsaid:
    """What was done since the last acknowledgement."""

    edits: int = 0
    kept: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


def level_of(name: str) -> Durability:
    """`JOURNAL`, `BUS`, or `PEERS(n)`."""
    if name.startswith("PEERS("):
        return Durability.PEERS(int(name[6:-1]))
    return {"JOURNAL": Durability.JOURNAL, "BUS": Durability.BUS}[name]


class Writer:
    """Edits, flushes and answers, around one replica."""

    def __init__(self, task: WriterTask, replica: Replica, fuse: Fuse) -> None:
        self._task = task
        self._replica = replica
        self._fuse = fuse
        self._draw = random.Random(f"{task.seed}/{task.name}/{replica.session}")  # noqa: S311
        self._going = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._unsaid = Unsaid()
        self._doomed: list[str] = []
        self._made = 0
        self._topic = "0"

    async def run(self) -> None:
        """Until standard input ends, or something fails."""
        wire.emit("started", session=self._replica.session, address=self._replica.address)
        tasks = [asyncio.create_task(each) for each in (self._edit(), self._flush())]
        listening = asyncio.create_task(self._listen())
        try:
            done, _ = await asyncio.wait([*tasks, listening], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (*tasks, listening):
                task.cancel()
            await asyncio.gather(*tasks, listening, return_exceptions=True)

    # ------------------------------------------------------------------ writing

    async def _edit(self) -> None:
        pause = 0.02
        batch = max(1, round(self._task.rate * pause))
        while True:
            await self._going.wait()
            self._idle.clear()
            try:
                for _ in range(batch):
                    self._one_edit()
                    self._unsaid.edits += 1
                if self._task.plant == EARLY:
                    self._say_early()
            except Backpressure:
                await self._replica.ready()
            finally:
                self._idle.set()
            await asyncio.sleep(pause * self._draw.uniform(0.5, 1.5))

    def _one_edit(self) -> None:
        self._made += 1
        kind = self._draw.randrange(16)
        if kind == 0:
            name = f"{KEPT}-{self._replica.session}-{self._made}"
            with self._replica.edit(Specimen, name) as specimen:
                specimen.value = self._made
            self._unsaid.kept.append(name)
        elif kind == 1:
            name = f"{GONE}-{self._replica.session}-{self._made}"
            with self._replica.edit(Specimen, name) as specimen:
                specimen.log.append("here")
                specimen.members.add("one")
            self._doomed.append(name)
        elif kind == 2 and self._doomed:
            name = self._doomed.pop(self._draw.randrange(len(self._doomed)))
            self._replica.delete(Specimen, name)
            if self._task.plant == UNDEAD:
                self._replica.create(Specimen, name)
            self._unsaid.gone.append(name)
        else:
            self._shared_edit(kind)

    def _shared_edit(self, kind: int) -> None:
        draw = self._draw
        with self._replica.edit(
            Specimen, f"shared-{self._topic}-{draw.randrange(_SHARED)}"
        ) as specimen:
            if kind < 6:
                specimen.edits += 1
            elif kind < 9:
                specimen.value = self._made
            elif kind < 11:
                specimen.members.add(str(draw.randrange(50)))
            elif kind < 13:
                specimen.members.discard(str(draw.randrange(50)))
            elif kind < 14:
                specimen.log.append(f"{self._task.name} {self._made}")
            else:
                length = len(str(specimen.text))
                if length > _TEXT_MAX:
                    specimen.text.delete(0, length // 2)
                else:
                    specimen.text.insert(draw.randint(0, length), f"{self._made} ")

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(self._draw.uniform(0.01, 0.06))
            unsaid, self._unsaid = self._unsaid, Unsaid()
            if not unsaid.edits:
                continue
            level = self._draw.choice(self._task.levels)
            try:
                result = await self._replica.flush(level_of(level), timeout=_FLUSH_TIMEOUT_S)
            except FlushTimeout:
                # Not yet, so nothing is said; a later flush acknowledges it together with its own.
                self._unsaid.edits += unsaid.edits
                self._unsaid.kept[:0] = unsaid.kept
                self._unsaid.gone[:0] = unsaid.gone
            else:
                self._say(level, result.written, unsaid)

    def _say_early(self) -> None:
        # What it wrote is in memory; its frontier says so, its disk does not yet.
        session, unsaid = self._replica.session, self._unsaid
        self._unsaid = Unsaid()
        frontier = self._replica.frontier()
        written = {shard: seqs[session] for shard, seqs in frontier.items() if session in seqs}
        self._say("JOURNAL", written, unsaid)

    def _say(self, level: str, written: dict[int, int], unsaid: Unsaid) -> None:
        wire.emit(
            "acknowledged", session=self._replica.session, level=level, written=written,
            edits=unsaid.edits, kept=unsaid.kept, gone=unsaid.gone,
        )  # fmt: skip

    # ------------------------------------------------------------------ the conductor

    async def _listen(self) -> None:
        reader = asyncio.StreamReader(limit=wire.MAX_LINE)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            message = wire.unpack(line)
            match message["do"]:
                case "go":
                    self._topic = message["topic"]
                    self._going.set()
                case "rest":
                    self._going.clear()
                    await self._idle.wait()
                    await self._replica.flush(Durability.JOURNAL)
                    self._answer(message)
                case "state":
                    self._answer(
                        message, frontier=self._replica.frontier(), digest=self._replica.digest()
                    )
                case "documents":
                    self._answer(
                        message,
                        missing=[n for n in message["kept"] if not self._has(n)],
                        resurrected=[n for n in message["gone"] if self._has(n)],
                    )
                case "fuse":
                    self._fuse.set(message["point"], message["delay"])

    def _has(self, name: str) -> bool:
        return self._replica.exists(Specimen, name)

    def _answer(self, message: dict[str, Any], **fields: Any) -> None:
        wire.emit("answer", request=message["request"], **fields)


def settings_of(task: WriterTask) -> Settings:
    """Static seeds, a free port on loopback, small bounds so that snapshots happen."""
    return Settings(
        replica=ReplicaSettings(
            name=task.name,
            snapshot_every_frames=_SNAPSHOT_FRAMES,
            close_timeout_s=2.0,
            # Whoever says it too early has to be behind its word often enough to be found out.
            flush_interval_ms=_EARLY_BY_MS if task.plant == EARLY else 0,
        ),
        peers=PeersSettings(
            listen="127.0.0.1:0", seeds=task.seeds, redial_min_s=0.05, redial_max_s=0.4
        ),
        redis=RedisSettings(url=task.redis, timeout_s=1.0),
    )


async def opened(stack: AsyncExitStack, task: WriterTask, fuse: Fuse) -> Replica:
    """A running replica on production ports, with a fuse in its journal.

    Composed as `mesh.compose` does. Raises JournalDamaged.
    """
    folder, settings = Path(task.folder), settings_of(task)
    clock, entropy, probe = SystemClock(), SystemEntropy(), LoggingProbe()
    identity = open_identity(folder)
    journal = open_journal(folder, identity.mesh)
    stack.push_async_callback(journal.close)
    transport = TcpTransport(identity, settings.peers, probe)
    stack.push_async_callback(transport.close)
    bus: Bus | None = None
    if task.redis:
        from mesh.transports.redis import RedisBus  # its driver takes its time to load

        bus = RedisBus(
            task.redis, mesh=identity.mesh.id, shards=identity.mesh.shards, entropy=entropy,
            stream_entries_max=settings.redis.stream_entries_max,
            read_entries=settings.redis.read_entries, timeout_s=settings.redis.timeout_s,
        )  # fmt: skip
        stack.push_async_callback(bus.close)
    environment = Environment(
        clock, entropy, probe, FusedJournal(journal, fuse), transport,
        StaticSeeds(settings.peers.seeds), None, bus, None, None,
    )  # fmt: skip
    return await stack.enter_async_context(Replica(settings, environment, identity))


async def main(task: WriterTask) -> None:
    """Open the replica, salvaging a damaged journal; write until told to stop; close."""
    fuse = Fuse()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with AsyncExitStack() as stack:
        try:
            replica = await opened(stack, task, fuse)
        except JournalDamaged as damage:
            await stack.aclose()
            salvage = await asyncio.to_thread(asyncio.run, rebuild(Path(task.folder), str(damage)))
            wire.emit("rebuilt", **salvage.plain())
            replica = await opened(stack, task, fuse)
        writing = asyncio.create_task(Writer(task, replica, fuse).run())
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({writing, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
        finally:
            for each in (writing, stopped):
                each.cancel()
            await asyncio.gather(writing, stopped, return_exceptions=True)


def run() -> None:
    """Entry of the process."""
    task = WriterTask.read(sys.stdin.buffer.readline())
    wire.die_with(task.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the conductor ends us
    try:
        asyncio.run(main(task))
    except BrokenPipeError:
        return  # the conductor is gone
    except Exception as error:  # noqa: BLE001 - the process ends; its log says why, in one line last
        traceback.print_exc()
        sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())}\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    run()
