"""Text: editing by code points, convergence on every path, states that bad input cannot touch."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdt.errors import CodecError, InvalidValue, OutOfBounds
from crdt.limits import MAX_TEXT_UPDATE_BYTES
from crdt.types import yrs_state as module
from crdt.types.cursor import Cursor
from crdt.types.formats import Value
from crdt.types.text import Delete, Insert, SetFormat, TextEdit, TextState
from crdt.types.yrs import EMPTY_UPDATE, MAX_CLOCK, MAX_UPDATE_ITEMS, MAX_UPDATE_UNITS
from crdt.types.yrs_check import decode_clocks
from crdt.types.yrs_state import MAX_INSERTED_BYTES

SESSIONS = (3, 4, 2**53 - 1)
ALPHABET = st.sampled_from("abc \n\0é\u0301ß漢😀𝄞\U0010ffff")
ATTRIBUTES = st.sampled_from([None, None, True, False, 0, 1, -5, "", "é😀"])
FAMILY = "👩\u200d👩\u200d👧"
# A real update of a client 5 that makes yrs 0.28 panic: an item of length zero.
PANICS = bytes.fromhex("0101050bc4050405050000797a00")


def performed(value: str, edits: list[TextEdit]) -> str:
    """What the edits mean, on a plain str."""
    for edit in edits:
        if isinstance(edit, SetFormat):
            continue
        if isinstance(edit, Insert):
            value = value[: edit.index] + edit.text + value[edit.index :]
        else:
            value = value[: edit.index] + value[edit.index + edit.length :]
    return value


@st.composite
def edits_of(draw: st.DrawFn, length: int) -> list[TextEdit]:
    """Edits that a text of this length allows, in terms of what the ones before them left."""
    edits: list[TextEdit] = []
    for _ in range(draw(st.integers(1, 4))):
        index = draw(st.integers(0, length))
        kind = draw(st.integers(0, 3))
        if kind == 3:
            count = draw(st.integers(0, length - index))
            key, value = draw(st.sampled_from("bi")), draw(ATTRIBUTES)
            edits.append(SetFormat(index, count, {key: value}))
        elif kind:
            text = draw(st.text(ALPHABET, max_size=5))
            edits.append(Insert(index, text))
            length += len(text)
        else:
            count = draw(st.integers(0, min(4, length - index)))
            edits.append(Delete(index, count))
            length -= count
    return edits


@given(st.data())
def test_edits_do_what_they_do_to_a_str(data: st.DataObject) -> None:
    state, replayed, value = TextState(), TextState(), ""
    for _ in range(data.draw(st.integers(1, 8))):
        session = data.draw(st.sampled_from(SESSIONS))
        edits = data.draw(edits_of(len(value)))
        if data.draw(st.booleans()):
            assert state.value() == value
        update = state.edit(session, edits)
        value = performed(value, edits)
        assert replayed.apply(session, update)
        assert replayed._known.clocks == state._known.clocks
        assert replayed._known.halves == state._known.halves
        assert decode_clocks(state._doc.get_state()) == state._known.clocks
    assert state.value() == replayed.value() == value
    assert TextState.load(state.encode()).value() == value


def test_positions_are_code_points() -> None:
    state = TextState()
    state.edit(3, [Insert(0, f"e\u0301😀{FAMILY}z")])
    state.edit(3, [Insert(3, "|"), Delete(1, 1)])
    assert state.value() == f"e😀|{FAMILY}z"
    state.edit(3, [Delete(3, len(FAMILY)), Insert(4, "!")])
    assert state.value() == "e😀|z!"


@pytest.mark.parametrize("edit", [Insert(-1, "x"), Insert(4, "x"), Delete(-1, 1), Delete(0, -1)])
@pytest.mark.parametrize("value", ["abc", "a😀c"])
def test_a_position_outside_changes_nothing(edit: TextEdit, value: str) -> None:
    state = TextState()
    state.edit(3, [Insert(0, value)])
    before = state.encode()
    attempts: list[list[TextEdit]] = [
        [edit],
        [Insert(3, "!"), Delete(0, 1), edit],
        [Delete(1, 3)],
        [Delete(4, 0)],
    ]
    for edits in attempts:
        with pytest.raises(OutOfBounds, match="outside a text of length 3"):
            state.edit(3, edits)
    assert state.encode() == before
    assert state.value() == value


def test_text_that_is_not_unicode_changes_nothing() -> None:
    state = TextState()
    with pytest.raises(InvalidValue, match="surrogate at 1"):
        state.edit(3, [Insert(0, "a"), Insert(1, "b\ud83d")])
    assert state.value() == ""


def test_an_edit_of_nothing_is_an_operation_of_nothing() -> None:
    state = TextState()
    assert state.edit(3, []) == state.edit(3, [Insert(0, ""), Delete(0, 0)]) == EMPTY_UPDATE
    assert state.apply(3, EMPTY_UPDATE)
    assert state.edit(3, [Insert(0, "x")]) == state.encode()[:-1]


def test_what_is_too_large_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    state = TextState()
    with pytest.raises(OutOfBounds, match="split it"):
        state.edit(3, [Insert(0, "é" * (MAX_INSERTED_BYTES // 2)), Insert(0, "x")])
    assert state.value() == ""
    update = state.edit(3, [Insert(0, "é" * (MAX_INSERTED_BYTES // 2))])
    assert len(update) < MAX_TEXT_UPDATE_BYTES
    assert TextState().apply(3, update)

    # How much a deletion takes depends on how scattered it is; that shows only when it is done.
    state = TextState()
    state.edit(3, [Insert(0, "xy" * 500)])
    before = state.encode()
    scattered = [Delete(index, 1) for index in range(500)]
    monkeypatch.setattr(module, "MAX_TEXT_UPDATE_BYTES", 1000)
    with pytest.raises(OutOfBounds, match="split it"):
        state.edit(3, scattered)
    assert state.encode() == before
    assert state.value() == "xy" * 500
    state.edit(3, scattered[:100])
    assert state.value() == "y" * 100 + "xy" * 400

    monkeypatch.undo()
    pieces = [Insert(2 * index, "z") for index in range(MAX_UPDATE_ITEMS + 1)]
    state.edit(3, [Insert(0, "x" * len(pieces))])
    with pytest.raises(OutOfBounds, match="split it"):
        state.edit(3, pieces)
    state.edit(3, [Delete(0, len(pieces))])
    assert state.value() == "y" * 100 + "xy" * 400

    monkeypatch.setattr(module, "MAX_STATE_BYTES", 100)
    with pytest.raises(OutOfBounds, match="new document"):
        state.edit(3, [Insert(0, "x")])
    assert state.value() == "y" * 100 + "xy" * 400


def test_a_session_that_has_used_up_its_clock_must_end() -> None:
    state = TextState()
    state.edit(3, [Insert(0, "x")])
    state._known.clocks[3] = MAX_CLOCK - MAX_UPDATE_UNITS + 1
    with pytest.raises(OutOfBounds, match="open a new session"):
        state.edit(3, [Insert(0, "x")])


def test_a_session_goes_on_where_it_was() -> None:
    state = TextState()
    updates = [state.edit(3, [Insert(0, "ab")]), state.edit(4, [Insert(1, "-")])]
    state = TextState.load(state.encode())
    updates += [state.edit(3, [Insert(3, "c")]), state.edit(4, [Delete(0, 1), Insert(3, "!")])]
    other = TextState()
    assert all(
        other.apply(session, update) for session, update in zip((3, 4, 3, 4), updates, strict=True)
    )
    assert other.value() == state.value() == "-bc!"


def test_own_operations_may_come_from_elsewhere() -> None:
    state, journal = TextState(), TextState()
    assert journal.apply(3, state.edit(3, [Insert(0, "ab")]))
    ahead = TextState.load(journal.encode())
    update = ahead.edit(3, [Insert(1, "-")])
    assert journal.apply(3, update)
    assert state.apply(3, update)
    assert state._doc.client_id == 3
    assert journal.apply(3, state.edit(3, [Insert(3, "c")]))
    assert journal.value() == state.value() == "a-bc"
    assert journal._known.clocks == state._known.clocks == {3: 4}


def test_what_a_replica_applies_twice_is_void_the_second_time() -> None:
    state = TextState()
    insertion = state.edit(3, [Insert(0, "abc")])
    deletion = state.edit(3, [Delete(1, 1)])
    before = state.encode()
    assert not state.apply(3, insertion)
    assert state.apply(3, deletion)  # a pure deletion has no clock; it only has no effect again
    assert state.value() == "ac"
    assert state.encode() == before


def test_void_operations_leave_no_trace() -> None:
    state = TextState()
    update = state.edit(3, [Insert(0, "abc")])
    before = state.encode()
    for session, bad in ((4, update), (3, update), (3, b""), (3, update[:-1]), (3, update + b"\0")):
        assert not state.apply(session, bad)
    assert state.encode() == before
    assert state.value() == "abc"
    assert state.apply(4, TextState.load(before).edit(4, [Insert(3, "d")]))
    assert state.value() == "abcd"


@dataclass
class Replica:
    """A text, and how many operations of each author it has: `have` is a prefix of every log."""

    state: TextState = field(default_factory=TextState)
    have: list[int] = field(default_factory=lambda: [0] * len(SESSIONS))


@dataclass
class Operation:
    needs: list[int]
    update: bytes


class Mesh:
    """Replicas that hear of each other's operations in causal order, or by snapshots."""

    def __init__(self) -> None:
        self.replicas = [Replica() for _ in SESSIONS]
        self.logs: list[list[Operation]] = [[] for _ in SESSIONS]

    def edit(self, author: int, edits: list[TextEdit]) -> None:
        replica = self.replicas[author]
        expected = performed(replica.state.value(), edits)
        needs = list(replica.have)
        update = replica.state.edit(SESSIONS[author], edits)
        assert replica.state.value() == expected
        self.logs[author].append(Operation(needs, update))
        replica.have[author] += 1

    def deliver(self, author: int, receiver: int) -> bool:
        """The author's next operation, if the receiver has all it needs."""
        replica, log = self.replicas[receiver], self.logs[author]
        if replica.have[author] == len(log):
            return False
        operation = log[replica.have[author]]
        if any(need > have for need, have in zip(operation.needs, replica.have, strict=True)):
            return False
        assert replica.state.apply(SESSIONS[author], operation.update)
        replica.have[author] += 1
        return True

    def merge(self, giver: int, receiver: int) -> None:
        mine, other = self.replicas[receiver], self.replicas[giver]
        data = other.state.encode()
        changed = mine.state.merge(data)
        joined = [max(pair) for pair in zip(mine.have, other.have, strict=True)]
        assert not changed or joined != mine.have
        mine.have = joined
        value = mine.state.value()
        assert not mine.state.merge(data)
        assert mine.state.value() == value

    def restore(self, index: int) -> None:
        replica = self.replicas[index]
        restored = TextState.load(replica.state.encode())
        assert restored.value() == replica.state.value()
        assert restored._known.clocks == replica.state._known.clocks
        assert restored._known.halves == replica.state._known.halves
        replica.state = restored

    def settle(self, by_merge: bool) -> None:
        everyone = range(len(SESSIONS))
        pairs = [(a, b) for a in everyone for b in everyone if a != b]
        if by_merge:
            for giver, receiver in pairs:
                self.merge(giver, receiver)
        else:
            while sum(self.deliver(author, receiver) for author, receiver in pairs):
                pass
        assert all(replica.have == [len(log) for log in self.logs] for replica in self.replicas)
        values = {replica.state.content() for replica in self.replicas}
        assert len(values) == 1, values
        states = [replica.state for replica in self.replicas]
        assert {"".join(text for text, _ in state.spans()) for state in states} == {
            states[0].value()
        }
        reloaded = {TextState.load(state.encode()).content() for state in states}
        assert reloaded == values


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_replicas_with_the_same_operations_read_the_same(data: st.DataObject) -> None:
    mesh = Mesh()
    index = st.integers(0, len(SESSIONS) - 1)
    actions = st.sampled_from(["edit", "edit", "edit", "deliver", "deliver", "merge", "restore"])
    for action in data.draw(st.lists(actions, max_size=25)):
        one, other = data.draw(index), data.draw(index)
        if action == "edit":
            length = len(mesh.replicas[one].state.value())
            mesh.edit(one, data.draw(edits_of(length)))
        elif action == "restore":
            mesh.restore(one)
        elif one != other and action == "deliver":
            mesh.deliver(one, other)
        elif one != other:
            mesh.merge(one, other)
    mesh.settle(by_merge=data.draw(st.booleans()))


def concurrent() -> list[TextState]:
    """Three states that have a common beginning and differ since."""
    base = TextState()
    base.edit(3, [Insert(0, "one 😀 two")])
    states = [TextState.load(base.encode()) for _ in SESSIONS]
    states[0].edit(3, [Delete(4, 1), Insert(4, "x")])
    states[1].edit(4, [Insert(4, "y"), Insert(9, "𝄞")])
    states[2].edit(2**53 - 1, [Delete(0, 9)])
    return states


def test_merge_is_commutative_associative_and_idempotent() -> None:
    a, b, c = (state.encode() for state in concurrent())

    def joined(*parts: bytes) -> TextState:
        state = TextState.load(parts[0])
        for part in parts[1:]:
            state.merge(part)
        return state

    results = [
        joined(a, b, c),
        joined(c, a, b),
        joined(b, joined(c, a).encode()),
        joined(c, b, a, c, b),
    ]
    assert len({result.value() for result in results}) == 1
    for result in results:
        assert not any(result.merge(part) for part in (a, b, c))
        assert not result.merge(result.encode())


def test_a_refused_snapshot_changes_nothing() -> None:
    state = concurrent()[0]
    before = state.encode()
    clone = TextState()
    clone.edit(3, [Insert(0, "😀 another life of session 3")])
    for bad in (b"", before[:-1], before + b"\0", clone.encode()):
        with pytest.raises(CodecError):
            state.merge(bad)
        assert state.encode() == before
    with pytest.raises(CodecError):
        TextState.load(b"")


def test_a_panic_of_pycrdt_costs_nothing() -> None:
    state = TextState()
    state.edit(5, [Insert(0, "hello world")])
    for _ in range(2):
        assert not state._feed(PANICS)
        assert state.value() == "hello world"
    state.edit(5, [Delete(0, 6)])
    state._length = 100  # as if this module had miscounted
    with pytest.raises(BaseException, match=r".") as caught:
        state.edit(5, [Delete(50, 4)])
    assert type(caught.value).__name__ == "PanicException"
    state._value = state._length = None
    assert state.value() == "world"
    other = TextState.load(state.encode())
    assert other.apply(5, state.edit(5, [Insert(5, "!")]))
    assert other.value() == "world!"


def test_a_dropped_text_is_freed() -> None:
    state = TextState()
    state.edit(3, [Insert(0, "x")])
    doc = weakref.ref(state._doc)
    del state
    gc.collect()
    assert doc() is None


def test_the_log_stays_in_proportion_to_the_text() -> None:
    state = TextState()
    for index in range(3_000):
        state.edit(3, [Insert(index, "x")])
        assert state._log_bytes <= max(module._LOG_BYTES, 2 * len(state._base))
    assert TextState.load(state.encode()).value() == "x" * 3_000


def formatted(cells: list[tuple[str, dict[str, Value]]], edit: SetFormat) -> None:
    """What a format means, on a list of characters with their attributes."""
    for _, attributes in cells[edit.index : edit.index + edit.length]:
        for key, value in edit.attributes.items():
            attributes.pop(key, None)
            if value is not None:
                attributes[key] = value


@given(st.data())
def test_formats_mean_what_they_say(data: st.DataObject) -> None:
    state = TextState()
    cells: list[tuple[str, dict[str, Value]]] = [("a", {}), ("😀", {}), ("c", {}), ("é", {})]
    state.edit(3, [Insert(0, "a😀cé")])
    for _ in range(data.draw(st.integers(1, 8))):
        index = data.draw(st.integers(0, 4))
        count = data.draw(st.integers(0, 4 - index))
        attributes = data.draw(st.dictionaries(st.sampled_from("bi"), ATTRIBUTES, min_size=1))
        edit = SetFormat(index, count, attributes)
        state.edit(data.draw(st.sampled_from(SESSIONS)), [edit])
        formatted(cells, edit)
    shown = [(each, attributes) for text, attributes in state.spans() for each in text]
    assert repr(shown) == repr([(each, dict(sorted(a.items()))) for each, a in cells])
    spans = state.spans()
    assert all(repr(a[1]) != repr(b[1]) for a, b in pairwise(spans))


def test_what_is_typed_behind_a_stretch_takes_its_format_on() -> None:
    state = TextState()
    state.edit(3, [Insert(0, "plain bold"), SetFormat(6, 4, {"bold": True})])
    state.edit(4, [Insert(10, "er"), Insert(6, "very ")])
    assert state.spans() == [("plain very ", {}), ("bolder", {"bold": True})]
    before = state.content()
    state.edit(3, [SetFormat(11, 6, {"bold": None})])
    assert state.spans() == [("plain very bolder", {})]
    assert state.content() == b"plain very bolder" != before


@settings(deadline=None)
@given(st.data())
def test_a_cursor_stays_with_its_neighbour(data: st.DataObject) -> None:
    text = data.draw(st.text(ALPHABET, min_size=1, max_size=8))
    state = TextState()
    state.edit(3, [Insert(0, text)])
    cells: list[object] = [object() for _ in text]
    for _ in range(data.draw(st.integers(0, 2))):
        track(data, state, cells)
    index, before = data.draw(st.integers(0, len(cells))), data.draw(st.booleans())
    cursor = Cursor.decode(bytes(state.cursor(index, before)))
    assert state.position(cursor) == index
    at = index - 1 if before else index
    neighbour = cells[at] if 0 <= at < len(cells) else None
    for _ in range(data.draw(st.integers(0, 4))):
        track(data, state, cells)
    found = TextState.load(state.encode()).position(cursor)
    assert state.position(cursor) == found
    if neighbour is None:
        assert found == (0 if before else len(cells))
    elif neighbour in cells:
        assert found == cells.index(neighbour) + before
    else:
        assert 0 <= found <= len(cells)


def track(data: st.DataObject, state: TextState, cells: list[object]) -> None:
    """Random edits of a text, done to a list of unique cells too."""
    edits = data.draw(edits_of(len(cells)))
    state.edit(data.draw(st.sampled_from(SESSIONS)), edits)
    for edit in edits:
        if isinstance(edit, Insert):
            cells[edit.index : edit.index] = [object() for _ in edit.text]
        elif isinstance(edit, Delete):
            del cells[edit.index : edit.index + edit.length]


def test_a_cursor_of_nothing_known_is_refused() -> None:
    state = TextState()
    state.edit(3, [Insert(0, "a😀")])
    for of in ((4, 0), (3, 3), (3, 1)):
        with pytest.raises(InvalidValue, match="another field"):
            state.position(Cursor(True, of))
    for bad in (b"", b"\xc3", b"\x90", b"\x92\xc3\x01", b"\x93\xc3\x01\xff", b"\x93\x01\x01\x01"):
        with pytest.raises(CodecError):
            Cursor.decode(bad)
