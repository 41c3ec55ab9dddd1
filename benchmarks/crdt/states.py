"""Whole states of 100,000 entries, 10 in a document: joined, compared, encoded, decoded, taken."""

from __future__ import annotations

import time

from benchmarks.crdt.content import (
    FIELDS,
    KEY,
    Note,
    Site,
    key_of,
    map_with,
    new_map,
    site_with,
    write,
)
from benchmarks.harness import Aim, BenchmarkError, Figure, Run
from crdt.document import document_id
from crdt.lattice import Shard
from crdt.operation import decode_body
from crdt.snapshot import decode_snapshot, encode_snapshot


async def measure(run: Run) -> None:
    """All of it."""
    entries = run.size(100_000, 2_000)
    await _join(run, entries)
    await _transfer(run, entries)
    await _taken(run, entries)


async def _join(run: Run, entries: int) -> None:
    """Ours joins a decoded snapshot; pycrdt makes the difference to the other's state vector and
    applies it.
    """
    changed = entries // 100
    joined = f"join of {entries:,} entries, {changed:,} of them changed"
    compared = f"digests of {entries:,} entries compared"
    spread = range(0, entries, entries // changed)
    base = encode_snapshot(site_with(entries).shard.snapshot())
    newer = Shard(KEY)
    newer.join(decode_snapshot(base))
    writer = Site()
    writer.shard.join(decode_snapshot(base))
    first = 1
    for body in writer.bodies(list(spread), FIELDS, "other"):
        transactions = decode_body(body)
        newer.apply_transactions(writer.session, first, transactions)
        first += sum(len(transaction.operations) for transaction in transactions)
    snapshot = newer.snapshot()
    doc, _ = map_with(entries)
    before = doc.get_update()
    ahead, mapping = new_map()
    ahead.apply_update(before)
    write(ahead, mapping, [key_of(number) for number in spread], "other")

    async def ours() -> dict[str, float]:
        shard = Shard(KEY)
        shard.join(decode_snapshot(base))
        shard.digest()
        begun = time.perf_counter()
        documents = shard.join(snapshot)
        taken = time.perf_counter() - begun
        _check(len(documents) == changed and shard.digest() == newer.digest(), "the join")
        begun = time.perf_counter()
        same = shard.digest() == newer.digest()
        comparing = time.perf_counter() - begun
        return {joined: 1e3 * taken, compared: 1e3 * comparing * same}

    async def peer() -> dict[str, float]:
        behind, _ = new_map()
        behind.apply_update(before)
        begun = time.perf_counter()
        behind.apply_update(ahead.get_update(behind.get_state()))
        taken = time.perf_counter() - begun
        begun = time.perf_counter()
        same = behind.get_state() == ahead.get_state()
        comparing = time.perf_counter() - begun
        return {joined: 1e3 * taken, compared: 1e3 * comparing * same}

    figures = [
        Figure(joined, "ms", Aim("ours", "<", 150)),
        Figure(compared, "ms", Aim("ours", "<", 1)),
    ]
    await run.compare(figures, ours=ours, peer=peer)


async def _transfer(run: Run, entries: int) -> None:
    """`encode_snapshot` and `decode_snapshot` against `get_update` and `apply_update`; with the
    digest means: every hash of it computed once, and on the other side joined into an empty shard
    whose digest is then compared.
    """
    of = f"of {entries:,} entries"
    encoded, decoded = f"snapshot {of}, encoded", f"snapshot {of}, decoded"
    hashed, proven = f"{encoded}, with its digest", f"{decoded}, joined, digest compared"
    site = site_with(entries)
    site_bytes = encode_snapshot(site.shard.snapshot())
    frozen = decode_snapshot(site_bytes)
    doc, _ = map_with(entries)
    doc_bytes = doc.get_update()

    async def ours() -> dict[str, float]:
        unhashed = Shard(KEY)
        unhashed.join(frozen)
        begun = time.perf_counter()
        snapshot = unhashed.snapshot()  # computes all that the digest needs
        hashing = time.perf_counter() - begun
        begun = time.perf_counter()
        data = encode_snapshot(snapshot)
        encoding = time.perf_counter() - begun
        _check(data == site_bytes, "the encoding")
        begun = time.perf_counter()
        found = decode_snapshot(data)
        decoding = time.perf_counter() - begun
        begun = time.perf_counter()
        shard = Shard(KEY)
        shard.join(found)
        _check(shard.digest() == found.digest, "the digest")
        proving = time.perf_counter() - begun
        return {
            encoded: 1e3 * encoding, hashed: 1e3 * (hashing + encoding),
            decoded: 1e3 * decoding, proven: 1e3 * (decoding + proving),
        }  # fmt: skip

    async def peer() -> dict[str, float]:
        begun = time.perf_counter()
        data = doc.get_update()
        encoding = time.perf_counter() - begun
        _check(len(data) == len(doc_bytes), "pycrdt's encoding")
        other, mapping = new_map()
        begun = time.perf_counter()
        other.apply_update(data)
        decoding = time.perf_counter() - begun
        _check(len(mapping) == entries, "pycrdt's decoding")
        return {encoded: 1e3 * encoding, decoded: 1e3 * decoding, proven: 1e3 * decoding}

    figures = [
        Figure(encoded, "ms", Aim("ours", "<", 250)),
        Figure(hashed, "ms", Aim("ours", "<", 400)),
        Figure(decoded, "ms", Aim("ours", "<", 250)),
        Figure(proven, "ms", Aim("ours", "<", 400)),
    ]
    await run.compare(figures, ours=ours, peer=peer)


async def _taken(run: Run, entries: int) -> None:
    """Copy on write: what taking costs (digest up to date), and the first and second edit of a
    document after it, which are a copy of the document apart.
    """
    taken = f"snapshot of {entries:,} entries, taken"
    first, second = "first edit of a document after it", "next edit of it"
    site = site_with(entries)
    site.shard.digest()

    def edit(number: int) -> float:
        begun = time.perf_counter()
        overlay = site.begin()
        Note.bind(overlay, document_id(Note, str(number))).f0 = "other"
        site.end(overlay)
        return time.perf_counter() - begun

    async def ours() -> dict[str, float]:
        edit(0)
        site.shard.digest()
        begun = time.perf_counter()
        snapshot = site.shard.snapshot()
        taking = time.perf_counter() - begun
        documents = range(1, min(200, entries // FIELDS))
        firsts = sum(map(edit, documents)) / len(documents)
        seconds = sum(map(edit, documents)) / len(documents)
        _check(len(snapshot.documents) == entries // FIELDS, "the snapshot")
        return {taken: 1e3 * taking, first: 1e6 * firsts, second: 1e6 * seconds}

    figures = [Figure(taken, "ms"), Figure(first, "µs"), Figure(second, "µs")]
    await run.compare(figures, ours=ours)


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise BenchmarkError(f"{what} is wrong: there is nothing to measure")
