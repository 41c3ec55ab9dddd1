"""Plain data without classes says the same as the classes themselves."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import pytest

from crdt import (
    BoundedCounter,
    Counter,
    Decided,
    Document,
    Feed,
    Flag,
    InvalidId,
    Map,
    Maximum,
    Minimum,
    MultiValue,
    Register,
    RemoveWins,
    Set,
    Text,
    UnknownField,
)
from crdt.access import Overlay, ShardView, commit
from crdt.clock import HybridClock
from crdt.document import create_document
from crdt.ids import new_session
from crdt.lattice import Shard
from crdt.operation import Operation, Removal
from crdt.paths import TypeCode, child_path, element_path, field_path
from crdt.plain import plain_document, plain_documents, plain_value
from crdt.types.rules import ABSENT, PRESENT

NOW = 1_800_000_000_000
SESSION = new_session(NOW, 1)
OTHER = new_session(NOW, 2)


class Kitchen(Document):
    """One field of every type."""

    title: Register[Any]
    done: Flag
    effort: Counter
    labels: Set[Any]
    log: Feed[str]
    state: Decided[str]
    notes: Text
    owner: MultiValue[Any]
    best: Maximum[int]
    first: Minimum[datetime]
    tokens: BoundedCounter
    banned: Annotated[Set[str], RemoveWins()]
    owners: Map[str, MultiValue[str]]
    scores: Map[str, Map[str, Maximum[float]]]
    findings: Map[str, Register[Any]]
    nested: Map[int, Map[str, Set[str]]]


def write(shard: Shard, session: int = SESSION, **fields: Any) -> None:
    overlay = Overlay(shard, session, HybridClock(lambda: NOW))
    kitchen = Kitchen.bind(overlay, "Kitchen/1")
    kitchen.title = {"a": [1, 2.5, None, b"raw"], "at": datetime(2027, 1, 15, tzinfo=UTC)}
    kitchen.done = True
    kitchen.effort += 3
    kitchen.labels.update(["x", 1, True, 1.0])
    kitchen.log.append(f"first of {session}")
    kitchen.state.decide(4, "running")
    kitchen.notes.append("hello ")
    kitchen.owner = session
    kitchen.best = session % 2
    kitchen.first = datetime(2027, 1, 15, tzinfo=UTC)
    kitchen.tokens.grant(5)
    kitchen.tokens.spend(2)
    kitchen.banned.update(["x", "y"])
    if session == SESSION:
        kitchen.banned.discard("x")
    kitchen.owners["k"] = "me"
    kitchen.scores["k"]["best"] = 1 if session == SESSION else 0.5
    kitchen.findings["k"] = [1]
    kitchen.nested[7]["inner"].add("leaf")
    kitchen.nested.create(8)
    commit(shard, overlay, "write", "test", "")


def test_plain_data_equals_the_class_snapshot() -> None:
    shard = Shard()
    write(shard)
    other = Shard()
    write(other, OTHER)
    shard.join(other.snapshot())
    expected = Kitchen.bind(ShardView(shard), "Kitchen/1").snapshot()
    assert plain_document(shard, "Kitchen/1") == expected
    assert dict(plain_documents(shard)) == {"Kitchen/1": expected}
    assert expected["effort"] == 6
    assert expected["owner"] == [OTHER, SESSION]
    assert expected["best"] == 1
    assert expected["tokens"] == 6
    assert expected["banned"] == ["y"]
    assert expected["owners"] == {"k": ["me"]}
    assert expected["scores"] == {"k": {"best": 1}}
    assert expected["nested"] == {7: {"inner": ["leaf"]}, 8: {}}


def test_a_removed_field_is_not_shown() -> None:
    shard = Shard()
    write(shard)
    overlay = Overlay(shard, SESSION, HybridClock(lambda: NOW))
    del Kitchen.bind(overlay, "Kitchen/1").findings["k"]
    commit(shard, overlay, "remove", "test", "")
    assert "findings" not in plain_document(shard, "Kitchen/1")


def test_an_empty_document_shows_no_field() -> None:
    shard = Shard()
    overlay = Overlay(shard, SESSION, HybridClock(lambda: NOW))
    create_document(overlay, Kitchen, "Kitchen/2")
    commit(shard, overlay, "create", "test", "")
    assert dict(plain_documents(shard)) == {"Kitchen/2": {}}


def test_a_missing_document_is_named() -> None:
    with pytest.raises(InvalidId, match="no document 'Kitchen/9'"):
        plain_document(Shard(), "Kitchen/9")


def test_a_denied_element_is_not_in_its_set() -> None:
    """A remove-wins set's marker, which wins until an add has seen it."""
    shard = Shard()
    path = element_path(field_path("labels", TypeCode.SET), "x")
    shard.apply(SESSION, 1, Operation("Kitchen/1", path, PRESENT, ()))
    shard.apply(OTHER, 1, Operation("Kitchen/1", path, ABSENT, ()))
    assert plain_document(shard, "Kitchen/1") == {"labels": []}
    seen: tuple[Removal, ...] = (Removal(path, False, ((OTHER, 1),)),)
    shard.apply(SESSION, 2, Operation("Kitchen/1", path, PRESENT, seen))
    assert plain_document(shard, "Kitchen/1") == {"labels": ["x"]}


def test_one_name_with_two_types_shows_both() -> None:
    shard = Shard()
    shard.apply(SESSION, 1, Operation("T/1", field_path("n", TypeCode.COUNTER), b"\x05", ()))
    shard.apply(SESSION, 2, Operation("T/1", field_path("n", TypeCode.FLAG), b"\xc3", ()))
    assert plain_document(shard, "T/1") == {"n": 5, "n (flag)": True}


def test_a_key_no_class_could_write_is_shown_as_text() -> None:
    shard = Shard()
    path = child_path(field_path("m", TypeCode.MAP), [1, 2], TypeCode.COUNTER)
    shard.apply(SESSION, 1, Operation("T/1", path, b"\x05", ()))
    assert plain_document(shard, "T/1") == {"m": {"[1, 2]": 5}}


def test_one_value_by_its_path() -> None:
    shard = Shard()
    write(shard)
    document = "Kitchen/1"
    assert plain_value(shard, document, "effort") == 3
    assert plain_value(shard, document, ("notes",)) == "hello "
    assert plain_value(shard, document, "findings.k") == [1]
    assert plain_value(shard, document, "findings.k.0") == 1
    assert plain_value(shard, document, "title.a.1") == 2.5
    assert plain_value(shard, document, ("title", "a", 3)) == b"raw"
    assert plain_value(shard, document, "nested") == {7: {"inner": ["leaf"]}, 8: {}}
    assert plain_value(shard, document, "nested.7.inner") == ["leaf"]
    assert plain_value(shard, document, ("nested", 7, "inner", 0)) == "leaf"
    assert plain_value(shard, document, "state.epoch") == 4
    assert plain_value(shard, document, ()) == plain_document(shard, document)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("finding.k", r"Kitchen/1 has no 'finding'; did you mean 'findings'\?"),
        (
            "xyzzy",
            r"Kitchen/1 has no 'xyzzy'; it has log, best, done, first, notes, owner, ",
        ),
        ("findings.x", r"Kitchen/1\.findings has no 'x'; it has k"),
        (("nested", "7"), r"Kitchen/1\.nested has no '7'; did you mean 7\?"),
        (("nested", True), r"Kitchen/1\.nested has no True; it has 7, 8"),
        ("log.5", r"Kitchen/1\.log has no '5'; it has 0"),
        ("effort.x", r"Kitchen/1\.effort is int: nothing lies inside it"),
        ("notes.0", r"Kitchen/1\.notes is str: nothing lies inside it"),
        ("nested.8.x", r"Kitchen/1\.nested\.8 has no 'x'; it has nothing"),
        ("", r"Kitchen/1 has no ''"),
    ],
)
def test_a_path_to_nothing_names_the_nearest(path: str | tuple[Any, ...], message: str) -> None:
    shard = Shard()
    write(shard)
    with pytest.raises(UnknownField, match=message):
        plain_value(shard, "Kitchen/1", path)
    with pytest.raises(InvalidId, match="no document 'Kitchen/2'"):
        plain_value(shard, "Kitchen/2", path)


def test_an_emptied_text_is_not_shown() -> None:
    shard = Shard()
    write(shard)
    overlay = Overlay(shard, SESSION, HybridClock(lambda: NOW))
    Kitchen.bind(overlay, "Kitchen/1").notes.clear()
    commit(shard, overlay, "clear", "test", "")
    assert "notes" not in plain_document(shard, "Kitchen/1")
