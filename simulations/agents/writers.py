"""What agents do in a simulated world: edits of every kind, and notes of what they were promised.

Each run of a replica has one writer. It edits documents that all share, at drawn moments, and now
and then asks for durability; it also makes documents of its own and deletes them again. What was
acknowledged goes into the `Promises`, by which the run is judged at the end.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter as Tally
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from crdt import Counter, Document, Feed, Flag, Map, Maximum, MultiValue, Register, Set, Text
from crdt.errors import ServiceError
from crdt.ids import shard_of
from mesh.durability import Durability, FlushResult, FlushTimeout
from mesh.editing import Backpressure, ReplicaClosed
from mesh.replica import Replica
from simulations.agents.clients import Client, Traveller
from simulations.checkers import Acknowledged
from simulations.judges.history import History
from simulations.ports.services import BUS, CHECKPOINTS, LOG

if TYPE_CHECKING:
    from simulations.world import Host

__all__ = ("Load", "Paper", "Promises", "Sheet", "Writer")

FLUSH_TIMEOUT_S = 5.0
LEDGERS = ("{books}/1", "{books}/2", "diary")
"""Two of them in one shard."""
ALONE = Durability.JOURNAL
"""The level of what is on one disk only."""


LEVELS = {BUS: Durability.BUS, LOG: Durability.LOG, CHECKPOINTS: Durability.CHECKPOINT}
"""What a flush can ask of a service."""


def _survives(result: FlushResult) -> bool:
    """Whether it is where the loss of one disk does not take it away. A bus may lose all."""
    return bool(result.replicas) or result.level in (Durability.LOG, Durability.CHECKPOINT)


class Sheet(Document):
    """What all agents write to."""

    title: Register[str]
    views: MultiValue[int]
    done: Flag
    effort: Counter
    best: Maximum[int]
    labels: Set[str]
    findings: Map[str, Register[int]]
    log: Feed[str]
    notes: Text


class Paper(Document):
    """What one agent makes, and deletes again."""

    text: Register[str]


Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class Load:
    """How busy each writer is: `edits` a second on average, over so many shared `sheets`; every
    `flush` share of edits waits for durability, every `papers` share makes or deletes a paper. Of
    the rest every `ledgers` share is what a client does to a ledger, `travels` of them a traveller.
    What is written as text is longer by `padding` random bytes.
    """

    edits: PositiveFloat = 0.5
    sheets: PositiveInt = 4
    flush: Share = 0.25
    papers: Share = 0.1
    ledgers: Share = 0.6
    travels: Share = 0.2
    padding: NonNegativeInt = 0


@dataclass(slots=True)
class Promises:
    """What replicas acknowledged. Of papers: who is expected to be there, and who not any more."""

    acknowledged: list[Acknowledged] = field(default_factory=list)
    papers: dict[str, str] = field(default_factory=dict)
    """{document: replica on whose disk alone its making is, or ""}, acknowledged ones."""
    deleted: dict[str, str] = field(default_factory=dict)
    counts: Tally[str] = field(default_factory=Tally)
    history: History = field(default_factory=History)
    traveller: Traveller = field(default_factory=Traveller)

    def keep(self, host: Host, result: FlushResult) -> None:
        """A flush returned. A majority may be the one that asks: it counts whom it still sees."""
        self.counts[str(result.level)] += 1
        level = str(Durability.PEERS(len(result.replicas)) if result.replicas else ALONE)
        if not result.replicas and _survives(result):
            level = str(result.level)
        self.history.acknowledge(
            result.session, result.written, host.world.now, alone=level == str(ALONE)
        )
        for shard, seq in result.written.items():
            self.acknowledged.append(Acknowledged(result.session, shard, seq, level, host.name))
            host.tell(
                "acknowledged", shard=shard, session=result.session, seq=seq, level=result.level,
                others=",".join(result.replicas),
            )  # fmt: skip

    def lied(self, host: str) -> None:
        """Of documents that a liar made nothing is promised: some were told something else."""
        for kept in (self.papers, self.deleted):
            for document in [name for name in kept if name.startswith(f"Paper/{host}-")]:
                del kept[document]

    def disk_lost(self, replica: str, lost: Callable[[int], bool], shards: int) -> None:
        """What was on this disk alone is lost with it: that was promised by nobody. `lost`: of
        which of so many `shards`.
        """
        self.history.disk_lost(replica)
        self.traveller.lost()
        self.acknowledged = [
            one
            for one in self.acknowledged
            if one.replica != replica or one.level != str(ALONE) or not lost(one.shard)
        ]
        for kept in (self.papers, self.deleted):
            for document in [name for name, holder in kept.items() if holder == replica]:
                if lost(shard_of(document, shards)):
                    del kept[document]


class Writer:
    """One agent on one run of a replica. Call it with host and replica to run it, for ever.

    With `only`, nobody writes but on these hosts.
    """

    def __init__(
        self,
        promises: Promises,
        load: Load,
        chance: Callable[[str, int], random.Random],
        only: Collection[str] | None = None,
    ) -> None:
        self._only = only
        self._promises = promises
        self._load = load
        self._chance = chance

    async def __call__(self, host: Host, replica: Replica) -> None:
        """Write until the replica is closed."""
        if self._only is not None and replica.name not in self._only:
            return
        rng = self._chance(host.name, host.runs)
        mine: list[str] = []
        client = Client(self._promises.history, host, replica, rng)
        number = 0
        while True:
            await asyncio.sleep(rng.expovariate(self._load.edits))
            number += 1
            try:
                if rng.random() < self._load.papers:
                    await self._paper(host, replica, rng, mine, f"{host.name}-{host.runs}-{number}")
                    continue
                if rng.random() >= self._load.ledgers:
                    padding = rng.randbytes(self._load.padding).hex()  # nothing that compresses
                    self._edit(replica, rng, f"{replica.name} {number}{padding}")
                elif rng.random() >= self._load.travels:
                    client.act(rng.choice(LEDGERS))
                else:
                    traveller = self._promises.traveller
                    went = await traveller.visit(client, rng.choice(LEDGERS), FLUSH_TIMEOUT_S)
                    self._promises.counts["travels made" if went else "travels put off"] += 1
                self._promises.counts["edits"] += 1
                if rng.random() < self._load.flush:
                    await self._flush(host, replica, self._level(host, rng))
            except Backpressure:
                self._promises.counts["backpressure"] += 1
                await replica.ready()
            except FlushTimeout:
                self._promises.counts["travels timed out"] += 1
            except ReplicaClosed:
                return

    def _edit(self, replica: Replica, rng: random.Random, word: str) -> None:
        name = f"sheet-{rng.randrange(self._load.sheets)}"
        if rng.random() < 0.02:
            replica.delete(Sheet, name)
            return
        with replica.edit(Sheet, name) as sheet:
            for _ in range(rng.randrange(1, 4)):
                _one_edit(sheet, rng, word)

    def read_all(self, host: Host) -> None:
        """What every ledger is in the end, on a host that is up."""
        replica = host.replica
        assert replica is not None, f"{host.name} is down"
        client = Client(self._promises.history, host, replica, self._chance(host.name, 0))
        # One that failed without being ended can't be read; that it failed is known.
        with suppress(ReplicaClosed):
            for name in LEDGERS:
                client.read(name, final=True)

    @staticmethod
    def _level(host: Host, rng: random.Random) -> Durability:
        served = [LEVELS[name] for name in host.services if name in LEVELS]
        return rng.choice(
            (
                Durability.JOURNAL, Durability.PEERS(1), Durability.PEERS(2), Durability.MAJORITY,
                *served,
            )
        )  # fmt: skip

    async def _paper(
        self, host: Host, replica: Replica, rng: random.Random, mine: list[str], name: str
    ) -> None:
        level = self._level(host, rng)
        document = f"Paper/{name}"
        if mine and rng.random() < 0.4:
            document = mine.pop(rng.randrange(len(mine)))
            # From here until the deletion is acknowledged nothing is known of it.
            self._promises.papers.pop(document, None)
            replica.delete(Paper, document.partition("/")[2])
            kept = self._promises.deleted
        else:
            with replica.edit(Paper, name) as paper:
                paper.text = name
            mine.append(document)
            kept = self._promises.papers
        result = await self._flush(host, replica, level)
        if result is not None:
            kept[document] = "" if _survives(result) else host.name

    async def _flush(self, host: Host, replica: Replica, level: Durability) -> FlushResult | None:
        try:
            result = await replica.flush(level, timeout=FLUSH_TIMEOUT_S)
        except FlushTimeout:
            self._promises.counts[f"{level} timed out"] += 1
            return None
        except ServiceError:
            return None
        self._promises.keep(host, result)
        return result


def _one_edit(sheet: Sheet, rng: random.Random, word: str) -> None:
    kind = rng.randrange(10)
    if kind == 0:
        sheet.title = word
    elif kind == 1:
        sheet.views = rng.randrange(100)
    elif kind == 2:
        sheet.done = rng.random() < 0.5
    elif kind == 3:
        sheet.effort += rng.randrange(-3, 10)
    elif kind == 4:
        sheet.best = rng.randrange(1_000_000)
    elif kind == 5:
        sheet.labels.add(f"label {rng.randrange(12)}")
    elif kind == 6:
        sheet.labels.discard(f"label {rng.randrange(12)}")
    elif kind == 7:
        key = f"module {rng.randrange(6)}"
        if rng.random() < 0.2 and key in sheet.findings:
            del sheet.findings[key]
        else:
            sheet.findings[key] = rng.randrange(100)
    elif kind == 8:
        sheet.log.append(word)
    else:
        sheet.notes.insert(rng.randrange(len(str(sheet.notes)) + 1), f"{word}\n")
