"""What state costs in memory alone, without a replica around it, beside pycrdt doing the same."""

from __future__ import annotations

from benchmarks.crdt import edits, memory, states, texts
from benchmarks.harness import Run


async def measure(run: Run) -> None:
    """All of it, one part after the other."""
    await edits.measure(run)
    await texts.measure(run)
    await states.measure(run)
    await memory.measure(run)
