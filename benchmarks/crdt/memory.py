"""What state takes: in memory for each register, and after a million overwrites.

Resident memory is that of a child process which makes the state and nothing else, before and after:
the same measure for us and for pycrdt, whose memory Python does not see.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks.crdt.content import KEY, Site, key_of, new_map, write
from benchmarks.harness import Aim, BenchmarkError, Figure, Run, Side
from crdt.lattice import Shard
from crdt.operation import decode_body
from crdt.snapshot import decode_snapshot, encode_snapshot

OVERWRITTEN: Final = 1_000
CHILD_S: Final = 100.0
ROOT: Final = Path(__file__).resolve().parents[2]


async def measure(run: Run) -> None:
    """Both."""
    entries = run.size(100_000, 2_000)
    for fields, aim in ((10, Aim("ours", "<=", 350)), (1, None)):
        name = f"memory of a register, {fields} a document"
        figure = Figure(name, "bytes", aim)
        await run.compare(
            [figure],
            ours=_side(name, "registers", entries, fields),
            peer=_side(name, "keys", entries, fields),
        )
    name = "memory of a register, 10 a document, from a snapshot"
    await run.compare([Figure(name, "bytes")], ours=_side(name, "loaded", entries, 10))
    count = run.size(1_000_000, 20_000)
    what = f"{count:,} overwrites of {OVERWRITTEN:,} fields"
    size, grown = f"{what}: encoded, to fresh", f"{what}: resident memory added"
    await run.compare(
        [Figure(size, "times", Aim("ours", "<=", 1.1)), Figure(grown, "MB")],
        ours=_sides((size, grown), "overwritten", count),
        peer=_sides((size, grown), "overwritten-keys", count),
    )
    name = f"{what}: Python memory, to fresh"
    await run.compare(
        [Figure(name, "times", Aim("ours", "<=", 1.1))], ours=_side(name, "traced", count)
    )


def _side(name: str, role: str, *numbers: int) -> Side:
    return _sides((name,), role, *numbers)


def _sides(names: tuple[str, ...], role: str, *numbers: int) -> Side:
    async def one_round() -> dict[str, float]:
        return dict(zip(names, await _in_child(role, *numbers), strict=True))

    return one_round


async def _in_child(role: str, *numbers: int) -> list[float]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.crdt.memory", role, *map(str, numbers),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(CHILD_S):
            answer, errors = await child.communicate()
    except TimeoutError:
        raise BenchmarkError(f"measuring {role} took more than {CHILD_S:g} s") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode:
        raise BenchmarkError(f"measuring {role} failed: {errors.decode()[-300:]}")
    found: list[float] = json.loads(answer)
    return found


# ---------------------------------------------------------------------------------- in the child


def resident() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def _received(shard: Shard, session: int, bodies: list[bytes]) -> None:
    first = shard.frontier.get(session, 0) + 1
    while bodies:
        transactions = decode_body(bodies.pop(0))
        shard.apply_transactions(session, first, transactions)
        first += sum(len(transaction.operations) for transaction in transactions)


def registers(entries: int, fields: int) -> list[float]:
    """Bytes for each register that came in frames; the digest is up to date."""
    site, shard = Site(), Shard(KEY)
    bodies = site.bodies(range(entries), fields, "value")
    before = resident()
    _received(shard, site.session, bodies)
    shard.digest()
    return [(resident() - before) / shard.entry_count]


def loaded(entries: int, fields: int) -> list[float]:
    """Bytes for each register of a snapshot that was decoded and joined."""
    site, shard = Site(), Shard(KEY)
    site.bodies(range(entries), fields, "value")
    data = encode_snapshot(site.shard.snapshot())
    before = resident()
    shard.join(decode_snapshot(data))
    shard.digest()
    return [(resident() - before) / shard.entry_count]


def keys(entries: int, fields: int) -> list[float]:
    """Bytes for each key of a map of pycrdt's."""
    doc, mapping = new_map()
    names = [key_of(number, fields) for number in range(entries)]
    before = resident()
    write(doc, mapping, names, "value")
    return [(resident() - before) / entries]


def overwritten(count: int) -> list[float]:
    """A shard after overwrites, encoded, to one that was written once; and the megabytes added."""
    site, shard = Site(), Shard(KEY)
    turns = list(range(OVERWRITTEN))
    _received(shard, site.session, site.bodies(turns, 10, "value"))
    shard.digest()
    fresh = len(encode_snapshot(shard.snapshot()))
    before = resident()
    for _ in range(count // OVERWRITTEN):
        _received(shard, site.session, site.bodies(turns, 10, "value"))
    shard.digest()
    added = resident() - before
    return [len(encode_snapshot(shard.snapshot())) / fresh, max(added, 0) / 1e6]


def traced(count: int) -> list[float]:
    """What Python allocated for a shard after overwrites, to what it did when written once."""
    site, turns = Site(), list(range(OVERWRITTEN))
    rounds = [site.bodies(turns, 10, "value") for _ in range(1 + count // OVERWRITTEN)]
    tracemalloc.start()
    shard = Shard(KEY)
    _received(shard, site.session, rounds[0])
    shard.digest()
    gc.collect()
    fresh, _ = tracemalloc.get_traced_memory()
    for bodies in rounds[1:]:
        _received(shard, site.session, bodies)
    shard.digest()
    gc.collect()
    now, _ = tracemalloc.get_traced_memory()
    return [now / fresh]


def overwritten_keys(count: int) -> list[float]:
    """What `overwritten` measures, of a map of pycrdt's."""
    doc, mapping = new_map()
    names = [key_of(number) for number in range(OVERWRITTEN)]
    write(doc, mapping, names, "value")
    fresh = len(doc.get_update())
    before = resident()
    for _ in range(count // OVERWRITTEN):
        write(doc, mapping, names, "value")
    added = resident() - before
    return [len(doc.get_update()) / fresh, max(added, 0) / 1e6]


ROLES: Final[dict[str, Callable[..., Any]]] = {
    "registers": registers,
    "loaded": loaded,
    "keys": keys,
    "overwritten": overwritten,
    "traced": traced,
    "overwritten-keys": overwritten_keys,
}

if __name__ == "__main__":
    print(json.dumps(ROLES[sys.argv[1]](*map(int, sys.argv[2:]))))
