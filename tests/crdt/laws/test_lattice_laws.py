"""The laws of the lattice, over random histories of three replicas with every kind of operation."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from crdt.lattice import Shard
from crdt.operation import Operation, Transaction, decode_body, encode_body, is_valid, void
from crdt.paths import TypeCode, leaf_code
from crdt.snapshot import decode_snapshot, encode_snapshot
from simulations.specification import live_entries

from .world import DOCUMENTS, KEY, Peer, Told, copy, run, state, steps

many = settings(max_examples=150)


def effective(told: dict[tuple[int, int], Told]) -> dict[tuple[int, int], Operation]:
    """What counts for entries: void operations do nothing, texts live elsewhere."""
    return {
        dot: one.operation if is_valid(one.operation) else void(one.operation.document)
        for dot, one in told.items()
        if not (
            one.operation.payload is not None and leaf_code(one.operation.path) is TypeCode.TEXT
        )
    }


@many
@given(steps)
def test_state_is_a_function_of_the_set_of_operations(
    script: list[tuple[int, int, int, int]],
) -> None:
    """Also the proof that nothing is resurrected: the specification knows no order and no joins."""
    for peer in run(script):
        snapshot = peer.shard.snapshot()
        found = {
            (document, path): list(entries)
            for document, fields in snapshot.entries.items()
            for path, entries in fields.items()
        }
        assert found == live_entries(effective(peer.told))
        assert peer.shard.entry_count == sum(map(len, found.values()))


@many
@given(steps)
def test_heads_are_what_no_other_frame_depends_on(script: list[tuple[int, int, int, int]]) -> None:
    for peer in run(script):
        told = peer.told.values()
        depended = {
            (s, n) for one in told for s, upto in one.context.items() for n in range(1, upto + 1)
        }
        assert set(peer.shard.heads.items()) == set(peer.told) - depended


@many
@given(steps)
def test_replicas_that_hear_everything_agree(script: list[tuple[int, int, int, int]]) -> None:
    world = run(script)
    for peer in world:
        for other in world:
            peer.hear(other, backwards=peer.session % 2 == 0)
    states = [state(peer.shard) for peer in world]
    assert states[0] == states[1] == states[2]


@many
@given(steps)
def test_join_is_commutative_associative_and_idempotent(
    script: list[tuple[int, int, int, int]],
) -> None:
    a, b, c = (peer.shard for peer in run(script))
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


@many
@given(steps)
def test_joining_equals_applying(script: list[tuple[int, int, int, int]]) -> None:
    first, second, _ = run(script)
    joined = copy(first.shard)
    changed = joined.join(second.shard.snapshot())
    before = {each: first.shard.document_digest(each) for each in DOCUMENTS}
    first.hear(second, backwards=False)
    assert state(joined) == state(first.shard)
    assert {each for each in DOCUMENTS if before[each] != joined.document_digest(each)} <= changed


@many
@given(steps)
def test_duplicates_change_nothing(script: list[tuple[int, int, int, int]]) -> None:
    for peer in run(script):
        before = state(peer.shard)
        for one in peer.told.values():
            peer.shard.apply(*one.dot, one.operation)
        assert state(peer.shard) == before
        assert peer.shard.conflicts == []


@many
@given(steps, st.sets(st.integers(0, 40)))
def test_digests_are_equal_exactly_if_states_are(
    script: list[tuple[int, int, int, int]], asked: set[int]
) -> None:
    """However often the digest was asked for on the way."""
    world = run(script)
    shards = [peer.shard for peer in world]
    replayed = Shard(KEY)
    for number, (dot, one) in enumerate(world[0].told.items()):
        replayed.apply(*dot, one.operation)
        if number in asked:
            replayed.digest()
    shards.append(replayed)
    visible = [(state(each)["entries"], state(each)["texts"]) for each in shards]
    for left, seen_left in zip(shards, visible, strict=True):
        assert left.digest() == copy(left).digest()
        for right, seen_right in zip(shards, visible, strict=True):
            assert (left.digest() == right.digest()) == (seen_left == seen_right)
    assert Shard(b"another key").digest() == Shard(KEY).digest()  # nothing is nothing in every mesh


@many
@given(steps)
def test_bodies_and_snapshots_carry_all_of_it(script: list[tuple[int, int, int, int]]) -> None:
    for peer in run(script):
        received = Shard(KEY)
        for (session, seq), one in peer.told.items():
            body = encode_body([Transaction("edit", "a", seq, "", (one.operation,))])
            received.apply_transactions(session, seq, decode_body(body))
            received.frame_applied(session, seq, seq, one.deps)
        assert state(received) == state(peer.shard)
        snapshot = peer.shard.snapshot()
        assert decode_snapshot(encode_snapshot(snapshot)) == snapshot


def test_the_runs_reach_what_they_are_about() -> None:
    """Guards the generator: one script in which every kind of step takes effect."""
    script = [(0, 8, n, 0) for n in range(6)] + [
        (1, 6, 0, 1),
        (1, 0, 1, 0),
        (0, 8, 4, 0),
        (0, 2, 1, 0),
    ]
    script += [(0, 3, 0, 0), (2, 7, 0, 0), (2, 4, 0, 0), (0, 6, 1, 0), (2, 7, 0, 1), (1, 1, 0, 0)]
    world: list[Peer] = run([(w, k, p, o) for w, k, p, o in script])
    assert [len(peer.told) for peer in world] != [0, 0, 0]
    assert any(not is_valid(one.operation) for one in world[0].told.values())
    assert world[0].shard.text(DOCUMENTS[0], b"\xa1t\x0c") is not None
