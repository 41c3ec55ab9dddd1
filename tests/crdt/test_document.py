"""Document: handles, ids, plain data, and creating and deleting the whole."""

from typing import Any

import pytest

from crdt import (
    Counter,
    Decided,
    Document,
    EditMisuse,
    Feed,
    Flag,
    InvalidId,
    Map,
    ReadOnly,
    Register,
    SchemaError,
    Set,
    Text,
    UnknownField,
)
from crdt.access import ShardView
from crdt.document import (
    create_document,
    delete_document,
    document_exists,
    document_id,
    schema_of,
)
from tests.crdt.sites import Site, exchange


class Task(Document):
    """The example of the design."""

    title: Register[str]
    done: Flag
    effort: Counter
    labels: Set[str]
    findings: Map[str, Register[dict[str, Any]]]
    log: Feed[str]
    notes: Text
    state: Decided[str]

    @property
    def shout(self) -> str:
        return (self.title or "").upper()

    @shout.setter
    def shout(self, text: str) -> None:
        self.title = text.lower()


class Renamed(Document, name="task-2"):
    title: Register[str]


EMPTY: dict[str, Any] = {
    "title": None,
    "done": False,
    "effort": 0,
    "labels": [],
    "findings": {},
    "log": [],
    "notes": "",
    "state": None,
}


def fill(task: Task) -> None:
    task.title = "Audit"
    task.done = True
    task.effort += 3
    task.labels |= {"b", "a"}
    task.findings["a"] = {"n": 1}
    task.log.append("one")
    task.notes.append("text")
    task.state.decide(1, "go")


def test_snapshot_is_plain_data_and_a_copy() -> None:
    site = Site(1)
    assert site.view(Task).snapshot() == EMPTY
    with site.edit(Task) as task:
        fill(task)
        inside = task.snapshot()
    outside = site.view(Task).snapshot()
    assert inside == outside
    assert outside == {
        "title": "Audit",
        "done": True,
        "effort": 3,
        "labels": ["a", "b"],
        "findings": {"a": {"n": 1}},
        "log": ["one"],
        "notes": "text",
        "state": {"epoch": 1, "value": "go"},
    }
    outside["findings"]["a"]["n"] = 2
    assert site.view(Task).findings["a"] == {"n": 1}
    assert list(outside) == list(EMPTY)


def test_ids() -> None:
    assert document_id(Task, "42") == "Task/42"
    assert document_id(Renamed, "{job}/1") == "task-2/{job}/1"
    view = ShardView(Site(1).shard)
    assert Task.bind(view, "Task/a/b").id == "Task/a/b"
    for wrong in ("Other/1", "Task", "Task/", "Taskx/1", "42", ""):
        with pytest.raises(InvalidId):
            Task.bind(view, wrong)
    with pytest.raises(InvalidId):
        document_id(Task, "")
    assert schema_of(Renamed).type_name == "task-2"


def test_a_document_comes_from_a_replica() -> None:
    with pytest.raises(EditMisuse, match=r"replica\.get\(Task, …\)"):
        Task()


def test_unknown_fields_name_the_nearest() -> None:
    site = Site(1)
    with site.edit(Task) as task:
        with pytest.raises(
            UnknownField, match=r"Task has no field 'titel'; did you mean 'title'\?"
        ):
            task.titel = "x"  # type: ignore[attr-defined]
        with pytest.raises(UnknownField, match="did you mean 'labels'") as caught:
            task.label.add("x")  # type: ignore[attr-defined]
        with pytest.raises(UnknownField, match="it declares title, done"):
            task.xyzzy = 1  # type: ignore[attr-defined]
        with pytest.raises(UnknownField):
            task.conflicts("titel")
    assert isinstance(caught.value, AttributeError)
    assert not hasattr(site.view(Task), "titel")
    assert site.operations() == 0


def test_own_properties_and_methods_work() -> None:
    site = Site(1)
    with site.edit(Task) as task:
        task.shout = "HELLO"
        assert task.shout == "HELLO"
        with pytest.raises(UnknownField):
            task.snapshot = 1  # type: ignore[method-assign, assignment]
    assert site.view(Task).title == "hello"


def test_views_are_live_and_read_only() -> None:
    site = Site(1)
    view = site.view(Task)
    with site.edit(Task) as task:
        fill(task)
        assert view.snapshot() == EMPTY
    assert view.title == "Audit"
    with pytest.raises(ReadOnly, match=r"Task/1 is a read-only view"):
        view.effort += 1
    with pytest.raises(ReadOnly):
        view.title = "x"
    with pytest.raises(ReadOnly):
        view.done = False
    with pytest.raises(ReadOnly):
        del view.title


def test_reprs() -> None:
    site = Site(1)
    with site.edit(Task) as task:
        assert repr(task) == "<Task/1>"
        task.title = "x"
        task.effort += 2
        assert repr(task) == "<Task/1 title='x' effort=2>"
    assert repr(task) == "<Task/1, of an edit that has ended>"
    assert repr(site.view(Task)) == "<Task/1 title='x' effort=2>"
    assert repr(Task.title) == "<Register Task.title>"
    assert repr(schema_of(Task)).startswith("<Schema Task: title, done")
    assert repr(ShardView(site.shard)) == "<ShardView of 2 entries>"


def test_a_handle_keeps_its_id() -> None:
    view = Site(1).view(Task)
    with pytest.raises(AttributeError):
        view.id = "Task/2"  # type: ignore[misc]
    assert view.id == "Task/1"


def test_conflicts_are_of_registers_only() -> None:
    with pytest.raises(SchemaError, match=r"Task\.effort is a Counter: it merges"):
        Site(1).view(Task).conflicts("effort")


def test_create_exists_delete() -> None:
    site, other = Site(1), Site(2)
    view = ShardView(site.shard)
    assert not document_exists(view, Task, "Task/1")
    overlay = site.overlay()
    assert create_document(overlay, Task, "Task/1")
    assert document_exists(overlay, Task, "Task/1")
    assert not create_document(overlay, Task, "Task/1")
    site.commit(overlay)
    assert document_exists(view, Task, "Task/1")
    assert site.shard.exists("Task/1")
    assert site.view(Task).snapshot() == EMPTY
    with site.edit(Task) as task:
        fill(task)
    overlay = site.overlay()
    assert delete_document(overlay, Task, "Task/1")
    assert not document_exists(overlay, Task, "Task/1")
    assert not delete_document(overlay, Task, "Task/1")
    assert Task.bind(overlay, "Task/1").snapshot() == EMPTY
    site.commit(overlay)
    site.send(other)
    for each in (site, other):
        assert not document_exists(ShardView(each.shard), Task, "Task/1")
        assert not each.shard.exists("Task/1")
        assert each.view(Task).snapshot() == EMPTY
        assert each.shard.entry_count == 0
    for call in (create_document, delete_document):
        with pytest.raises(InvalidId):
            call(site.overlay(), Task, "Other/1")


def test_what_others_write_at_the_time_of_a_deletion_survives() -> None:
    deleter, writer = Site(1), Site(2)
    with deleter.edit(Task) as task:
        fill(task)
    exchange(deleter, writer)
    overlay = deleter.overlay()
    delete_document(overlay, Task, "Task/1")
    deleter.commit(overlay)
    with writer.edit(Task) as task:
        task.labels.add("late")
        task.notes.append("!")
    exchange(deleter, writer)
    assert deleter.view(Task).snapshot() == EMPTY | {"labels": ["late"], "notes": "!"}


def test_a_text_alone_makes_a_document_exist() -> None:
    site = Site(1)
    with site.edit(Task) as task:
        task.notes.append("x")
    assert document_exists(ShardView(site.shard), Task, "Task/1")
    assert list(site.shard.documents("Task")) == ["Task/1"]
