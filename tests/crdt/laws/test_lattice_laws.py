"""The laws of the lattice, over random histories with every kind of operation and of author."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

from crdt.codec import encode_stamped
from crdt.ids import Dot, week_of
from crdt.lattice import Shard
from crdt.operation import Operation, decode_body, is_valid, void
from crdt.paths import TypeCode, leaf_code
from crdt.snapshot import decode_snapshot, encode_snapshot
from crdt.types.text import Insert, TextState
from simulations.specification import live_entries

from .law import law
from .places import DOCUMENTS, FEED, GUARDED, PLACES, PREFIXES, TEXT
from .world import (
    ALWAYS,
    KEY,
    OTHERS,
    PEERS,
    Script,
    Step,
    copy,
    known_upto,
    run,
    state,
    steps,
    visible,
)


def effective(told: dict[Dot, Operation]) -> dict[Dot, Operation]:
    """What counts for entries: void operations do nothing; of texts, which live elsewhere, only the
    generation counts.
    """
    found: dict[Dot, Operation] = {}
    for dot, each in told.items():
        if not is_valid(each):
            found[dot] = void(each.document)
        elif each.payload is not None and leaf_code(each.path) is TypeCode.TEXT:
            found[dot] = Operation(each.document, b"", None, (), each.generation)
        else:
            found[dot] = each
    return found


def entries_of(shard: Shard) -> dict[tuple[str, bytes], list[tuple[int, int, bytes]]]:
    return {
        (document, path): list(entries)
        for document, fields in shard.snapshot().entries.items()
        for path, entries in fields.items()
    }


@law(steps)
def test_state_is_a_function_of_the_set_of_operations(script: Script) -> None:
    """Also the proof that nothing is resurrected, and nothing lost: the specification knows no
    order and no joins.
    """
    for peer in run(script).peers:
        shard = peer.shard
        found = entries_of(shard)
        assert found == live_entries(effective(peer.told))
        assert shard.entry_count == sum(map(len, found.values()))
        assert shard.frontier == known_upto(peer.told, shard.floor)
        newest: dict[str, int] = {}
        for each in effective(peer.told).values():
            newest[each.document] = max(each.generation, newest.get(each.document, 0))
        assert shard.snapshot().generations == {d: g for d, g in newest.items() if g}


@law(steps)
def test_what_lies_below_a_prefix_is_what_begins_with_it(script: Script) -> None:
    for peer in run(script).peers:
        found = entries_of(peer.shard)
        for document in DOCUMENTS:
            for prefix in PREFIXES:
                below = dict(peer.shard.under(document, prefix))
                assert below == {
                    path: tuple(entries)
                    for (other, path), entries in found.items()
                    if other == document and path.startswith(prefix)
                }
            assert peer.shard.exists(document) == (document in set(peer.shard.documents()))


@law(steps)
def test_heads_are_what_no_other_frame_depends_on(script: Script) -> None:
    for peer in run(script).peers:
        frames = peer.known.values()
        depended = {
            (s, n)
            for each in frames
            for s, upto in each.context.items()
            for n in range(1, upto + 1)
        }
        heads = {(each.session, each.last) for each in frames} - depended
        open_ = {(s, n) for s, n in heads if week_of(s) >= peer.shard.floor}
        assert set(peer.shard.heads.items()) == open_


@law(steps)
def test_replicas_that_hear_everything_agree(script: Script) -> None:
    world = run(script)
    world.everyone_hears_everything()
    first, *others = (state(peer.shard) for peer in world.peers)
    for other in others:
        assert other == first
    assert all(peer.inbox.frames == 0 for peer in world.peers)
    assert all(peer.shard.conflicts == [] for peer in world.peers)


@law(steps)
def test_join_is_commutative_associative_and_idempotent(script: Script) -> None:
    a, b, c, _ = (peer.shard for peer in run(script).peers)
    ab, ba = copy(a), copy(b)
    ab.join(b.snapshot())
    ba.join(a.snapshot())
    assert state(ab) == state(ba)

    ab_c, bc = copy(ab), copy(b)
    bc.join(c.snapshot())
    a_bc = copy(a)
    ab_c.join(c.snapshot())
    a_bc.join(bc.snapshot())
    assert state(ab_c) == state(a_bc)

    before = state(ab_c)
    for other in (a, b, c, ab, bc, ab_c):
        assert ab_c.join(other.snapshot()) == set()
    assert state(ab_c) == before


@law(steps)
def test_joining_equals_applying(script: Script) -> None:
    first, second, *_ = run(script).peers
    joined = copy(first.shard)
    changed = joined.join(second.shard.snapshot())
    before = {each: first.shard.document_digest(each) for each in DOCUMENTS}
    assert joined.floor == max(first.shard.floor, second.shard.floor)
    assert joined.frontier == known_upto(first.told | second.told, joined.floor)
    second.tell(first, 0)
    first.shard.raise_floor(second.shard.floor)
    # What waited at the first may have come out besides.
    if first.shard.frontier == joined.frontier:
        assert state(joined) == state(first.shard)
    for each in DOCUMENTS:
        if before[each] != joined.document_digest(each):
            assert each in changed or not joined.exists(each)


@law(steps)
def test_duplicates_change_nothing(script: Script) -> None:
    for peer in run(script).peers:
        before = state(peer.shard)
        for (session, seq), operation in peer.told.items():
            peer.shard.apply(session, seq, operation)
        for frame in peer.known.values():
            if frame.body != b"\xc1":
                transactions = decode_body(frame.body)
                peer.shard.apply_transactions(frame.session, frame.first, transactions)
        assert state(peer.shard) == before
        assert peer.shard.conflicts == []


@law(st.tuples(steps, st.sets(st.integers(0, 40))))
def test_digests_are_equal_exactly_if_states_are(case: tuple[Script, set[int]]) -> None:
    """However often the digest was asked for on the way."""
    script, asked = case
    peers = run(script).peers
    shards = [peer.shard for peer in peers]
    replayed = Shard(KEY)
    for number, (dot, operation) in enumerate(peers[0].told.items()):
        replayed.apply(*dot, operation)
        if number in asked:
            replayed.digest()
    shards.append(replayed)
    seen = [visible(each, each.snapshot()) for each in shards]
    for left, seen_left in zip(shards, seen, strict=True):
        assert left.digest() == copy(left).digest()
        for right, seen_right in zip(shards, seen, strict=True):
            assert (left.digest() == right.digest()) == (seen_left == seen_right)
    assert Shard(b"another key").digest() == Shard(KEY).digest()  # nothing is nothing in every mesh


class Single(NamedTuple):
    """One operation, and which of its session's it is."""

    number: int
    document: str
    path: bytes
    payload: bytes | None
    generation: int = 0


singles = st.one_of(
    st.builds(
        lambda number, document, place, choice: Single(
            number, document, place.path, place.payload(choice)
        ),
        st.integers(1, 2),
        st.sampled_from(DOCUMENTS),
        st.sampled_from(PLACES[:2]),
        st.integers(0, 1),
    ),
    # Of texts and generations only what they are counts, not which operation said so.
    st.builds(
        lambda document, text: Single(1, document, TEXT, TextState().edit(1, [Insert(0, text)])),
        st.sampled_from(DOCUMENTS),
        st.sampled_from("ab"),
    ),
    st.builds(
        lambda document, generation: Single(1, document, b"", None, generation),
        st.sampled_from(DOCUMENTS),
        st.integers(1, 2),
    ),
)


@law(st.tuples(singles, singles))
def test_digests_tell_every_part(pair: tuple[Single, Single]) -> None:
    digests = []
    for number, document, path, payload, generation in pair:
        shard = Shard(KEY)
        for seq in range(1, number):
            shard.apply(1, seq, void(document))
        shard.apply(1, number, Operation(document, path, payload, (), generation))
        digests.append(shard.digest())
    assert (digests[0] == digests[1]) == (pair[0] == pair[1])


@law(steps)
def test_bodies_and_snapshots_carry_all_of_it(script: Script) -> None:
    for peer in run(script).peers:
        snapshot = peer.shard.snapshot()
        data = encode_snapshot(snapshot)
        read = decode_snapshot(data)
        assert read == snapshot
        fresh = Shard(KEY)
        fresh.join(read)
        assert state(fresh) == state(peer.shard)
        for frame in peer.known.values():
            if frame.body != b"\xc1":
                (transaction,) = decode_body(frame.body)
                for sent, received in zip(frame.operations, transaction.operations, strict=True):
                    assert received == (sent if is_valid(sent) else void(sent.document))


@law(steps)
def test_a_snapshot_never_changes(script: Script) -> None:
    """Whatever is written, joined or removed after it was taken."""
    world = run([*script, *(Step(who, "keep") for who in range(PEERS)), *script])
    world.everyone_hears_everything()
    for peer in world.peers:
        for kept in peer.kept:
            assert kept.snapshot.entries == kept.entries
            fresh = Shard(KEY)
            fresh.join(kept.snapshot)
            assert fresh.digest() == kept.digest == kept.snapshot.digest


@law(st.tuples(steps, st.integers(1, 2**40 - 1)))
def test_of_two_payloads_under_one_dot_the_larger_stays(case: tuple[Script, int]) -> None:
    """On every path by which they meet. Where a verdict hangs on the payload, the operations that
    remove differ, too: such places are left out.
    """
    script, mask = case
    (peer, *_) = run(
        [each for each in script if each.what in ("write", "blind", "below", "tell")]
    ).peers
    told = {dot: plainly(each) for dot, each in peer.told.items()}
    twins = {
        dot: each._replace(payload=encode_stamped(3, number))
        if mask >> number % 40 & 1 and each.path == FEED and each.payload is not None
        else each
        for number, (dot, each) in enumerate(told.items())
    }
    ours, theirs = replay(told), replay(twins)
    joined = [copy(ours), copy(theirs), copy(ours), copy(theirs)]
    joined[0].join(theirs.snapshot())
    joined[1].join(ours.snapshot())
    for dot in told:
        joined[2].apply(*dot, twins[dot])
        joined[3].apply(*dot, told[dot])
    larger = {d: max(told[d], twins[d], key=lambda each: each.payload or b"") for d in told}
    for each in joined:
        assert entries_of(each) == live_entries(larger)
        assert each.digest() == joined[0].digest() == replay(larger).digest()
        different = {(FEED, dot) for dot in told if told[dot] != twins[dot]}
        live = {(path, e[:2]) for (_, path), es in entries_of(each).items() for e in es}
        assert {(path, dot) for _, path, dot in each.conflicts} == different & live


def plainly(operation: Operation) -> Operation:
    """The operation, moved to the feed if it is an assignment."""
    if operation.payload is None:
        return operation
    removals = tuple(each for each in operation.removals if each.path == FEED)
    return operation._replace(path=FEED, payload=encode_stamped(2, "told"), removals=removals)


def replay(told: dict[Dot, Operation]) -> Shard:
    shard = Shard(KEY)
    for dot, operation in told.items():
        shard.apply(*dot, operation)
    return shard


def test_the_runs_reach_what_they_are_about() -> None:
    """Guards the generator: every kind of step takes effect, every place is written to."""
    script = [Step(0, "write", place, 3) for place in range(len(PLACES))]
    others = (*ALWAYS[1:], *OTHERS)
    for what in others:
        script += [Step(0, what, 0, choice) for choice in range(8)] + [Step(0, "tell")]
    script += [Step(0, "write", place, 3) for place in range(len(PLACES))]
    world = run(script)
    assert len(world.peers[1].known) > 3
    told = world.peers[0].told.values()
    assert {each.path for each in told} >= {place.path for place in PLACES}
    assert any(not is_valid(each) for each in told)
    assert max(each.generation for each in told) > 5
    assert GUARDED[0].path in {path for _, path in entries_of(world.peers[0].shard)}
    assert world.peers[0].shard.floor == world.week > 2
