"""Typing into a text: one character a transaction."""

from __future__ import annotations

import time
from collections.abc import Sequence
from random import Random
from typing import Any

from pycrdt import Doc, Text, TransactionEvent

from benchmarks.crdt.content import Note, Site
from benchmarks.harness import Aim, Figure, Run
from crdt.access import ShardView
from crdt.document import document_id

RUN = 30
"""Characters that are typed on average before the cursor goes elsewhere."""


def typed(count: int) -> list[int]:
    """Where each of the characters goes: on from the one before, or sometimes somewhere else."""
    random, at, places = Random(1), 0, []
    for length in range(count):
        if random.random() < 1 / RUN:
            at = random.randrange(length + 1)
        places.append(at)
        at += 1
    return places


async def measure(run: Run) -> None:
    """The typed API against pycrdt's Text whose document has an observer taking the update.

    yrs itself takes longer and longer where a text is one long run, as it is when all is appended.
    """
    count = run.size(100_000, 300)
    await _typing(run, f"text, {count:,} characters appended, one a transaction", range(count))
    await _typing(run, f"text, {count:,} characters typed here and there", typed(count))


async def _typing(run: Run, name: str, places: Sequence[int]) -> None:
    count, document = len(places), document_id(Note, "1")
    figure = Figure(name, "s", Aim("ratio", "<=", 1.5))

    async def ours() -> dict[str, float]:
        site = Site()
        begun = time.perf_counter()
        for place in places:
            overlay = site.begin()
            Note.bind(overlay, document).text.insert(place, "x")
            site.end(overlay)
        taken = time.perf_counter() - begun
        assert len(Note.bind(ShardView(site.shard), document).text) == count
        return {name: taken}

    async def peer() -> dict[str, float]:
        doc: Doc[Any] = Doc()
        text = doc.get("t", type=Text)
        updates: list[bytes] = []

        def take(event: TransactionEvent) -> None:
            updates[:] = (event.update,)

        doc.observe(take)
        begun = time.perf_counter()
        for place in places:
            with doc.transaction():
                text.insert(place, "x")
        taken = time.perf_counter() - begun
        assert len(text) == count
        return {name: taken}

    await run.compare([figure], ours=ours, peer=peer)
