"""Register: the latest write wins, nothing concurrent is lost before somebody has seen it."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypedDict

import pytest

from crdt import Default, Document, InvalidValue, Register
from simulations.sites import START_MS, Site, exchange


class Finding(TypedDict):
    text: str


class Note(Document):
    title: Register[str]
    count: Register[int]
    ratio: Register[float]
    at: Register[datetime]
    data: Register[dict[str, Any]]
    rows: Register[list[list[int]]]
    maybe: Register[str | None]
    any: Register[Any]
    kind: Register[Literal["a", "b"]]
    typed: Register[Finding]
    state: Annotated[Register[str], Default("new")]


def test_reads_none_then_what_was_written_last() -> None:
    site = Site(1)
    assert site.view(Note).title is None
    with site.edit(Note) as note:
        note.title = "a"
        assert note.title == "a"
        note.title = "b"
        assert note.title == "b"
    assert site.view(Note).title == "b"
    assert site.shard.entry_count == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("any", None),
        ("any", True),
        ("any", 1),
        ("any", 1.0),
        ("any", 2**200),
        ("any", -(2**70)),
        ("any", "ä€𝄞"),
        ("any", b"\x00"),
        ("any", datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
        ("any", [1, True, None, {"a": [1.5]}]),
        ("data", {"b": 1, "a": {"c": [True]}}),
        ("rows", [[1], [], [2, 3]]),
        ("maybe", None),
        ("kind", "b"),
        ("ratio", 3),
        ("typed", {"text": "x"}),
    ],
)
def test_values_come_back_exactly(field: str, value: object) -> None:
    site, other = Site(1), Site(2)
    with site.edit(Note) as note:
        setattr(note, field, value)
    site.send(other)
    read = getattr(other.view(Note), field)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("title", 3, "Note.title takes str, not int: 3"),
        ("title", None, "Note.title takes str, not NoneType: None"),
        ("count", True, "Note.count takes int, not bool: True"),
        ("count", 1.0, "Note.count takes int, not float: 1.0"),
        ("ratio", True, "Note.ratio takes float, not bool: True"),
        ("data", {1: 2}, "Note.data takes dict[str, any value], not dict: {1: 2}"),
        ("rows", [[1], ["x"]], "Note.rows takes list[list[int]], not list: [[1], ['x']]"),
        ("maybe", 1, "Note.maybe takes str | None, not int: 1"),
        ("kind", "c", "Note.kind takes one of 'a', 'b', not str: 'c'"),
        ("typed", [], "Note.typed takes dict with str keys, not list: []"),
        ("title", 10**100, "…"),
    ],
)
def test_a_wrong_type_is_refused_by_name(field: str, value: object, expected: str) -> None:
    site = Site(1)
    with site.edit(Note) as note, pytest.raises(InvalidValue) as caught:
        setattr(note, field, value)
    assert expected in str(caught.value)
    assert site.operations() == 0


def test_what_python_does_not_print_is_refused_by_name() -> None:
    """It raises ValueError for the repr of an int of more than 4,300 digits."""
    for value, shown in ((10**5000, "not int: <int"), ([10**5000], "not list: <list")):
        with Site(1).edit(Note) as note, pytest.raises(InvalidValue, match=f"title.*{shown}"):
            note.title = value  # type: ignore[assignment]


def test_what_no_type_can_hold_is_refused_by_the_codec() -> None:
    with Site(1).edit(Note) as note, pytest.raises(InvalidValue, match="naive"):
        note.at = datetime(2026, 1, 1)


def test_nothing_mutable_is_shared() -> None:
    site = Site(1)
    value: dict[str, Any] = {"list": [1]}
    with site.edit(Note) as note:
        note.data = value
    value["list"].append(2)
    read = site.view(Note).data
    assert read == {"list": [1]}
    read["list"].append(3)
    assert site.view(Note).data == {"list": [1]}


def test_concurrent_writes_latest_stamp_wins_and_the_other_is_a_conflict() -> None:
    first, second = Site(1), Site(2, START_MS + 5)
    with second.edit(Note) as note:
        note.title = "later"
    with first.edit(Note) as note:
        note.title = "earlier"
    exchange(first, second)
    for site in (first, second):
        assert site.view(Note).title == "later"
        assert site.view(Note).conflicts("title") == ["earlier"]
    with first.edit(Note) as note:
        note.title = "settled"
    exchange(first, second)
    assert second.view(Note).title == "settled"
    assert second.view(Note).conflicts("title") == []
    assert second.shard.entry_count == 1


def test_equal_stamps_fall_to_the_greater_session() -> None:
    sites = [Site(number) for number in (1, 2, 3)]
    for number, site in enumerate(sites):
        with site.edit(Note) as note:
            note.count = number
    exchange(*sites)
    winner = max(range(3), key=lambda number: sites[number].session)
    assert {site.view(Note).count for site in sites} == {winner}
    assert len(sites[0].view(Note).conflicts("count")) == 2


def test_a_write_that_saw_another_beats_it_whatever_the_clocks_say() -> None:
    ahead, behind = Site(1, START_MS + 10_000_000), Site(2)
    with ahead.edit(Note) as note:
        note.title = "from the future"
    ahead.send(behind)
    with behind.edit(Note) as note:
        note.title = "answer"
    behind.send(ahead)
    for site in (ahead, behind):
        assert site.view(Note).title == "answer"
        assert site.view(Note).conflicts("title") == []


def test_default_and_delete() -> None:
    site = Site(1)
    assert site.view(Note).state == "new"
    with site.edit(Note) as note:
        note.state = "old"
    with site.edit(Note) as note:
        del note.state
        del note.title
    assert site.view(Note).state == "new"
    assert site.shard.entry_count == 0
    assert site.operations() == 2
