"""Valid samples to start from: what real edits through the typed API give."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Annotated, Any

from crdt import (
    AtLeast,
    BoundedCounter,
    Counter,
    Decided,
    Document,
    Feed,
    Flag,
    Map,
    Maximum,
    Minimum,
    MultiValue,
    Register,
    RemoveWins,
    Set,
    Text,
)
from crdt.codec import encode
from crdt.document import delete_document, document_id
from crdt.operation import encode_body
from crdt.snapshot import encode_snapshot
from simulations.sites import Site, exchange

HISTORIES = 24
SITES = 3
NAMES = ("1", "2", "{job}/3")


class Everything(Document):
    """A field of every type."""

    title: Register[Any]
    several: MultiValue[Any]
    effort: Counter
    most: Maximum[int]
    least: Minimum[str]
    done: Flag
    labels: Set[Any]
    banned: Annotated[Set[Any], RemoveWins()]
    log: Feed[Any]
    found: Map[str, Register[Any]]
    counts: Map[int, Map[str, Counter]]
    groups: Map[str, Set[Any]]
    budget: Annotated[BoundedCounter, AtLeast(-5)]
    state: Decided[Any]
    notes: Text


@dataclass(slots=True)
class Corpus:
    """Samples by what reads them, and shards that have the histories they come from."""

    bodies: list[bytes] = field(default_factory=list)
    snapshots: list[bytes] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    payloads: list[tuple[bytes, bytes]] = field(default_factory=list)
    """(path, payload) of assignments."""


@functools.cache
def corpus() -> Corpus:
    """The samples; always the same ones."""
    random = Random(20_260_101)
    made = Corpus()
    for number in range(HISTORIES):
        _history(random, made, number)
    made.values += [encode(any_value(random)) for _ in range(200)]
    made.values += [payload for path, payload in made.payloads if b"notes" not in path][:200]
    return made


def any_value(random: Random, depth: int = 0) -> Any:
    """A storable value."""
    kind = random.randrange(7 if depth > 3 else 9)
    match kind:
        case 0:
            return random.choice((None, True, False))
        case 1:
            return random.choice((0, 127, 128, -32, -33, 2**31, 2**63, 2**64, -(2**63) - 1, 2**99))
        case 2:
            return random.randrange(-(1 << random.randrange(1, 80)), 1 << random.randrange(1, 80))
        case 3:
            return random.choice((0.0, -0.0, 1.5, float("nan"), float("inf"), 1e-300))
        case 4:
            return random.choice(("", "a", "é", "😀", "x" * 31, "x" * 32, "y" * 256))
        case 5:
            return random.randbytes(random.choice((0, 1, 9, 40, 255, 256)))
        case 6:
            return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(random.randrange(-9999, 9999))
        case 7:
            return [any_value(random, depth + 1) for _ in range(random.choice((0, 1, 2, 3, 16)))]
    return {f"k{n}": any_value(random, depth + 1) for n in range(random.randrange(4))}


def _history(random: Random, made: Corpus, number: int) -> None:
    """Some sites edit and exchange; what they wrote and hold becomes samples."""
    sites = [Site(number * SITES + each + 1) for each in range(SITES)]
    for _ in range(random.randrange(3, 8)):
        for site in sites:
            site.wall_ms += random.randrange(1000)
            for _ in range(random.randrange(1, 4)):
                _edit(random, site)
        if random.random() < 0.6:
            exchange(*sites)
            made.snapshots.append(encode_snapshot(random.choice(sites).shard.snapshot()))
    for site in sites:
        transactions = site.written
        for first in range(0, len(transactions), 4):
            made.bodies.append(encode_body(transactions[first : first + random.randrange(1, 5)]))
        for transaction in transactions:
            for operation in transaction.operations:
                if operation.payload is not None:
                    made.payloads.append((operation.path, operation.payload))
        made.snapshots.append(encode_snapshot(site.shard.snapshot()))


def _edit(random: Random, site: Site) -> None:
    name = random.choice(NAMES)
    if random.random() < 0.05:
        overlay = site.overlay()
        delete_document(overlay, Everything, document_id(Everything, name))
        site.commit(overlay)
        return
    with site.edit(Everything, name) as document:
        for _ in range(random.randrange(1, 5)):
            random.choice(_EDITS)(random, document)


def _small(random: Random) -> Any:
    return random.choice((1, "a", b"b", True, 2.5, None, "é"))


def _count(random: Random, document: Everything) -> None:
    document.effort += random.randrange(-100, 1 << 40)
    document.counts[random.randrange(3)][random.choice("xy")] += 1


def _take(random: Random, document: Everything) -> None:
    if document.budget.available:
        document.budget.spend(1)
    else:
        document.budget.grant(random.randrange(1, 200))


def _write(random: Random, document: Everything) -> None:
    length = len(document.notes)
    document.notes.insert(random.randrange(length + 1), random.choice(("ab", "é", "x😀y", "\n")))
    if length and random.random() < 0.4:
        document.notes.delete(random.randrange(length))


def _remove(random: Random, document: Everything) -> None:
    for key in list(document.found)[:1]:
        del document.found[key]
    for key in list(document.groups)[:1]:
        del document.groups[key]


_EDITS: list[Callable[[Random, Everything], object]] = [
    lambda random, document: setattr(document, "title", any_value(random)),
    lambda random, document: setattr(document, "several", any_value(random)),
    lambda random, document: setattr(document, "most", random.randrange(-10, 1000)),
    lambda random, document: setattr(document, "least", random.choice("abcdef")),
    lambda random, document: setattr(document, "done", random.random() < 0.5),
    lambda random, document: document.labels.add(_small(random)),
    lambda random, document: document.labels.discard(_small(random)),
    lambda random, document: document.banned.add(_small(random)),
    lambda random, document: document.banned.discard(_small(random)),
    lambda random, document: document.log.append(any_value(random)),
    lambda random, document: document.found.__setitem__(random.choice("abc"), any_value(random)),
    lambda random, document: document.groups[random.choice("gh")].add(_small(random)),
    lambda random, document: document.state.decide(random.randrange(1, 9), any_value(random)),
    _count,
    _remove,
    _take,
    _write,
]
