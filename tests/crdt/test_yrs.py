"""The strict parser of yrs updates: real ones pass and mean what they say, others are refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdt.errors import CodecError
from crdt.limits import MAX_TEXT_UPDATE_BYTES
from crdt.types.sequence_state import SequenceState
from crdt.types.text import Delete, Insert, TextEdit, TextState
from crdt.types.yrs import (
    EMPTY_UPDATE,
    MAX_CLOCK,
    MAX_SNAPSHOT_BYTES,
    MAX_UPDATE_ITEMS,
    MAX_UPDATE_UNITS,
    SEQUENCE,
    TEXT,
    Deletion,
    Format,
    Item,
    ParsedUpdate,
    Section,
    parse_update,
)
from crdt.types.yrs_check import (
    Facts,
    Known,
    check_operation,
    check_snapshot,
    compatible,
    decode_halves,
    encode_halves,
)

BIG = 2**53 - 1
ROOT = (1, 1, ord("t"))
DELETED, STRING, FORMAT, SLOTS, ORIGIN, RIGHT = 1, 4, 6, 8, 0x80, 0x40
KINDS = {type(None): DELETED, str: STRING, Format: FORMAT, tuple: SLOTS}


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def encode(update: ParsedUpdate) -> bytes:
    """The inverse of the parser, written from the format, for round trips."""
    out = [varint(len(update.sections))]
    for client, clock, items in update.sections:
        out += [varint(len(items)), varint(client), varint(clock)]
        for item in items:
            neighbours = [each for each in (item.origin, item.right_origin) if each is not None]
            content = item.content
            kind = KINDS[type(content)]
            info = kind | ORIGIN * (item.origin is not None)
            out.append(bytes([info | RIGHT * (item.right_origin is not None)]))
            out += [varint(number) for neighbour in neighbours for number in neighbour]
            if not neighbours:
                out.append(bytes(ROOT))
            if content is None:
                out.append(varint(item.length))
            elif isinstance(content, Format):
                out.append(numbers(*content))
            elif isinstance(content, str):
                out.append(numbers(content))
            else:
                out += [varint(len(content)), *(numbers(116, blob(slot.raw)) for slot in content)]
    clients = list(dict.fromkeys(deletion.client for deletion in update.deletions))
    out.append(varint(len(clients)))
    for client in clients:
        ranges = [each for each in update.deletions if each.client == client]
        out += [varint(client), varint(len(ranges))]
        out += [varint(number) for each in ranges for number in each[1:]]
    return b"".join(out)


def blob(data: bytes) -> bytes:
    """Bytes with their length in front."""
    return varint(len(data)) + data


def numbers(*parts: int | str | bytes | tuple[int, ...]) -> bytes:
    """An update from its numbers, texts (with their length in front), and bytes as they are."""
    out = b""
    for part in parts:
        if isinstance(part, str):
            out += varint(len(part.encode())) + part.encode()
        elif isinstance(part, bytes):
            out += part
        else:
            out += b"".join(map(varint, part if isinstance(part, tuple) else (part,)))
    return out


def known(**clocks: int) -> Known:
    """What is known after s7=4 … : session 7 has written 4 units."""
    state = Known()
    state.clocks = {int(name[1:]): clock for name, clock in clocks.items()}
    return state


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[tuple[int, bytes]], TextState]:
    """Operations that two sessions made in one replica, one after the other, and the end state."""
    state = TextState()
    operations = []
    alphabet = st.sampled_from("ab é\u0301😀𝄞")
    for _ in range(draw(st.integers(1, 8))):
        session = draw(st.sampled_from([3, BIG]))
        edits: list[TextEdit] = []
        length = len(state.value())
        for _ in range(draw(st.integers(1, 3))):
            index = draw(st.integers(0, length))
            if draw(st.booleans()):
                text = draw(st.text(alphabet, min_size=1, max_size=4))
                edits.append(Insert(index, text))
                length += len(text)
            else:
                count = draw(st.integers(0, min(3, length - index)))
                edits.append(Delete(index, count))
                length -= count
        operations.append((session, state.edit(session, edits)))
    return operations, state


@given(histories())
def test_real_updates_survive_a_round_trip(
    history: tuple[list[tuple[int, bytes]], TextState],
) -> None:
    operations, state = history
    for _, update in operations:
        assert encode(parse_update(update, TEXT)) == update
    snapshot = state.encode()
    parsed = parse_update(snapshot, TEXT, MAX_SNAPSHOT_BYTES, trailer=True)
    assert encode(parsed) == snapshot[: parsed.end]
    halves = decode_halves(snapshot, parsed.end)
    assert encode_halves(halves) == snapshot[parsed.end :]
    assert check_snapshot(parsed, halves).clocks == state._known.clocks


@given(histories())
def test_no_beginning_and_no_continuation_of_an_update_is_an_update(
    history: tuple[list[tuple[int, bytes]], TextState],
) -> None:
    operations, state = history
    for _, update in operations:
        for size in range(len(update)):
            with pytest.raises(CodecError):
                parse_update(update[:size], TEXT)
        for tail in (b"\0", b"\x01", update):
            with pytest.raises(CodecError):
                parse_update(update + tail, TEXT)
    snapshot = state.encode()
    for size in range(len(snapshot)):
        with pytest.raises(CodecError):
            TextState.load(snapshot[:size])
    with pytest.raises(CodecError):
        TextState.load(snapshot + b"\0")


@given(st.binary(max_size=60))
def test_parsing_is_total_and_what_it_accepts_has_one_form(data: bytes) -> None:
    try:
        update = parse_update(data, TEXT)
    except CodecError:
        return
    assert encode(update) == data


X = (STRING, *ROOT, 1, ord("x"))
MALFORMED = {
    "nothing": b"",
    "bytes behind": numbers(0, 0, 0),
    "another root": numbers(1, 1, 7, 0, STRING, 1, "u", "x", 0),
    "a root with a longer name": numbers(1, 1, 7, 0, STRING, 1, "tt", "x", 0),
    "a nested parent": numbers(1, 1, 7, 0, STRING, 0, 7, 0, "x", 0),
    "a map's key": numbers(1, 1, 7, 0, b"\x24", ROOT, "key", "x", 0),
    "a map's key behind an origin": numbers(1, 1, 7, 1, b"\xa4", 7, 0, "x", 0),
    "garbage collected structs": numbers(1, 1, 7, 0, 0, 3, 0),
    "JSON": numbers(1, 1, 7, 0, 2, ROOT, 1, "1", 0),
    "binary": numbers(1, 1, 7, 0, 3, ROOT, "x", 0),
    "an embed": numbers(1, 1, 7, 0, 5, ROOT, '"x"', 0),
    "a format without a key": numbers(1, 1, 7, 0, 6, ROOT, "", "true", 0),
    "a format with a long key": numbers(1, 1, 7, 0, 6, ROOT, "k" * 129, "true", 0),
    "a format of a long value": numbers(1, 1, 7, 0, 6, ROOT, "k", f'"{"x" * 4095}"', 0),
    "a format of no JSON": numbers(1, 1, 7, 0, 6, ROOT, "k", "True", 0),
    "a format of nothing": numbers(1, 1, 7, 0, 6, ROOT, "k", "", 0),
    "a format of a fraction": numbers(1, 1, 7, 0, 6, ROOT, "k", "1.5", 0),
    "a format of a power": numbers(1, 1, 7, 0, 6, ROOT, "k", "1e3", 0),
    "a format of a long number": numbers(1, 1, 7, 0, 6, ROOT, "k", str(2**53), 0),
    "a format of minus nothing": numbers(1, 1, 7, 0, 6, ROOT, "k", "-0", 0),
    "a format of a padded number": numbers(1, 1, 7, 0, 6, ROOT, "k", "01", 0),
    "a format of foreign digits": numbers(1, 1, 7, 0, 6, ROOT, "k", "1\u0661", 0),
    "a format of a list": numbers(1, 1, 7, 0, 6, ROOT, "k", "[1]", 0),
    "a format of a deep list": numbers(1, 1, 7, 0, 6, ROOT, "k", "[" * 4000, 0),
    "a format of half a text": numbers(1, 1, 7, 0, 6, ROOT, "k", '"', 0),
    "a format of a spaced text": numbers(1, 1, 7, 0, 6, ROOT, "k", '"a" ', 0),
    "a format of a needless escape": numbers(1, 1, 7, 0, 6, ROOT, "k", '"\\u0061"', 0),
    "a format of a surrogate": numbers(1, 1, 7, 0, 6, ROOT, "k", '"\\ud800"', 0),
    "a format of a bare control": numbers(1, 1, 7, 0, 6, ROOT, "k", '"\n"', 0),
    "slots": numbers(1, 1, 7, 0, 8, ROOT, 1, 116, b"\x04\x93\x01\x07\x05", 0),
    "a nested type": numbers(1, 1, 7, 0, 7, ROOT, 1, 0),
    "any": numbers(1, 1, 7, 0, 8, ROOT, 1, 126, 0),
    "a sub-document": numbers(1, 1, 7, 0, 9, ROOT, "guid", 118, 0, 0),
    "a skip": numbers(1, 1, 7, 0, 10, 5, 0),
    "a move": numbers(1, 1, 7, 0, 11, ROOT, 0, 7, 0, 0),
    "an unknown kind": numbers(1, 1, 7, 0, 31, ROOT, 1, 0),
    "an empty text": numbers(1, 1, 7, 0, STRING, ROOT, "", 0),
    "a deletion of nothing": numbers(1, 1, 7, 0, DELETED, ROOT, 0, 0),
    "a section without items": numbers(1, 0, 7, 0, 0),
    "two sections of one client": numbers(2, 1, 7, 0, X, 1, 7, 1, X, 0),
    "one neighbour on both sides": numbers(1, 1, 7, 1, b"\xc4", 7, 0, 7, 0, "x", 0),
    "bad UTF-8": numbers(1, 1, 7, 0, STRING, ROOT, 2) + b"\xc3\x28\0",
    "a surrogate": numbers(1, 1, 7, 0, STRING, ROOT, 3) + b"\xed\xa0\x80\0",
    "overlong UTF-8": numbers(1, 1, 7, 0, STRING, ROOT, 2) + b"\xc0\xaf\0",
    "a text longer than the bytes": numbers(1, 1, 7, 0, STRING, ROOT, 99) + b"x\0",
    "a huge text": numbers(1, 1, 7, 0, STRING, ROOT, 2**31) + b"x\0",
    "2^28 clients": numbers(2**28),
    "2^28 items": numbers(1, 2**28, 7, 0, X),
    "2^28 deleting clients": numbers(0, 2**28),
    "2^28 deleted ranges": numbers(0, 1, 7, 2**28, 0, 1),
    "a client of 54 bits": numbers(1, 1, 2**53, 0, X, 0),
    "a clock of 32 bits": numbers(1, 1, 7, 2**31, X, 0),
    "a clock that runs over": numbers(1, 1, 7, MAX_CLOCK, X, 0),
    "a huge deleted length": numbers(1, 1, 7, 0, DELETED, ROOT, 2**31, 0),
    "a number not in its shortest form": b"\x81\x00" + numbers(1, 7, 0, X, 0),
    "a number without end": b"\xff" * 40,
    "an empty deleted range": numbers(0, 1, 7, 1, 0, 0),
    "a client without deleted ranges": numbers(0, 1, 7, 0),
    "deleted ranges that overlap": numbers(0, 1, 7, 2, 0, 2, 1, 1),
    "deleted ranges out of order": numbers(0, 1, 7, 2, 4, 1, 0, 1),
    "a deleting client twice": numbers(0, 2, 7, 1, 0, 1, 7, 1, 2, 1),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_not_plain_text_in_the_one_root_is_refused(data: bytes) -> None:
    with pytest.raises(CodecError):
        parse_update(data, TEXT)
    state = TextState()
    assert not state.apply(7, data)
    with pytest.raises(CodecError):
        state.merge(data + b"\0")


def test_the_size_is_looked_at_first() -> None:
    text = "x" * MAX_TEXT_UPDATE_BYTES
    with pytest.raises(CodecError, match="above"):
        parse_update(numbers(1, 1, 7, 0, STRING, ROOT, text, 0), TEXT)


OUT_OF_PLACE = {
    "another's items": (numbers(1, 1, 8, 2, b"\x84", 8, 1, "x", 0), "has items of"),
    "another's items too": (numbers(2, 1, 7, 4, X, 1, 8, 2, X, 0), "has items of"),
    "a gap": (numbers(1, 1, 7, 5, X, 0), "at clock 4"),
    "a replay": (numbers(1, 1, 7, 3, X, 0), "at clock 4"),
    "an unknown origin": (numbers(1, 1, 7, 4, b"\x84", 8, 2, "x", 0), "does not exist"),
    "an unknown right": (numbers(1, 1, 7, 4, b"\x44", 9, 0, "x", 0), "does not exist"),
    "itself": (numbers(1, 1, 7, 4, b"\x84", 7, 4, "x", 0), "does not exist"),
    "deletes the unknown": (numbers(0, 1, 8, 1, 1, 2), "does not exist"),
    "deletes of a stranger": (numbers(0, 1, 9, 1, 0, 1), "does not exist"),
    "deletes its own future": (numbers(1, 1, 7, 4, X, 1, 7, 1, 4, 2), "does not exist"),
    "too many items": (
        numbers(1, MAX_UPDATE_ITEMS + 1, 7, 4, *(X for _ in range(MAX_UPDATE_ITEMS + 1)), 0),
        "above",
    ),
    "too many units": (
        numbers(1, 1, 7, 4, DELETED, ROOT, MAX_UPDATE_UNITS + 1, 0),
        "above",
    ),
}


@pytest.mark.parametrize(("data", "reason"), OUT_OF_PLACE.values(), ids=OUT_OF_PLACE.keys())
def test_an_operation_builds_on_what_is_there(data: bytes, reason: str) -> None:
    update = parse_update(data, TEXT)
    with pytest.raises(CodecError, match=reason):
        check_operation(update, 7, known(s7=4, s8=2))


def test_what_an_operation_adds() -> None:
    state = known(s7=4, s8=2)
    data = numbers(1, 2, 7, 4, b"\x84", 8, 1, "a😀", b"\x84", 7, 6, "b", 1, 8, 1, 0, 2)
    assert check_operation(parse_update(data, TEXT), 7, state) == Facts(8, {6}, "a😀b", True)
    assert check_operation(parse_update(EMPTY_UPDATE, TEXT), 7, state) == Facts(4, set(), "", False)
    assert check_operation(parse_update(numbers(0, 1, 8, 1, 0, 1), TEXT), 9, state).clock == 0
    assert state.clocks == {7: 4, 8: 2}


@pytest.mark.parametrize(
    "data",
    [
        numbers(1, 1, 8, 0, b"\x84", 7, 1, "x", 0),
        numbers(1, 1, 8, 0, b"\x44", 7, 2, "x", 0),
        numbers(0, 1, 7, 1, 1, 1),
        numbers(0, 1, 7, 1, 2, 1),
        numbers(1, 2, 8, 0, STRING, ROOT, "😀", b"\x84", 8, 0, "x", 0),
        numbers(1, 1, 8, 0, STRING, ROOT, "😀", 1, 8, 1, 0, 1),
    ],
)
def test_nothing_cuts_a_character_in_two(data: bytes) -> None:
    state = TextState()
    update = state.edit(7, [Insert(0, "a😀b")])
    with pytest.raises(CodecError, match=r"half a character|parts a character"):
        check_operation(parse_update(data, TEXT), 8, state._known)
    assert not state.apply(8, data)

    # The verdict stays the same when the character is gone, also in a replica that never had it.
    state.edit(7, [Delete(0, 3)])
    restored = TextState.load(state.encode())
    assert not state.apply(8, data)
    assert not restored.apply(8, data)
    assert "😀".encode() not in state.encode()
    assert len(update) < len(state.encode())


INCOMPLETE = {
    "a hole": ((Section(7, 1, (Item(1, 1, None, None, "x"),)),), (), {}),
    "an unknown neighbour": ((Section(7, 0, (Item(0, 1, (8, 0), None, "x"),)),), (), {}),
    "an unknown deletion": ((Section(7, 0, (Item(0, 1, None, None, "x"),)),), ((7, 0, 2),), {}),
    "a stranger's deletion": ((), ((7, 0, 1),), {}),
    "itself": ((Section(7, 0, (Item(0, 1, None, (7, 0), "x"),)),), (), {}),
    "a circle": (
        (
            Section(7, 0, (Item(0, 1, (8, 0), None, "x"),)),
            Section(8, 0, (Item(0, 1, (7, 0), None, "x"),)),
        ),
        (),
        {},
    ),
    "halves of nobody": ((), (), {7: {1}}),
    "a half that is none": ((Section(7, 0, (Item(0, 2, None, None, "xx"),)),), (), {7: {1}}),
    "a half missing": ((Section(7, 0, (Item(0, 2, None, None, "😀"),)),), (), {}),
    "a half before all": ((Section(7, 0, (Item(0, 2, None, None, None),)),), (), {7: {0}}),
    "a half after all": ((Section(7, 0, (Item(0, 2, None, None, None),)),), (), {7: {2}}),
    "a half beside another": ((Section(7, 0, (Item(0, 3, None, None, None),)),), (), {7: {1, 2}}),
    "a deletion that cuts": (
        (Section(7, 0, (Item(0, 2, None, None, "😀"),)),),
        ((7, 0, 1),),
        {7: {1}},
    ),
    "an origin that cuts": (
        (Section(7, 0, (Item(0, 2, None, None, "😀"), Item(2, 1, (7, 0), None, "x"))),),
        (),
        {7: {1}},
    ),
}


@pytest.mark.parametrize(("sections", "deletions", "halves"), INCOMPLETE.values(), ids=INCOMPLETE)
def test_a_snapshot_is_complete_in_itself(
    sections: tuple[Section, ...],
    deletions: tuple[tuple[int, int, int], ...],
    halves: dict[int, set[int]],
) -> None:
    update = ParsedUpdate(sections, tuple(Deletion(*each) for each in deletions), 0)
    with pytest.raises(CodecError):
        check_snapshot(update, halves)
    with pytest.raises(CodecError):
        TextState.load(encode(update) + encode_halves(halves))


def test_a_snapshot_may_list_a_client_before_those_it_builds_on() -> None:
    sections = tuple(
        Section(client, 0, (Item(0, 1, (client + 1, 0) if client < 50 else None, None, "x"),))
        for client in range(1, 51)
    )
    for order in (sections, sections[::-1]):
        assert len(check_snapshot(ParsedUpdate(order, (), 0), {}).clocks) == 50


@pytest.mark.parametrize(
    "table",
    [
        b"",
        numbers(1),
        numbers(1, 7, 0),
        numbers(2, 8, 1, 1, 7, 1, 1),
        numbers(2, 7, 1, 1, 7, 1, 1),
        numbers(1, 7, 2, 1, 0),
        numbers(1, 7, 2, MAX_CLOCK, 2),
        numbers(0, 0),
        b"\x80\x00",
    ],
)
def test_a_table_of_halves_has_one_form(table: bytes) -> None:
    with pytest.raises(CodecError):
        decode_halves(table, 0)


def test_states_must_agree_on_halves() -> None:
    one, other = known(s7=4, s8=2), known(s7=2)
    one.halves = {7: {3}, 8: {1}}
    assert compatible(one, other)
    assert compatible(other, one)
    other.halves = {7: {1}}
    assert not compatible(one, other)
    other.halves, other.clocks = {}, {7: 3}
    assert not compatible(one, other)


SLOT = b"\x04\x93\x01\x07\x05"  # [1, 7, 5], with its length in front
GOOD_SLOTS = {
    "one": numbers(1, 1, 7, 0, 8, ROOT, 1, 116, SLOT, 0),
    "two": numbers(1, 1, 7, 0, 8, ROOT, 2, 116, SLOT, 116, b"\x05\x94\xc0\x00\x00\x09", 0),
    "a deleted one": numbers(1, 2, 7, 0, DELETED, ROOT, 3, b"\x88", 7, 2, 1, 116, SLOT, 0),
}
BAD_SLOTS = {
    "none": numbers(1, 1, 7, 0, 8, ROOT, 0, 0),
    "text": numbers(1, 1, 7, 0, 4, ROOT, "x", 0),
    "a format": numbers(1, 1, 7, 0, 6, ROOT, "bold", "true", 0),
    "a string": numbers(1, 1, 7, 0, 8, ROOT, 1, 119, "x", 0),
    "a nested array": numbers(1, 1, 7, 0, 8, ROOT, 1, 117, 1, 117, 0, 0),
    "an empty slot": numbers(1, 1, 7, 0, 8, ROOT, 1, 116, 0, 0),
    "more slots than bytes": numbers(1, 1, 7, 0, 8, ROOT, 2, 116, SLOT, 0),
    "2^28 slots": numbers(1, 1, 7, 0, 8, ROOT, 2**28, 116, SLOT, 0),
    "a slot longer than the bytes": numbers(1, 1, 7, 0, 8, ROOT, 1, 116, 99, b"\x93", 0),
    "a tag not in its shortest form": numbers(1, 1, 7, 0, 8, ROOT, 1, b"\xf4\x00", SLOT, 0),
    **{
        f"the slot {raw.hex()}": numbers(1, 1, 7, 0, 8, ROOT, 1, 116, blob(raw), 0)
        for raw in (
            b"\x92\x01\x07",
            b"\x95\x01\x07\x05\x05\x05",
            b"\x93\x01\xff\x05",
            b"\x93\x01\x07\xff",
            b"\x93\x01\xc3\x05",
            b"\x93\x01\x07\xc0",
            b"\x94\x01\x07\x05\xc2",
            b"\x93\x01\xcc\x07\x05",
            b"\x93\x01\x07\x05\x00",
            b"\x93\x01\x07\xc7\x09\x01\x01" + bytes(8),
            b"\x93\x01\xcf\x00\x20" + bytes(6) + b"\x05",
            b"\x83\x01\x07\x05",
            b"\x93" + b"\x91" * 33 + b"\x01\x07\x05",
        )
    },
}


@pytest.mark.parametrize("data", GOOD_SLOTS.values(), ids=GOOD_SLOTS.keys())
def test_slots_of_the_right_shape_are_a_sequence_and_no_text(data: bytes) -> None:
    assert encode(parse_update(data, SEQUENCE)) == data
    with pytest.raises(CodecError):
        parse_update(data, TEXT)
    state = SequenceState()
    assert state.apply(7, data)
    assert SequenceState.load(state.encode()).content() == state.content() != b""


@pytest.mark.parametrize("data", BAD_SLOTS.values(), ids=BAD_SLOTS.keys())
def test_what_is_no_slot_is_refused(data: bytes) -> None:
    with pytest.raises(CodecError):
        parse_update(data, SEQUENCE)
    state = SequenceState()
    assert not state.apply(7, data)
    with pytest.raises(CodecError):
        state.merge(data + b"\0")
    assert state.content() == b""


@pytest.mark.parametrize(
    "value",
    [
        "null",
        "true",
        "false",
        "0",
        "-1",
        str(2**53 - 1),
        str(1 - 2**53),
        '""',
        '"\\n\\u0000😀\x7f"',
    ],
)
def test_a_format_comes_back_from_yrs_as_it_went_in(value: str) -> None:
    state = TextState()
    state.edit(7, [Insert(0, "ab")])
    update = numbers(1, 1, 7, 2, b"\xc6", 7, 0, 7, 1, "key", value, 0)
    assert state.apply(7, update)
    assert numbers("key", value) in state.encode()
    again = TextState.load(state.encode())
    assert again.spans() == state.spans()
    assert again.content() == state.content()
    shown = {} if value == "null" else {"key": json.loads(value)}
    assert state.spans()[-1] == ("b" if shown else "ab", shown)
    assert [type(each) for each in state.spans()[-1][1].values()] == [
        type(each) for each in shown.values()
    ]
