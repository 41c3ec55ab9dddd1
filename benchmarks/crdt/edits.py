"""Writing, applying and reading registers: 1,000 of them, in an order without pattern."""

from __future__ import annotations

import time
from random import Random
from typing import Any

from pycrdt import Doc, Map, TransactionEvent

from benchmarks.crdt.content import BATCH, KEY, Note, Site, batches, key_of, new_map
from benchmarks.harness import Aim, Figure, Run
from crdt.access import ShardView
from crdt.document import document_id
from crdt.lattice import Shard
from crdt.operation import decode_body

REGISTERS = 1_000
NAMES = [document_id(Note, str(number)) for number in range(REGISTERS)]
KEYS = [key_of(number, 1) for number in range(REGISTERS)]


def turns(count: int) -> list[int]:
    """Which register is written next, and next; the same for both sides.

    In order they would suit yrs better than life does: overwritten neighbours melt into one.
    """
    random = Random(1)
    return [random.randrange(REGISTERS) for _ in range(count)]


async def measure(run: Run) -> None:
    """All of it."""
    await _writes(run, 1, Aim("ours", ">=", 100_000))
    await _writes(run, BATCH, Aim("ours", ">=", 250_000))
    await _received(run)
    await _reads(run)


async def _writes(run: Run, size: int, aim: Aim) -> None:
    """The typed API against a map of pycrdt's whose document has an observer taking the update."""
    count = run.size(50_000, 1_000)
    name = f"registers written, {size} a transaction"
    figure = Figure(name, "writes/s", aim, Aim("ratio", ">=", 1))
    order = turns(count)

    async def ours() -> dict[str, float]:
        site = Site()
        site.bodies(range(REGISTERS), 1, "value")
        begun = time.perf_counter()
        for first in range(0, count, size):
            overlay = site.begin()
            for number in order[first : first + size]:
                note = Note.bind(overlay, NAMES[number])
                note.f0 = "value"
            site.end(overlay)
        return {name: count / (time.perf_counter() - begun)}

    async def peer() -> dict[str, float]:
        doc, mapping = _observed()
        begun = time.perf_counter()
        for first in range(0, count, size):
            with doc.transaction():
                for number in order[first : first + size]:
                    mapping[KEYS[number]] = "value"
        return {name: count / (time.perf_counter() - begun)}

    await run.compare([figure], ours=ours, peer=peer)


def _observed() -> tuple[Doc[Any], Map[Any]]:
    """A filled map that hands out its updates, as a replica needs them, and drops them."""
    doc, mapping = new_map()
    with doc.transaction():
        for key in KEYS:
            mapping[key] = "value"
    taken: list[bytes] = []

    def take(event: TransactionEvent) -> None:
        taken[:] = (event.update,)

    doc.observe(take)
    return doc, mapping


async def _received(run: Run) -> None:
    """Frame bodies of 100 writes decoded and applied, against updates of 100 writes; then the same,
    and which fields each of them wrote is listed, too: our operations say so, pycrdt's map tells an
    observer.
    """
    count = run.size(100_000, 5_000)
    name = f"operations decoded and applied, {BATCH} a frame"
    listed = f"{name}, fields listed"
    figures = [
        Figure(name, "operations/s", Aim("ours", ">=", 400_000), Aim("ratio", ">=", 1.5)),
        Figure(listed, "operations/s"),
    ]
    order = turns(count)
    written_keys = len(set(order))
    site = Site()
    bodies = site.bodies(order, 1, "value")
    updates: list[bytes] = []
    source, written = new_map()
    source.observe(lambda event: updates.append(event.update))
    for batch in batches(order):
        with source.transaction():
            for number in batch:
                written[KEYS[number]] = "value"

    def apply_bodies(fields: list[list[tuple[str, bytes]]] | None) -> float:
        shard, first = Shard(KEY), 1
        begun = time.perf_counter()
        for body in bodies:
            transactions = decode_body(body)
            shard.apply_transactions(site.session, first, transactions)
            first += BATCH
            if fields is not None:
                fields.append([each[:2] for part in transactions for each in part.operations])
        taken = time.perf_counter() - begun
        assert shard.entry_count == written_keys
        return count / taken

    def apply_updates(fields: list[list[str]] | None) -> float:
        doc, mapping = new_map()
        if fields is not None:
            mapping.observe(lambda event: fields.append(list(event.keys)))  # type: ignore[attr-defined]
        begun = time.perf_counter()
        for update in updates:
            doc.apply_update(update)
        taken = time.perf_counter() - begun
        assert len(mapping) == written_keys
        return count / taken

    async def ours() -> dict[str, float]:
        return {name: apply_bodies(None), listed: apply_bodies([])}

    async def peer() -> dict[str, float]:
        return {name: apply_updates(None), listed: apply_updates([])}

    await run.compare(figures, ours=ours, peer=peer)


async def _reads(run: Run) -> None:
    """A field of a live view, against `mapping[key]`."""
    count = run.size(300_000, 1_000)
    name = "field read"
    figure = Figure(name, "µs", Aim("ours", "<", 1.5), Aim("ratio", "<=", 1 / 3))
    site = Site()
    site.bodies(range(REGISTERS), 1, "value")
    note = Note.bind(ShardView(site.shard), NAMES[3])
    doc, mapping = new_map()
    with doc.transaction():
        for key in KEYS:
            mapping[key] = "value"
    key = KEYS[3]

    async def ours() -> dict[str, float]:
        begun = time.perf_counter()
        for _ in range(count):
            note.f0  # noqa: B018
        return {name: 1e6 * (time.perf_counter() - begun) / count}

    async def peer() -> dict[str, float]:
        begun = time.perf_counter()
        for _ in range(count):
            mapping[key]
        return {name: 1e6 * (time.perf_counter() - begun) / count}

    await run.compare([figure], ours=ours, peer=peer)
