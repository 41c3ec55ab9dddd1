"""Overlay and commit: an edit reads what it wrote, and is part of the shard as a whole or not at
all.
"""

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdt import (
    Counter,
    Decided,
    Document,
    EditMisuse,
    Feed,
    Flag,
    InvalidValue,
    Keep,
    Map,
    OutOfBounds,
    ReadOnly,
    Register,
    Set,
    Text,
)
from crdt.access import Access, Overlay, ShardView, commit
from crdt.document import create_document, delete_document
from crdt.ids import week_of
from crdt.lattice import Shard
from crdt.limits import MAX_OPERATIONS
from crdt.operation import Operation, Removal
from crdt.types.text import Insert
from simulations.sites import Site, exchange


class Thing(Document):
    title: Register[int]
    on: Flag
    total: Counter
    labels: Set[int]
    votes: Map[int, Counter]
    names: Map[int, Register[int]]
    deep: Map[int, Map[int, Set[int]]]
    logs: Map[int, Feed[int]]
    log: Feed[int]
    last: Annotated[Feed[int], Keep(2)]
    text: Text
    state: Decided[int]


def test_nothing_reaches_the_shard_before_commit_and_all_of_it_after() -> None:
    site = Site(1)
    overlay = site.overlay()
    thing = Thing.bind(overlay, "Thing/1")
    thing.title = 1
    thing.labels.add(1)
    thing.text.append("x")
    assert overlay.documents == {"Thing/1"}
    assert len(overlay.operations) == 2
    assert overlay.texts == {("Thing/1", Thing.text.path): (Insert(0, "x"),)}
    assert repr(overlay) == "<Overlay open, 2 operations, 1 texts>"
    assert site.shard.frontier == {}
    assert not site.shard.exists("Thing/1")
    transaction = commit(site.shard, overlay, "made", "me", "because")
    assert transaction is not None
    assert transaction[:2] == ("made", "me")
    assert transaction.caused_by == "because"
    assert transaction.stamp > 0
    assert len(transaction.operations) == 3
    assert site.shard.frontier == {site.session: 3}
    assert repr(overlay) == "<Overlay ended, 2 operations, 1 texts>"


def test_an_empty_overlay_commits_to_nothing() -> None:
    site = Site(1)
    overlay = site.overlay()
    thing = Thing.bind(overlay, "Thing/1")
    thing.labels.discard(3)
    thing.text.append("")
    assert commit(site.shard, overlay, "t", "a", "") is None
    assert overlay.closed
    assert site.shard.frontier == {}


def test_dots_are_those_predicted() -> None:
    site = Site(1)
    with site.edit(Thing) as thing:
        thing.title = 0
    overlay = site.overlay()
    thing = Thing.bind(overlay, "Thing/1")
    thing.log.extend([1, 2])
    thing.title = 3
    inside = {path: entries for path, entries in overlay.under("Thing/1", b"")}  # noqa: C416
    site.commit(overlay)
    assert inside == dict(site.shard.under("Thing/1", b""))


def test_after_its_end_every_use_is_refused() -> None:
    site = Site(1)
    overlay = site.overlay()
    thing = Thing.bind(overlay, "Thing/1")
    labels, log, text, votes = thing.labels, thing.log, thing.text, thing.votes
    overlay.close()
    assert not overlay.writable
    uses: list[Callable[[], object]] = [
        lambda: thing.title,
        thing.snapshot,
        lambda: setattr(thing, "title", 1),
        lambda: labels.add(1),
        lambda: list(labels),
        lambda: log.append(1),
        lambda: len(log),
        lambda: text.append("x"),
        lambda: str(text),
        lambda: votes[1],
        lambda: list(votes),
        overlay.stamp,
        lambda: overlay.removal("Thing/1", b"", prefix=True),
        lambda: overlay.edit_text("Thing/1", Thing.text.path, Insert(0, "x")),
        lambda: create_document(overlay, Thing, "Thing/1"),
    ]
    for use in uses:
        with pytest.raises(ReadOnly, match="the edit has ended"):
            use()


def test_commit_refuses_before_anything_is_changed() -> None:
    site, other = Site(1), Site(2)
    overlay = site.overlay()
    Thing.bind(overlay, "Thing/1").title = 1
    with pytest.raises(EditMisuse, match="another shard"):
        commit(other.shard, overlay, "t", "a", "")
    with pytest.raises(InvalidValue, match="label of more than 256 bytes"):
        commit(site.shard, overlay, "t" * 257, "a", "")
    with pytest.raises(InvalidValue, match="str as type, actor"):
        commit(site.shard, overlay, "t", 1, "")  # type: ignore[arg-type]
    with site.edit(Thing) as thing:
        thing.title = 2
    with pytest.raises(EditMisuse, match="another edit of this session"):
        commit(site.shard, overlay, "t", "a", "")
    overlay.close()
    with pytest.raises(EditMisuse, match="ended already"):
        commit(site.shard, overlay, "t", "a", "")
    assert site.shard.frontier == {site.session: 1}


def test_a_closed_session_writes_no_more() -> None:
    site = Site(1)
    overlay = site.overlay()
    thing = Thing.bind(overlay, "Thing/1")
    thing.text.append("x")
    site.shard.raise_floor(week_of(site.session) + 1)
    with pytest.raises(EditMisuse, match="closed by the mesh"):
        site.commit(overlay)
    assert not site.shard.exists("Thing/1")


def test_what_receivers_would_find_void_is_not_committed() -> None:
    site = Site(1)
    overlay = site.overlay()
    overlay.write("Thing/1", Thing.title.path, b"\x00")
    with pytest.raises(InvalidValue, match="not valid there"):
        site.commit(overlay)
    assert site.shard.frontier == {}


def test_what_no_frame_can_carry_is_not_committed() -> None:
    site = Site(1)
    overlay = site.overlay()
    thing = Thing.bind(overlay, "Thing/1")
    for number in range(MAX_OPERATIONS):
        thing.labels.add(number)
    thing.text.append("one too many")
    with pytest.raises(OutOfBounds, match="operations in one transaction"):
        site.commit(overlay)
    big = site.overlay()

    class Heavy(Document):
        blobs: Map[int, Register[bytes]]

    heavy = Heavy.bind(big, "Heavy/1")
    for number in range(9):
        heavy.blobs[number] = bytes(1_000_000)
    with pytest.raises(OutOfBounds, match="split it"):
        site.commit(big)
    assert site.shard.frontier == {}


def test_several_documents_and_several_types_in_one_transaction() -> None:
    site, other = Site(1), Site(2)
    overlay = site.overlay()
    for name in ("a", "b"):
        thing = Thing.bind(overlay, f"Thing/{{t}}/{name}")
        thing.title = 1
        thing.text.append(name)
    transaction = site.commit(overlay)
    assert transaction is not None
    assert [operation.document for operation in transaction.operations] == [
        f"Thing/{{t}}/{name}" for name in "abab"
    ]
    site.send(other)
    assert other.view(Thing, "{t}/b").text == "b"
    assert other.shard.digest() == site.shard.digest()


def test_removals_name_the_authors_frontier_of_live_sessions_only() -> None:
    first, second = Site(1), Site(2)
    with first.edit(Thing) as thing:
        thing.title = 1
        thing.total += 1
        thing.labels |= {1, 2}
    exchange(first, second)
    with second.edit(Thing) as thing:
        thing.labels.add(3)
    overlay = second.overlay()
    thing = Thing.bind(overlay, "Thing/1")
    thing.title = 2
    thing.labels.clear()
    title, clear = overlay.operations
    assert title.removals == (Removal(Thing.title.path, False, ((first.session, 4),)),)
    assert clear == Operation(
        "Thing/1",
        Thing.labels.path,
        None,
        (Removal(Thing.labels.path, True, ((first.session, 4), (second.session, 2))),),
    )


def test_views_and_overlays_are_accesses() -> None:
    site = Site(1)
    accesses: list[Access] = [ShardView(site.shard), site.overlay()]
    assert [access.writable for access in accesses] == [False, True]
    assert [access.session for access in accesses] == [0, site.session]
    view = accesses[0]
    for use in (
        lambda: view.write("Thing/1", b"", None),
        lambda: view.replace("Thing/1", b"", b""),
        lambda: view.edit_text("Thing/1", b"", Insert(0, "x")),
        lambda: view.removal("Thing/1", b""),
        view.stamp,
    ):
        with pytest.raises(ReadOnly):
            use()


small = st.integers(0, 2)
STEPS: dict[str, Callable[[Thing, int, int], Any]] = {
    "title": lambda thing, a, b: setattr(thing, "title", a),
    "clear title": lambda thing, a, b: delattr(thing, "title"),
    "on": lambda thing, a, b: setattr(thing, "on", bool(a)),
    "total": lambda thing, a, b: setattr(thing, "total", thing.total + a - b),
    "add": lambda thing, a, b: thing.labels.add(a),
    "discard": lambda thing, a, b: thing.labels.discard(a),
    "clear": lambda thing, a, b: thing.labels.clear(),
    "vote": lambda thing, a, b: thing.votes.update({a: thing.votes[a] + b}),
    "unvote": lambda thing, a, b: thing.votes.discard(a),
    "name": lambda thing, a, b: thing.names.update({a: b}),
    "unname": lambda thing, a, b: thing.names.clear(),
    "deep": lambda thing, a, b: thing.deep[a][b].add(a),
    "create": lambda thing, a, b: thing.deep[a].create(b),
    "undeep": lambda thing, a, b: thing.deep.discard(a),
    "undeeper": lambda thing, a, b: thing.deep[a].discard(b),
    "log in map": lambda thing, a, b: thing.logs[a].append(b),
    "unlog": lambda thing, a, b: thing.logs.discard(a),
    "log": lambda thing, a, b: thing.log.append(a),
    "last": lambda thing, a, b: thing.last.append(a),
    "text": lambda thing, a, b: thing.text.insert(min(a, len(thing.text)), "ä€𝄞"[b]),
    "cut": lambda thing, a, b: thing.text.delete(0, min(a, len(thing.text))),
    "decide": lambda thing, a, b: thing.state.decide(a + 1, b),
    "delete": lambda thing, a, b: delete_document(thing._access, Thing, thing.id),
}
step = st.tuples(st.sampled_from(sorted(STEPS)), small, small)
program = st.lists(
    st.tuples(st.integers(0, 2), st.lists(step, max_size=6), st.booleans()), max_size=8
)


@given(program)
@settings(max_examples=150, deadline=None)
def test_an_edit_reads_as_it_will_be_and_all_replicas_agree(
    edits: list[tuple[int, list[tuple[str, int, int]], bool]],
) -> None:
    sites = [Site(number) for number in (1, 2, 3)]
    log: list[tuple[Site, int, Any]] = []
    for number, steps, learn in edits:
        site = sites[number]
        if learn:
            site.shard.join(sites[number - 1].shard.snapshot())
        overlay = site.overlay()
        thing = Thing.bind(overlay, "Thing/1")
        for name, a, b in steps:
            STEPS[name](thing, a, b)
        inside = thing.snapshot()
        live = {path: entries for path, entries in overlay.under("Thing/1", b"")}  # noqa: C416
        transaction = site.commit(overlay)
        assert site.view(Thing).snapshot() == inside
        assert dict(site.shard.under("Thing/1", b"")) == live
        if transaction is not None:
            log.append((site, overlay.base + 1, transaction))
    # The order of writing is a causal one; applying operation by operation is the same as joining.
    witness = Shard(b"key")
    for site, first, transaction in log:
        for seq, operation in enumerate(transaction.operations, first):
            witness.apply(site.session, seq, operation)
    exchange(*sites)
    assert witness.digest() == sites[0].shard.digest()
    view = Thing.bind(ShardView(witness), "Thing/1").snapshot()
    assert all(site.view(Thing).snapshot() == view for site in sites)


def test_overlays_do_not_see_each_other() -> None:
    site = Site(1)
    first = Overlay(site.shard, site.session, site.clock)
    second = Overlay(site.shard, site.session, site.clock)
    Thing.bind(first, "Thing/1").title = 1
    assert Thing.bind(second, "Thing/1").title is None
