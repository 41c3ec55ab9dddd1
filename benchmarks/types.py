"""What each type costs: on the wire, in a snapshot, in memory, and in time.

A type that holds one thing is edited again and again in one document; what it takes up is measured
over many documents. A type that holds many things gets one more with every edit, at places spread
over all that is there. Values are strings of ten characters, or small numbers. Nothing is
journaled, signed or sent.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import time
import timeit
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, Final

import psutil

from benchmarks.harness import Figure, Measured, Run
from crdt import (
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
    Sequence,
    Set,
    Text,
)
from crdt.operation import encode_body
from crdt.snapshot import encode_snapshot
from simulations.sites import Site

OPERATIONS: Final = 100
"""In the frame's body that is measured, each a transaction of its own."""
HELD: Final = 1_000
"""Things in a field that is edited, read and put into a snapshot, or documents with that field."""
KEPT: Final = 10_000
"""The same where memory is measured: many, because a process grows by whole pages."""
TIMED: Final = 500
"""Edits that are timed."""
BATCH: Final = 100
"""Things of a field that are written together before anything is measured."""
QUANTITIES: Final = {
    "in a frame": "bytes",
    "in a snapshot": "bytes",
    "in memory": "bytes",
    "edit": "µs",
    "read": "µs",
}


class Sample(Document):
    """A field of every type, and one that makes the document exist."""

    there: Flag
    register: Register[str]
    multivalue: MultiValue[str]
    flag: Flag
    counter: Counter
    bounded: BoundedCounter
    maximum: Maximum[int]
    minimum: Minimum[int]
    elements: Set[str]
    refused: Annotated[Set[str], RemoveWins(1_000_000)]
    children: Map[str, Register[str]]
    feed: Feed[str]
    sequence: Sequence[str]
    text: Text
    decided: Decided[str]


@dataclass(frozen=True, slots=True)
class Subject:
    """One type: how it is edited for the n-th time, how it is read, and whether one field holds
    `many` things. `fill` does many edits at once, for which that is the only quick way.
    """

    edit: Callable[[Sample, int], object]
    read: Callable[[Sample], object]
    many: bool = False
    fill: Callable[[Sample, range], object] | None = None


def word(number: int) -> str:
    """Ten characters, another ten for another number."""
    return f"{number:010}"


def _place(number: int) -> int:
    """Somewhere among `number` things."""
    return number * 7_919 % (number + 1)


def _assign(name: str, value: Callable[[int], Any] = word) -> Subject:
    return Subject(
        lambda sample, number: setattr(sample, name, value(number)),
        lambda sample: getattr(sample, name),
    )


SUBJECTS: Final[Mapping[str, Subject]] = {
    "Register": _assign("register"),
    "MultiValue": _assign("multivalue"),
    "Flag": _assign("flag", lambda number: number % 2 == 0),
    "Counter": _assign("counter", lambda number: number + 1),
    "BoundedCounter": Subject(
        lambda sample, number: sample.bounded.grant(number + 1), lambda sample: sample.bounded.value
    ),
    "Maximum": _assign("maximum", lambda number: number),
    "Minimum": _assign("minimum", lambda number: -number),
    "Set": Subject(
        lambda sample, number: sample.elements.add(word(number)),
        lambda sample: word(0) in sample.elements,
        many=True,
    ),
    "Set, remove-wins": Subject(
        lambda sample, number: sample.refused.discard(word(number)),
        lambda sample: word(0) in sample.refused,
        many=True,
        fill=lambda sample, numbers: sample.refused.__isub__({word(each) for each in numbers}),
    ),
    "Map of Registers": Subject(
        lambda sample, number: sample.children.update({word(number): word(number)}),
        lambda sample: sample.children[word(0)],
        many=True,
    ),
    "Feed": Subject(
        lambda sample, number: sample.feed.append(word(number)),
        lambda sample: sample.feed[-1],
        many=True,
    ),
    "Sequence": Subject(
        lambda sample, number: sample.sequence.insert(_place(number), word(number)),
        lambda sample: sample.sequence[0],
        many=True,
    ),
    "Text": Subject(
        lambda sample, number: sample.text.insert(_place(number), word(number)),
        lambda sample: str(sample.text),
        many=True,
    ),
    "Decided": Subject(
        lambda sample, number: sample.decided.decide(number + 1, word(number)),
        lambda sample: sample.decided.value,
    ),
}


async def measure(run: Run) -> None:
    """All types, one after the other."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as fresh:
        for name in SUBJECTS:
            await _measure_one(run, name, fresh)


async def _measure_one(run: Run, name: str, fresh: Executor) -> None:
    loop = asyncio.get_running_loop()
    held, kept = run.size(HELD, 20), run.size(KEPT, 200)

    async def ours() -> Measured:
        grown = await loop.run_in_executor(fresh, memory, name, kept)
        found = (frame(name, held), snapshot(name, held), grown, *times(name, held, run.quick))
        return dict(zip(_figures(name), found, strict=True))

    await run.compare([Figure(*each) for each in _figures(name).items()], ours=ours)


def _figures(name: str) -> dict[str, str]:
    return {f"{name}: {quantity}": unit for quantity, unit in QUANTITIES.items()}


def frame(name: str, held: int) -> float:
    """Bytes that one edit adds to the body of a frame, before it is compressed and sealed."""
    site = filled(name, held)
    edit(site, name, range(held, held + OPERATIONS))
    return len(encode_body(site.written[-OPERATIONS:])) / OPERATIONS


def snapshot(name: str, held: int) -> float:
    """Bytes that one thing adds to a snapshot, before it is compressed and sealed."""
    site = empty(name, held)
    before = len(encode_snapshot(site.shard.snapshot()))
    fill(site, name, held)
    return (len(encode_snapshot(site.shard.snapshot())) - before) / held


def memory(name: str, held: int) -> float:
    """Bytes by which one thing lets a process grow, which must be a new one: what a process has
    freed it takes again without growing.
    """
    other = empty(name, held)
    fill(other, name, held)  # so that what is cached of paths, which is bounded, is there already
    site = empty(name, held)
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    fill(site, name, held)
    gc.collect()
    return (process.memory_info().rss - before) / held


def times(name: str, held: int, quick: bool) -> tuple[float, float]:
    """Microseconds of one edit, from its beginning to its commit, and of one read."""
    site = filled(name, held)
    start = time.perf_counter()
    edit(site, name, range(held, held + TIMED))
    edited = time.perf_counter() - start
    read, view = SUBJECTS[name].read, site.view(Sample, "0")
    timer = timeit.Timer(lambda: read(view))
    count, seconds = (1, timer.timeit(1)) if quick else timer.autorange()
    return 1e6 * edited / TIMED, 1e6 * seconds / count


def empty(name: str, held: int) -> Site:
    """A site whose documents exist, without the field."""
    site = Site(1)
    for number in range(1 if SUBJECTS[name].many else held):
        with site.edit(Sample, str(number)) as sample:
            sample.there = True
        site.written.clear()
    return site


def fill(site: Site, name: str, held: int) -> None:
    """So many things in the one document, or one in each of so many."""
    subject = SUBJECTS[name]
    step = BATCH if subject.many else 1
    for first in range(0, held, step):
        numbers = range(first, min(first + step, held))
        with site.edit(Sample, "0" if subject.many else str(first)) as sample:
            if subject.fill is not None:
                subject.fill(sample, numbers)
            else:
                for number in numbers:
                    subject.edit(sample, number)
        site.written.clear()


def filled(name: str, held: int) -> Site:
    """A site with so many things."""
    site = empty(name, held)
    fill(site, name, held)
    return site


def edit(site: Site, name: str, numbers: range) -> None:
    """Edit the first document, in a transaction for each of these numbers."""
    change = SUBJECTS[name].edit
    for number in numbers:
        with site.edit(Sample, "0") as sample:
            change(sample, number)
