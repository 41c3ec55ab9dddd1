"""Plain data without classes says the same as the classes themselves."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from crdt import Counter, Decided, Document, Feed, Flag, InvalidId, Map, Register, Set, Text
from crdt.access import Overlay, ShardView, commit
from crdt.clock import HybridClock
from crdt.document import create_document
from crdt.ids import new_session
from crdt.lattice import Shard
from crdt.operation import Operation, Removal
from crdt.paths import TypeCode, child_path, element_path, field_path
from crdt.plain import plain_document, plain_documents
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
    kitchen.findings["k"] = [1]
    kitchen.nested[7]["inner"].add("leaf")
    kitchen.nested.create(8)
    commit(shard, overlay, "write", "test", "")


def test_plain_data_equals_the_class_snapshot() -> None:
    shard = Shard()
    write(shard)
    write(shard, OTHER)
    expected = Kitchen.bind(ShardView(shard), "Kitchen/1").snapshot()
    assert plain_document(shard, "Kitchen/1") == expected
    assert dict(plain_documents(shard)) == {"Kitchen/1": expected}
    assert expected["effort"] == 6
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
    """A remove-wins set's marker: no class makes them yet, but the format has them."""
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
