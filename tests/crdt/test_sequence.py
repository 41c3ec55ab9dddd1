"""Sequence: a list that others edit too; the specification's meaning on every replica."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdt import (
    CodecError,
    Cursor,
    Document,
    EditMisuse,
    InvalidValue,
    Map,
    OutOfBounds,
    ReadOnly,
    SchemaError,
    Sequence,
    Text,
)
from crdt.access import ShardView
from crdt.operation import Operation
from crdt.plain import plain_document
from crdt.types.sequence_state import MAX_INSERTED_SLOTS, InsertSlots, SequenceState
from crdt.types.slots import Slots, make_slot, parse_slot
from crdt.types.text import Delete
from crdt.types.yrs_state import MAX_INSERTED_BYTES
from simulations.sites import START_MS, Site, exchange
from simulations.specification import Event, sequence, text


class Plan(Document):
    steps: Sequence[str]
    notes: Text
    any: Sequence[Any]


def site_with(*steps: str) -> Site:
    site = Site(1)
    with site.edit(Plan) as plan:
        plan.steps.extend(steps)
    return site


def test_behaves_like_a_list() -> None:
    site, expected = Site(1), ["a", "b", "c"]
    with site.edit(Plan) as plan:
        assert plan.steps == []
        plan.steps.extend(expected)
        plan.steps += ["d"]
        plan.steps.insert(0, "0")
        plan.steps.insert(-1, "c2")
        plan.steps[1] = "A"
        plan.steps[-1] = "D"
        assert plan.steps == ["0", "A", "b", "c", "c2", "D"]
        assert plan.steps.pop() == "D"
        assert plan.steps.pop(0) == "0"
        plan.steps.remove("b")
        del plan.steps[-1]
        plan.steps.append("e")
    steps = site.view(Plan).steps
    assert list(steps) == ["A", "c", "e"]
    assert steps == ("A", "c", "e") != site.view(Plan).any
    assert (len(steps), steps[0], steps[-1], steps[1:], steps[::2]) == (
        3, "A", "e", ["c", "e"], ["A", "e"],
    )  # fmt: skip
    assert (steps.index("c"), steps.count("e"), "c" in steps, "x" in steps) == (1, 1, True, False)
    assert repr(steps) == "['A', 'c', 'e']"
    assert site.view(Plan).snapshot()["steps"] == ["A", "c", "e"]
    assert plain_document(site.shard, "Plan/1")["steps"] == ["A", "c", "e"]
    assert site.operations() == 1
    with site.edit(Plan) as plan:
        plan.steps[1:] = ["x", "y", "z"]
        del plan.steps[::2]
        assert plan.steps == ["x", "z"]
        plan.steps.reverse()
        assert plan.steps == ["z", "x"]
        plan.steps.clear()
    assert site.view(Plan).steps == []
    assert not site.shard.exists("Plan/1")


def test_values_keep_their_types_and_are_compared_by_them() -> None:
    values = [1, True, 1.0, "1", b"1", None, [1, {"k": [2.5]}], -(10**30), 10**30]
    site = Site(1)
    with site.edit(Plan) as plan:
        plan.any.extend(values)
    found = site.view(Plan).any
    assert repr(list(found)) == repr(values)
    assert (found.index(True), found.index(1.0), found.count(1)) == (1, 2, 1)
    found[6].append("mine")
    assert found[6] == [1, {"k": [2.5]}]


@pytest.mark.parametrize("source", range(-4, 4))
@pytest.mark.parametrize("target", range(-4, 4))
def test_a_moved_element_ends_up_where_it_was_told(source: int, target: int) -> None:
    expected = ["a", "b", "c", "d"]
    expected.insert(target % 4, expected.pop(source))
    site = site_with("a", "b", "c", "d")
    with site.edit(Plan) as plan:
        plan.steps.move(source, target)
        assert plan.steps == expected
    assert site.view(Plan).steps == expected


def test_of_concurrent_moves_and_replacements_the_later_wins_whole() -> None:
    first, second = site_with("a", "b", "c"), Site(2)
    exchange(first, second)
    with first.edit(Plan) as plan:
        plan.steps.move(0, 2)
    second.wall_ms += 1
    with second.edit(Plan) as plan:
        plan.steps[0] = "A"
    exchange(first, second)
    assert first.view(Plan).steps == second.view(Plan).steps == ["A", "b", "c"]
    # The slot that lost is gone with the next write that has seen it.
    slots = ShardView(first.shard).slots("Plan/1", Plan.steps.path)
    assert (len(slots), slots.shown_count) == (4, 3)
    with first.edit(Plan) as plan:
        plan.steps.move(0, 1)
        plan.steps.append("d")
    slots = ShardView(first.shard).slots("Plan/1", Plan.steps.path)
    assert (len(slots), slots.shown_count) == (4, 4)
    assert first.view(Plan).steps == ["b", "A", "c", "d"]


def test_a_clock_that_lags_still_wins_over_what_its_writer_had_seen() -> None:
    first, second = site_with("a", "b"), Site(2, START_MS - 3_600_000)
    exchange(first, second)
    with second.edit(Plan) as plan:
        plan.steps[0] = "A"
    exchange(first, second)
    assert first.view(Plan).steps == ["A", "b"]


def test_deleted_and_moved_at_once_stays() -> None:
    first, second = site_with("a", "b", "c"), Site(2)
    exchange(first, second)
    with first.edit(Plan) as plan:
        plan.steps.clear()
    with second.edit(Plan) as plan:
        plan.steps.move(2, 0)
        plan.steps[1] = "A"
    exchange(first, second)
    assert first.view(Plan).steps == ["c", "A"]


def test_a_cursor_keeps_its_place() -> None:
    first, second = site_with("a", "b", "c"), Site(2)
    exchange(first, second)
    steps = first.view(Plan).steps
    cursors = [Cursor.decode(bytes(steps.cursor(index, before=side)))
               for index in range(4) for side in (False, True)]  # fmt: skip
    assert [steps.position(each) for each in cursors] == [0, 0, 1, 1, 2, 2, 3, 3]
    with second.edit(Plan) as plan:
        plan.steps.insert(1, "x")
        del plan.steps[2]
        assert [plan.steps.position(each) for each in cursors] == [0, 0, 2, 1, 2, 2, 3, 3]
        with pytest.raises(EditMisuse, match="take the cursor before writing"):
            plan.steps.cursor(0)
    exchange(first, second)
    assert [steps.position(each) for each in cursors] == [0, 0, 2, 1, 2, 2, 3, 3]
    with pytest.raises(InvalidValue, match="another field"):
        first.view(Plan).any.position(cursors[0])
    with pytest.raises(InvalidValue, match=r"Plan\.steps takes a Cursor, not int"):
        steps.position(3)  # type: ignore[arg-type]


def test_hidden_slots_count_for_no_position() -> None:
    first, second = site_with("a", "b", "c"), Site(2)
    exchange(first, second)
    for site in (first, second):
        with site.edit(Plan) as plan:
            plan.steps.move(0, 1)
    exchange(first, second)
    steps = first.view(Plan).steps
    assert list(steps) == ["b", "a", "c"]
    for index in range(4):
        for side in (False, True):
            assert steps.position(steps.cursor(index, before=side)) == index
    with second.edit(Plan) as plan:
        plan.steps.insert(2, "x")
        del plan.steps[1:2]
        assert plan.steps == ["b", "x", "c"]
    assert len(ShardView(second.shard).slots("Plan/1", Plan.steps.path)) == 3


def test_refusals_change_nothing() -> None:
    site = site_with("a", "b", "c")
    before = site.shard.digest()
    with site.edit(Plan) as plan:
        steps = plan.steps
        outside = r"Plan\.steps: index -?\d is outside a sequence of 3"
        attempts: list[Callable[[], object]] = [
            *[partial(steps.__getitem__, bad) for bad in (3, -4)],
            *[partial(steps.pop, bad) for bad in (3, -4)],
            *[partial(steps.move, bad, 0) for bad in (3, -4)],
            *[partial(steps.move, 0, bad) for bad in (3, -4)],
            *[partial(steps.__setitem__, bad, "x") for bad in (3, -4)],
            *[partial(steps.__delitem__, bad) for bad in (3, -4)],
            *[partial(steps.insert, bad, "x") for bad in (4, -4)],
            *[partial(steps.cursor, bad) for bad in (4, -1)],
        ]
        for attempt in attempts:
            with pytest.raises(IndexError, match=outside) as found:
                attempt()
            assert isinstance(found.value, OutOfBounds)
        with pytest.raises(InvalidValue, match=r"Plan\.steps takes elements of type str, not int"):
            steps.append(3)  # type: ignore[arg-type]
        with pytest.raises(InvalidValue, match="elements of type str"):
            steps.extend(["x", None])  # type: ignore[list-item]
        with pytest.raises(InvalidValue, match="elements of type str"):
            steps[1] = b"x"  # type: ignore[call-overload]
        with pytest.raises(InvalidValue, match="lone surrogate"):
            steps.append("\ud800")
        with pytest.raises(InvalidValue, match=r"at \[0\]: set is not storable, use a list"):
            plan.any.append([{1}])
        with pytest.raises(InvalidValue, match="ints as positions"):
            steps.insert(True, "x")
        with pytest.raises(OutOfBounds, match="step 1"):
            steps[::2] = ["x", "y"]
        with pytest.raises(ValueError, match=r"'x' is not in Plan\.steps"):
            steps.remove("x")
        with pytest.raises(SchemaError, match=r"Plan\.steps cannot be assigned; use \.append"):
            plan.steps = ["x"]  # type: ignore[assignment]
        assert steps == ["a", "b", "c"]
        steps.move(1, 1)
        steps.extend([])
        ended = steps
    assert (site.operations(), site.shard.digest()) == (1, before)
    view = site.view(Plan).steps
    writes: list[Callable[[], object]] = [
        partial(view.append, "x"),
        partial(view.move, 0, 1),
        partial(view.move, 1, 1),
        view.clear,
        partial(ended.append, "x"),
        partial(len, ended),
    ]
    for write in writes:
        with pytest.raises(ReadOnly):
            write()
    assert site.shard.digest() == before


def test_too_much_in_one_edit_changes_nothing() -> None:
    site = site_with("a")
    before = site.shard.digest()
    for many in (["x"] * (MAX_INSERTED_SLOTS + 1), ["x" * (MAX_INSERTED_BYTES + 1)]):
        overlay = site.overlay()
        plan = Plan.bind(overlay, "Plan/1")
        plan.steps.extend(many)
        plan.notes.append("lost")
        with pytest.raises(OutOfBounds, match="split it"):
            site.commit(overlay)
        assert site.shard.digest() == before
    with site.edit(Plan) as plan:
        plan.steps.extend(["x"] * MAX_INSERTED_SLOTS)
    assert len(site.view(Plan).steps) == MAX_INSERTED_SLOTS + 1


def test_a_sequence_is_declared_with_its_elements_at_a_root() -> None:
    with pytest.raises(SchemaError, match=r"declare it as Sequence\[str\]"):
        type("Bare", (Document,), {"__annotations__": {"steps": Sequence}})
    with pytest.raises(SchemaError, match="cannot stand under a Map"):
        type("Deep", (Document,), {"__annotations__": {"steps": Map[str, Sequence[str]]}})  # type: ignore[type-var]


def test_a_slot_has_one_form() -> None:
    for value in (None, True, 7, "x", [1, {"k": b""}]):
        for slot in (make_slot(value, (5, 6)), make_slot(value, (5, 6), 2**64 - 1)):
            assert parse_slot(slot.raw) == slot
            assert slot.value == value
    with pytest.raises(CodecError):
        parse_slot(make_slot("x", (2**53, 6)).raw)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 2)), max_size=40))
def test_slots_know_what_shows(edits: list[tuple[int, int, int]]) -> None:
    slots = Slots()
    for number, (element, index, removed) in enumerate(edits):
        start = index % (len(slots) + 1)
        new = make_slot(number, (1, element), number % 3)
        slots.copy().replace(start, start + removed, [new])
        slots.replace(start, min(start + removed, len(slots)), [new])
        best: dict[Any, int] = {}
        for at, slot in enumerate(slots.all):
            held = best.get(slot.element)
            if held is None or slot.rank >= slots.all[held].rank:
                best[slot.element] = at
        assert list(slots.shown()) == sorted(best.values())
        assert slots.shown_count == len(best)
        assert all(slots.all[at].element == (1, element) for at in slots.of((1, element)))


def test_a_fresh_state_shows_only_once_its_update_is_applied() -> None:
    site = site_with("a", "b")
    path, shard = Plan.steps.path, site.shard
    edit = InsertSlots(0, (make_slot("new", (site.session, 1)),))
    update = shard.edit_text(site.session, "Plan/1", path, [edit], fresh=True)
    assert site.view(Plan).steps == ["a", "b"]
    shard.apply(site.session, 2, Operation("Plan/1", b"", None, (), 1))
    assert site.view(Plan).steps == []
    shard.apply(site.session, 3, Operation("Plan/1", path, update, (), 1))
    assert site.view(Plan).steps == ["new"]


@pytest.mark.parametrize("deleted", [False, True])
def test_a_state_is_rebuilt_when_an_edit_fails(deleted: bool) -> None:
    state = SequenceState()
    state.edit(3, [InsertSlots(0, tuple(make_slot(n, (3, n)) for n in range(4)))])
    before = state.encode()
    edits: list[Any] = [Delete(0, 2)] if deleted else []
    with pytest.raises(OutOfBounds, match="outside a sequence"):
        state.edit(3, [*edits, InsertSlots(5, (make_slot("x", (3, 9)),))])
    assert state.encode() == before


@dataclass
class Author:
    """A site, and the events it knows."""

    site: Site
    events: dict[Any, Event] = field(default_factory=dict)

    def record(self, place: str, action: str, value: Any) -> None:
        seq = len([dot for dot in self.events if dot[0] == self.site.session]) + 1
        dot = (self.site.session, seq)
        stamp = self.site.wall_ms
        self.events[dot] = Event(dot, stamp, (place,), action, value, frozenset(self.events))


class Pen:
    """Random edits of one author, done and written down. `tick` is everybody's physical clock, so
    that no two stamps are equal.
    """

    def __init__(self) -> None:
        self.authors = [Author(Site(number)) for number in (1, 2, 3)]
        self.tick = 0

    def type(self, author: Author, action: int, at: int) -> None:
        self.tick += 1
        with author.site.edit(Plan) as plan:
            seen = str(plan.notes)
            at %= len(seen) + 1
            if action and at < len(seen):
                plan.notes.delete(at)
                author.record("notes", "rub", seen[at])
            else:
                typed = chr((0x61, 0x3B1, 0x1F600)[at % 3] + self.tick)
                plan.notes.insert(at, typed)
                sides = ([None, *seen][at], [*seen, None][at])
                author.record("notes", "type", (typed, *sides))

    def put(self, author: Author, action: int, at: int, to: int) -> None:
        self.tick += 1
        author.site.wall_ms = START_MS + self.tick
        path = Plan.steps.path
        with author.site.edit(Plan) as plan:
            before = ShardView(author.site.shard).slots("Plan/1", path)
            shown, count = before.shown(), len(plan.steps)
            if action == 0 or not count:
                plan.steps.insert(at % (count + 1), str(self.tick))
            elif action == 1:
                plan.steps[at % count] = str(self.tick)
            elif action == 2:
                plan.steps.move(at % count, to % count)
            else:
                author.record("steps", "cut", before.all[shown[at % count]].element)
                del plan.steps[at % count]
            old = {(slot.element, slot.rank) for slot in before.all}
        after = ShardView(author.site.shard).slots("Plan/1", path).all
        keys = [(slot.element, slot.rank) for slot in after]
        for index, key in enumerate(keys):
            if key not in old:
                sides = ([None, *keys][index], [*keys, None][index + 1])
                value = (key, *sides, after[index].element, after[index].value)
                author.record("steps", "put", value)

    def tell(self, one: Author, other: Author) -> None:
        other.site.shard.join(one.site.shard.snapshot())
        other.events.update(one.events)

    def check(self, author: Author) -> None:
        events = author.events.values()
        notes = str(author.site.view(Plan).notes)
        characters, order = text(events, ("notes",))
        assert (set(notes), len(notes)) == (characters, len(characters))
        assert all(notes.index(a) < notes.index(b) for a, b in order)
        slots = ShardView(author.site.shard).slots("Plan/1", Plan.steps.path)
        found = [slots.all[each] for each in slots.shown()]
        elements, pairs = sequence(events, ("steps",))
        assert {slot.element: slot.value for slot in found} == elements
        places = [slot.element for slot in found]
        assert all(places.index(a) < places.index(b) for a, b in pairs)


step = st.tuples(
    st.sampled_from(["put", "put", "put", "type", "type", "tell"]),
    st.integers(0, 2), st.integers(0, 4), st.integers(0, 9), st.integers(0, 9),
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(step, max_size=30))
def test_every_replica_shows_what_the_specification_says(steps: list[Any]) -> None:
    pen = Pen()
    for kind, who, action, at, to in steps:
        author = pen.authors[who]
        if kind == "put":
            pen.put(author, action % 4, at, to)
        elif kind == "type":
            pen.type(author, action % 3 == 0, at)
        else:
            pen.tell(author, pen.authors[(who + 1 + at % 2) % 3])
        pen.check(author)
    for one in pen.authors * 2:
        for other in pen.authors:
            if one is not other:
                pen.tell(one, other)
                pen.check(other)
    exchange(*(author.site for author in pen.authors))
