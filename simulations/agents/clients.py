"""Clients who edit and read ledgers, and keep a record of it by which they are judged.

A `Client` is one agent's of one run of a replica. A `Traveller` goes from replica to replica, and
takes along the frontier of what it has seen: it works only where at least that much is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from crdt import (
    Counter,
    Document,
    Feed,
    Flag,
    Map,
    Maximum,
    MultiValue,
    Register,
    Sequence,
    Set,
    Text,
)  # fmt: skip
from crdt.codec import decode_stamped
from crdt.errors import MeshError
from crdt.frontier import covers
from crdt.ids import shard_of
from crdt.paths import TypeCode, leaf_code
from mesh.durability import Durability
from mesh.editing import Backpressure, ReplicaClosed
from mesh.replica import Replica
from simulations import specification
from simulations.judges import (
    Availability,
    CounterBounds,
    HybridClocks,
    Intention,
    Judge,
    ListOrder,
    NoDuplicateEffect,
    OutOfThinAir,
    SessionGuarantees,
    SetFull,
    Specified,
)  # fmt: skip
from simulations.judges.history import History, Outcome, Read, Write

if TYPE_CHECKING:
    from simulations.world import Host, Run

__all__ = ("Client", "Ledger", "Traveller", "judges")

DISK = "the disk takes nothing"
"""Why an edit may be refused: see `Availability`."""
READS = 0.3
"""Share of acts that only read."""
EDITS_MAX = 4
"""What is done at one instant travels in one frame."""
LETTERS = 0x4E00, 0x20000
"""Where the characters begin of which each is typed once: of one, and of two UTF-16 units."""
MOST_LETTERS = 20_000
_STAMPED = (TypeCode.REGISTER, TypeCode.MULTIVALUE, TypeCode.FEED)

Done = tuple[tuple[Any, ...], str, Any]
"""What was done: place, action, value. See `history.Write`."""


class Ledger(Document):
    """What clients edit and read: a field of every type. Nobody deletes one, nor anything from its
    `entries` and `log`, nor its `tally`.
    """

    entries: Set[str]
    log: Feed[str]
    tally: Counter
    title: Register[str]
    views: MultiValue[int]
    best: Maximum[int]
    done: Flag
    labels: Set[str]
    findings: Map[str, Register[int]]
    hours: Map[str, Counter]
    script: Text
    agenda: Sequence[str]


def judges() -> list[Judge]:
    """Those of what is done to ledgers."""
    return [
        HybridClocks(),
        Availability(frozenset({DISK})),
        SessionGuarantees(("entries", "log")),
        SetFull(("entries",)),
        CounterBounds(("tally",)),
        OutOfThinAir(without=("tally", "hours", "done")),
        NoDuplicateEffect(("entries", "log", "script", "agenda"), ("tally",)),
        ListOrder(("script", "agenda")),
        Intention(
            {
                "entries": Specified(specification.elements, frozenset),
                "log": Specified(specification.feed, list),
                "tally": Specified(specification.counter),
                "title": Specified(specification.register),
                "views": Specified(specification.multivalue),
                "best": Specified(specification.maximum),
                "done": Specified(specification.flag),
                "labels": Specified(specification.elements, frozenset),
                "findings": Specified(specification.mapping(specification.register)),
                "hours": Specified(specification.mapping(specification.counter)),
                "script": Specified(specification.elements, frozenset),
                "agenda": Specified(specification.elements, frozenset),
            }
        ),
    ]


class Client:
    """Edits and reads of one agent, at a drawn choice."""

    def __init__(self, history: History, host: Host, replica: Replica, rng: random.Random) -> None:
        self._history = history
        self.host = host
        self.replica = replica
        self._rng = rng

    def act(self, name: str, client: str = "") -> None:
        """Read this ledger, and mostly edit it some times and read each edit back. `client`: whose
        session it is, by default that of who stays with this replica. Raises Backpressure and
        ReplicaClosed.
        """
        self.read(name, client)
        if self._rng.random() >= READS:
            for _ in range(self._rng.randrange(1, EDITS_MAX + 1)):
                self._edit(name, client)
                self.read(name, client)

    def read(self, name: str, client: str = "", *, final: bool = False) -> None:
        """Read this ledger."""
        host, replica = self.host, self.replica
        document = f"{Ledger.__name__}/{name}"
        read = Read(
            client or _sticky(host), document, {}, at=host.world.now, run=_run(host, client),
            replica=host.name, final=final,
        )  # fmt: skip
        try:
            view = replica.get(Ledger, name)
            read.values = {} if view is None else _frozen(view.snapshot())
        except ReplicaClosed:
            raise
        except MeshError as error:
            read.outcome, read.reason = Outcome.FAIL, repr(error)
        else:
            hosts = replica._started().core.hosts
            shard = hosts[shard_of(document, len(hosts))]
            read.shard, read.seen = shard.index, dict(shard.lattice.frontier)
            read.outcome = Outcome.INFO if shard.pending() else Outcome.OK
        self._history.read(read)

    def _edit(self, name: str, client: str) -> None:
        host = self.host
        core = self.replica._started().core
        document = f"{Ledger.__name__}/{name}"
        shard = core.hosts[shard_of(document, len(core.hosts))]
        shard.load()
        write = Write(
            client or _sticky(host), document, ("",), "", None, at=host.world.now,
            run=_run(host, client), replica=host.name, shard=shard.index,
            seen=dict(shard.lattice.frontier), wall_ms=host.clock.wall_ms(),
            furthest_ms=max(one.clock.furthest_ms() for one in host.world.hosts.values()),
        )  # fmt: skip
        before = shard.outbox.written
        try:
            with self.replica.edit(Ledger, name) as ledger:
                write.place, write.action, write.value = self._one(ledger)
        except ReplicaClosed:
            raise
        except MeshError as error:
            disk = host.disk
            excused = disk.full or disk.broken or disk.slow > 1
            write.outcome = Outcome.FAIL
            write.reason = DISK if excused else repr(error)
            self._history.write(write)
            if isinstance(error, Backpressure):
                raise
            return
        if shard.outbox.written > before:
            transaction = shard.outbox._pending[-1][1]
            operation = transaction.operations[-1]
            write.dot, write.stamp = (core.session, shard.outbox.written), transaction.stamp
            if operation.payload is not None and leaf_code(operation.path) in _STAMPED:
                write.field_stamp = decode_stamped(operation.payload)[0]
            self._history.write(write)

    def _one(self, ledger: Ledger) -> Done:
        """Do one thing. What has no effect writes nothing."""
        rng = self._rng
        kind = rng.choice(_KINDS)
        return kind(ledger, rng, self._history.word())


def _add_entry(ledger: Ledger, rng: random.Random, word: int) -> Done:
    del rng
    ledger.entries.add(f"entry {word}")
    return ("entries",), "insert", f"entry {word}"


def _log(ledger: Ledger, rng: random.Random, word: int) -> Done:
    del rng
    ledger.log.append(f"item {word}")
    return ("log",), "append", f"item {word}"


def _count(ledger: Ledger, rng: random.Random, word: int) -> Done:
    del word
    amount = rng.choice((-3, -1, 1, 2, 7, 20))
    ledger.tally += amount
    return ("tally",), "add", amount


def _set_one(ledger: Ledger, rng: random.Random, word: int) -> Done:
    field = rng.choice(("title", "views", "best", "done"))
    value: Any = {"title": f"title {word}", "views": word, "done": rng.random() < 0.5}.get(
        field, rng.randrange(1_000_000)
    )
    setattr(ledger, field, value)
    return (field,), "flag" if field == "done" else "set", value


def _label(ledger: Ledger, rng: random.Random, word: int) -> Done:
    del word
    label = f"label {rng.randrange(6)}"
    if rng.random() < 0.5:
        ledger.labels.add(label)
        return ("labels",), "insert", label
    ledger.labels.discard(label)
    return ("labels",), "remove", label


def _find(ledger: Ledger, rng: random.Random, word: int) -> Done:
    key = f"module {rng.randrange(4)}"
    if rng.random() < 0.3:
        ledger.findings.discard(key)
        return ("findings", key), "delete", None
    ledger.findings[key] = word
    return ("findings", key), "set", word


def _work(ledger: Ledger, rng: random.Random, word: int) -> Done:
    del word
    key = f"agent {rng.randrange(3)}"
    if rng.random() < 0.3:
        ledger.hours.discard(key)
        return ("hours", key), "delete", None
    amount = rng.randrange(1, 9)
    ledger.hours[key] += amount
    return ("hours", key), "add", amount


def _type(ledger: Ledger, rng: random.Random, word: int) -> Done:
    size = len(ledger.script)
    index = rng.choice((0, size, rng.randrange(size + 1)))
    if size > index and rng.random() < 0.3:
        gone = tuple(ledger.script[index : index + rng.randrange(1, 4)])
        ledger.script.delete(index, len(gone))
        return ("script",), "rub", (index, gone)
    first = word * 4
    if first >= 2 * MOST_LETTERS - 4:  # there are no more that nobody typed
        return _log(ledger, rng, word)
    new = tuple(_letter(first + one) for one in range(rng.randrange(1, 5)))
    ledger.script.insert(index, "".join(new))
    return ("script",), "type", (index, new)


def _plan(ledger: Ledger, rng: random.Random, word: int) -> Done:
    size = len(ledger.agenda)
    index = rng.choice((0, size, rng.randrange(size + 1)))
    if size > index and rng.random() < 0.3:
        gone = ledger.agenda[index]
        del ledger.agenda[index]
        return ("agenda",), "rub", (index, (gone,))
    new = tuple(f"point {word}.{one}" for one in range(rng.randrange(1, 4)))
    for at, one in enumerate(new, index):
        ledger.agenda.insert(at, one)
    return ("agenda",), "type", (index, new)


_KINDS: tuple[Callable[[Ledger, random.Random, int], Done], ...] = (
    _add_entry, _add_entry, _log, _count, _count, _set_one, _set_one, _label, _find, _work, _type,
    _type, _type, _plan, _plan,
)  # fmt: skip


def _letter(number: int) -> str:
    return chr(LETTERS[number % 2] + number // 2)


class Traveller:
    """A client with a session of its own, that is at one replica at a time."""

    def __init__(self) -> None:
        self._number = 1
        self._token: Mapping[int, Mapping[int, int]] = {}
        self._at: Run | None = None

    def __repr__(self) -> str:
        where = "on the way" if self._at is None else f"at {self._at.life.name}"
        return f"<Traveller {self._number}, {where}>"

    def lost(self) -> None:
        """A disk is lost, and perhaps with it what the traveller has seen: another one comes."""
        self._number += 1
        self._token, self._at = {}, None

    async def visit(self, client: Client, name: str, timeout: float) -> bool:
        """Work here; not (False) if what is here is less than the traveller knows, or if it is
        elsewhere. It leaves when all that it has seen is on disk here. If that takes too long, or
        the replica ends before, another traveller comes in its place.
        """
        replica, run = client.replica, client.host.run
        if self._at is not None and self._at.over:
            self.lost()
        if self._at is not None or run is None:
            return False
        here = replica.frontier()
        if not all(covers(here[shard], seen) for shard, seen in self._token.items()):
            return False
        number = self._number
        client.act(name, f"traveller {number}")
        self._at, token = run, replica.frontier()
        try:
            await replica.flush(Durability.JOURNAL, timeout=timeout)
        except MeshError:
            self.lost()
            raise
        if self._number == number:
            self._token, self._at = token, None
        return True


def _sticky(host: Host) -> str:
    """The session of who stays with a host, for as long as its disk is the same."""
    return f"{host.name}, disk {host.losses}"


def _run(host: Host, client: str) -> str:
    """Which run a client loses what is not durable with. A traveller leaves nothing behind."""
    return client or f"{host.name}.{host.runs}"


def _frozen(values: Mapping[str, Any]) -> dict[str, Any]:
    """Lists, and the text, as tuples."""
    frozen = {
        field: tuple(value) if isinstance(value, list) else value for field, value in values.items()
    }
    frozen["script"] = tuple(frozen["script"])
    return frozen
