"""Bodies, snapshots, values, paths and payloads, and what accepting one promises."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from random import Random
from typing import Any, Final

from crdt.access import ShardView
from crdt.codec import decode, decode_stored, encode
from crdt.document import document_id
from crdt.errors import CodecError
from crdt.ids import new_session
from crdt.lattice import Shard
from crdt.operation import (
    Operation,
    Removal,
    Transaction,
    decode_body,
    encode_body,
    is_valid,
    operation_count,
)
from crdt.paths import ParsedPath, parse_path
from crdt.snapshot import ShardSnapshot, decode_snapshot, encode_chunks, encode_snapshot
from crdt.structure import unpack
from crdt.types.rules import path_rule, valid_assignment
from simulations.sites import START_MS
from tests.crdt.fuzz.corpus import NAMES, Everything, corpus
from tests.crdt.fuzz.mutate import mutated
from tests.crdt.fuzz.verdict import Outcome, expect
from tests.crdt.fuzz.yrs_targets import parts

KEY: Final = b"key"
HOSTILE: Final = new_session(START_MS, 666)
BASES: Final = 6


@functools.cache
def bases() -> list[ShardSnapshot]:
    """States that honest replicas have."""
    return [
        decode_snapshot(data) for data in corpus().snapshots[:: len(corpus().snapshots) // BASES]
    ]


def based(base: int) -> Shard:
    """A new shard in one of these states; -1: an empty one."""
    shard = Shard(KEY)
    if base >= 0:
        shard.join(bases()[base])
    return shard


def _mutated(random: Random, samples: Sequence[bytes]) -> bytes:
    return mutated(random, random.choice(samples), samples)


# ------------------------------------------------------------------------------ values and paths


def make_value(random: Random) -> tuple[bytes, Any]:
    return _mutated(random, corpus().values), None


def check_value(data: bytes, _: Any) -> Outcome:
    """An accepted value has this one encoding."""
    try:
        value = decode(data)
    except CodecError:
        return Outcome.REFUSED
    expect(encode(value) == data, "a value with another encoding")
    expect(encode(decode_stored(data)) == data, "a value that reads back as another one")
    return Outcome.ACCEPTED


def make_structure(random: Random) -> tuple[bytes, Any]:
    samples = random.choice((corpus().values, corpus().bodies))
    return _mutated(random, samples), random.choice((None, 4, 64))


def check_structure(data: bytes, max_items: int | None) -> Outcome:
    """An accepted structure has containers of lists only, and no more items than allowed."""
    try:
        found = unpack(data, max_items=max_items)
    except CodecError:
        return Outcome.REFUSED
    open_ = [found]
    while open_:
        node = open_.pop()
        expect(type(node) is not list, "a list that can be changed")
        if isinstance(node, tuple | dict):
            expect(len(node) <= (max_items or len(data)), "too many items")
            open_ += [*node, *node.values()] if isinstance(node, dict) else node
    return Outcome.ACCEPTED


def make_path(random: Random) -> tuple[bytes, Any]:
    paths = [path for path, _ in corpus().payloads]
    return _mutated(random, paths), None


def check_path(data: bytes, _: Any) -> Outcome:
    """An accepted path is its components, and all it lies in are paths."""
    try:
        parsed: ParsedPath = parse_path(data)
    except CodecError:
        return Outcome.REFUSED
    rebuilt = b""
    for key, code in parsed.components:
        expect(encode(decode(key)) == key, "a key that is not canonical")
        rebuilt += key + (b"" if code is None else bytes((code,)))
    expect(rebuilt == data, "a path that is not its components")
    for prefix in parsed.prefixes:
        expect(data.startswith(prefix) and prefix != data, "a prefix that is none")
        parse_path(prefix)
    path_rule(data)
    return Outcome.ACCEPTED


def make_payload(random: Random) -> tuple[bytes, Any]:
    payloads = corpus().payloads
    path, payload = random.choice(payloads)
    if random.random() < 0.2:
        path = mutated(random, path, [each for each, _ in payloads])
    data = mutated(random, payload, [each for _, each in payloads])
    return data, (path, random.randrange(BASES), random.choice(NAMES))


def check_payload(data: bytes, context: Any) -> Outcome:
    """What is accepted at a path can be read through the type that lies there."""
    path, base, name = context
    document = document_id(Everything, name)
    accepted = valid_assignment(path, data)
    operation = Operation(document, path, data)
    expect(is_valid(operation) == accepted, "two verdicts about one assignment")
    if not accepted:
        return Outcome.REFUSED
    shard = based(base)
    shard.apply(HOSTILE, 1, operation)
    _expect_readable(shard)
    return _expect_saved(shard)


# --------------------------------------------------------------------------------------- bodies


def make_body(random: Random) -> tuple[bytes, Any]:
    base = random.randrange(-1, BASES)
    if random.random() < 0.25:
        operations = [_operation(random, base) for _ in range(random.choice((1, 2, 5, 20)))]
        return encode_body([Transaction("t", "a", START_MS << 16, "", tuple(operations))]), base
    return _mutated(random, corpus().bodies), base


def _operation(random: Random, base: int) -> Operation:
    """One that is well formed and that no honest author would write."""
    payloads = corpus().payloads
    path, payload = random.choice(payloads)
    document = document_id(Everything, random.choice(NAMES))
    removals = tuple(_removal(random, base, path) for _ in range(random.choice((0, 0, 1, 1, 2))))
    if removals and random.random() < 0.3:
        return Operation(document, path, None, removals, random.choice((0, 0, 1, 2)))
    if random.random() < 0.1:
        payload = random.choice(payloads)[1]
    return Operation(document, path, payload, removals, random.choice((0, 0, 0, 0, 1, 2)))


def _removal(random: Random, base: int, path: bytes) -> Removal:
    sessions = [HOSTILE, *(bases()[base].frontier if base >= 0 else ())]
    chosen = sorted(random.sample(sessions, random.randrange(1, len(sessions) + 1)))
    seen = tuple((session, random.randrange(1, 40)) for session in chosen)
    if random.random() < 0.3:
        whole = (b"", *parse_path(path).prefixes, path)
        return Removal(random.choice(whole), True, seen)
    target = path if random.random() < 0.6 else random.choice(corpus().payloads)[0]
    return Removal(target, False, seen)


def check_body(data: bytes, base: int) -> Outcome:
    """An accepted body encodes to itself, applies once, and leaves a state that can be saved."""
    try:
        transactions = decode_body(data)
    except CodecError:
        return Outcome.REFUSED
    expect(decode_body(encode_body(transactions)) == transactions, "a body that reads as another")
    shard = based(base)
    shard.apply_transactions(HOSTILE, 1, transactions)
    expect(shard.frontier.get(HOSTILE, 0) == operation_count(transactions), "a seq was lost")
    digest = shard.digest()
    shard.apply_transactions(HOSTILE, 1, transactions)
    expect(shard.digest() == digest and not shard.conflicts, "applied twice changes something")
    slow = based(base)
    operations = [each for transaction in transactions for each in transaction.operations]
    for seq, operation in enumerate(operations, 1):
        slow.apply(HOSTILE, seq, operation)
    expect(slow.digest() == digest, "proven operations do something else than when proven again")
    _expect_readable(shard)
    return _expect_saved(shard)


def _expect_readable(shard: Shard) -> None:
    view = ShardView(shard)
    for document in list(shard.documents("Everything")):
        handle = Everything.bind(view, document)
        handle.snapshot()
        handle.undeclared()
        repr(handle)
        handle.history_of("title")


def _expect_saved(shard: Shard) -> Outcome:
    """Its snapshot is accepted, and a replica that starts from it has the same state."""
    try:
        read = decode_snapshot(encode_snapshot(shard.snapshot()))
        other = Shard(KEY)
        other.join(read)
    except CodecError as error:
        expect(False, f"accepted, but the state does not load: {error}")
        raise
    return _expect_same(shard, other, "a state that was saved")


def _expect_same(shard: Shard, other: Shard, what: str, *, texts: bool = True) -> Outcome:
    mine, theirs = shard.snapshot(), other.snapshot()
    expect(mine.floor == theirs.floor, f"{what} has another floor")
    expect(mine.frontier == theirs.frontier, f"{what} has another frontier")
    expect(mine.heads == theirs.heads, f"{what} has other heads")
    expect(mine.generations == theirs.generations, f"{what} has other generations")
    expect(mine.documents == theirs.documents, f"{what} has other entries")
    expect(shard.entry_count == other.entry_count, f"{what} counts other entries")
    if mine.digest == theirs.digest:
        return Outcome.ACCEPTED
    if not texts:
        return Outcome.REORDERED
    for document in mine.texts.keys() | theirs.texts.keys():
        for path in {*shard.text_paths(document), *other.text_paths(document)}:
            one, two = shard.text(document, path), other.text(document, path)
            parts = [sorted(parts(each)) if each is not None else [] for each in (one, two)]
            expect(parts[0] == parts[1], f"{what} shows another text")
    return Outcome.REORDERED


# ------------------------------------------------------------------------------------- snapshots


def make_snapshot(random: Random) -> tuple[bytes, Any]:
    return _mutated(random, corpus().snapshots), (
        random.choice((0, 0, 1, 7, 300)),
        random.randrange(BASES),
    )


def check_snapshot(data: bytes, context: Any) -> Outcome:
    """An accepted snapshot joins, alone and with others, in either order, and saves as itself."""
    chunk, base = context
    chunks = [data[at : at + chunk] for at in range(0, len(data), chunk)] if chunk else data
    empty = Shard(KEY)
    try:
        snapshot = decode_snapshot(chunks)
    except CodecError:
        return Outcome.REFUSED
    try:
        empty.join(snapshot)
    except CodecError:
        expect(empty.snapshot() == Shard(KEY).snapshot(), "refused, and something changed")
        return Outcome.REFUSED
    held = empty.snapshot()
    for part in ("floor", "frontier", "heads", "documents", "generations"):
        expect(getattr(held, part) == getattr(snapshot, part), f"joined with other {part}")
    expect(b"".join(encode_chunks(held)) == encode_snapshot(held), "chunks of something else")
    expect(not empty.join(snapshot), "joined twice changes something")
    outcome = _expect_saved(empty)
    _expect_readable(empty)
    return max(outcome, _expect_commutes(snapshot, base))


def _expect_commutes(snapshot: ShardSnapshot, base: int) -> Outcome:
    """Honest state and this one: whoever comes first, the same entries come out. Texts of a
    session that says one thing here and another there don't join.
    """
    one, other = based(base), Shard(KEY)
    before = one.snapshot()
    other.join(snapshot)
    refused = []
    for shard, second in ((one, snapshot), (other, bases()[base])):
        try:
            shard.join(second)
        except CodecError:
            refused.append(shard)
    if refused:
        expect(len(refused) == 2, "joined in one order only")
        expect(one.snapshot() == before, "refused, and something changed")
        return Outcome.ACCEPTED
    return _expect_same(one, other, "a join in the other order", texts=False)
