"""Document: handles, ids, plain data, and creating and deleting the whole."""

from typing import Annotated, Any

import pytest

from crdt import (
    BoundedCounter,
    Counter,
    Decided,
    Document,
    EditMisuse,
    Feed,
    Flag,
    InvalidId,
    Map,
    Maximum,
    MultiValue,
    ReadOnly,
    Register,
    RemoveWins,
    SchemaError,
    Sequence,
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
from simulations.sites import Site, exchange


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


class Page(Document):
    title: Register[str]
    labels: Set[str]
    notes: Text


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
    assert not document_exists(view, "Task/1")
    overlay = site.overlay()
    assert create_document(overlay, Task, "Task/1")
    assert document_exists(overlay, "Task/1")
    assert not create_document(overlay, Task, "Task/1")
    site.commit(overlay)
    assert document_exists(view, "Task/1")
    assert site.shard.exists("Task/1")
    assert site.view(Task).snapshot() == EMPTY
    with site.edit(Task) as task:
        fill(task)
    overlay = site.overlay()
    assert delete_document(overlay, Task, "Task/1")
    assert not document_exists(overlay, "Task/1")
    assert not delete_document(overlay, Task, "Task/1")
    assert Task.bind(overlay, "Task/1").snapshot() == EMPTY
    site.commit(overlay)
    site.send(other)
    for each in (site, other):
        assert not document_exists(ShardView(each.shard), "Task/1")
        assert not each.shard.exists("Task/1")
        assert each.view(Task).snapshot() == EMPTY
        assert each.shard.entry_count == 0
    for call in (create_document, delete_document):
        with pytest.raises(InvalidId):
            call(site.overlay(), Task, "Other/1")


def delete(site: Site, cls: type[Document], name: str = "1") -> None:
    overlay = site.overlay()
    assert delete_document(overlay, cls, document_id(cls, name))
    site.commit(overlay)


def test_what_others_write_at_the_time_of_a_deletion_survives_in_a_merge() -> None:
    deleter, writer = Site(1), Site(2)
    with deleter.edit(Page) as page:
        page.title = "old"
        page.labels |= {"a", "b"}
        page.notes.append("old")
    exchange(deleter, writer)
    delete(deleter, Page)
    with writer.edit(Page) as page:
        page.labels.add("late")
        page.notes.append("!")
    exchange(deleter, writer)
    assert deleter.view(Page).snapshot() == {"title": None, "labels": ["late"], "notes": "!"}


def test_a_document_that_is_gone_never_comes_back() -> None:
    """What was written to it without having seen the deletion is dropped, in whatever order it
    arrives, and what is written afterwards begins with nothing.
    """
    deleter, writer, late = Site(1), Site(2), Site(3)
    with deleter.edit(Task) as task:
        fill(task)
    deleter.send(writer)
    deleter.send(late)
    with writer.edit(Task) as task:
        task.title = "concurrent"
        task.effort += 5
        task.labels.add("late")
        task.notes.append("!")
        task.state.decide(9, "concurrent")
    delete(deleter, Task)
    assert not document_exists(ShardView(deleter.shard), "Task/1")
    with deleter.edit(Task) as task:
        assert task.snapshot() == EMPTY
        task.title = "again"
        task.state.decide(1, "begin")
    # One learns of the deletion first, one of the concurrent writes, one joins states.
    writer.send(deleter)
    deleter.send(late)
    writer.send(late)
    deleter.send(writer)
    states = [each.shard.digest() for each in (deleter, writer, late)]
    assert states == [states[0]] * 3
    anew = EMPTY | {"title": "again", "state": {"epoch": 1, "value": "begin"}}
    for each in (deleter, writer, late):
        assert each.view(Task).snapshot() == anew
        assert each.shard.generation("Task/1") == 1
    exchange(deleter, writer, late)
    assert late.view(Task).snapshot() == anew


def test_a_document_that_is_gone_does_not_exist_anywhere() -> None:
    deleter, writer = Site(1), Site(2)
    with deleter.edit(Task) as task:
        fill(task)
    exchange(deleter, writer)
    delete(deleter, Task)
    with writer.edit(Task) as task:
        task.effort += 1
    exchange(deleter, writer)
    for each in (deleter, writer):
        assert not each.shard.exists("Task/1")
        assert list(each.shard.documents()) == []
        assert each.view(Task).snapshot() == EMPTY
        overlay = each.overlay()
        assert not delete_document(overlay, Task, "Task/1")
        assert create_document(overlay, Task, "Task/1")
        overlay.close()


def test_a_class_that_does_not_know_of_a_decision_deletes_it_too() -> None:
    site = Site(1)
    with site.edit(Task) as task:
        fill(task)

    class Older(Document, name="Task"):
        title: Register[str]

    assert site.view(Older).undeclared()["state"] == {"epoch": 1, "value": "go"}
    delete(site, Older)
    assert site.view(Task).snapshot() == EMPTY
    assert site.shard.generation("Task/1") == 1


def test_deleting_and_writing_again_in_one_edit() -> None:
    site, other = Site(1), Site(2)
    with site.edit(Task) as task:
        fill(task)
    overlay = site.overlay()
    task = Task.bind(overlay, "Task/1")
    task.notes.append("lost")
    assert delete_document(overlay, Task, "Task/1")
    task.effort += 1
    task.notes.append("kept")
    inside = task.snapshot()
    site.commit(overlay)
    site.send(other)
    assert inside == EMPTY | {"effort": 1, "notes": "kept"}
    assert site.view(Task).snapshot() == other.view(Task).snapshot() == inside
    assert other.shard.digest() == site.shard.digest()


def test_reprs_are_bounded() -> None:
    site = Site(1)
    with site.edit(Task) as task:
        task.labels.update(f"label {number}" for number in range(10_000))
        task.log.extend(str(number) for number in range(1_000))
        task.title = "long " * 1_000
        task.notes.append("text " * 10_000)
        for number in range(100):
            task.findings[str(number)] = {"deep": [[[[[number]]]]], "wide": list(range(1_000))}
    view = site.view(Task)
    for shown in (view, view.labels, view.log, view.notes, view.findings):
        assert len(repr(shown)) < 2_000
        assert "…" in repr(shown)
    assert repr(view.labels).startswith("{'label 0', 'label 1', ")
    assert repr(view.labels).endswith(", …}")
    assert repr(view.log) == "['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '10', '11', …]"


def test_history_is_what_the_state_still_knows() -> None:
    site, other = Site(1), Site(2)
    with site.edit(Task) as task:
        fill(task)
    exchange(site, other)
    for each in (site, other):
        each.wall_ms += each.session % 7
        with each.edit(Task) as task:
            task.title = f"by {each.session}"
            task.effort += 1
            task.findings["b"] = {"by": each.session}
    exchange(site, other)
    view = other.view(Task)
    latest, lost = view.history_of("title")
    assert latest.value == view.title
    assert [lost.value] == view.conflicts("title")
    assert {latest.session, lost.session} == {site.session, other.session}
    assert latest.stamp is not None
    assert lost.stamp is not None
    assert (latest.stamp, latest.session) > (lost.stamp, lost.session)
    assert {(each.session, each.stamp, each.value) for each in view.history_of("effort")} == {
        (site.session, None, 4),
        (other.session, None, 1),
    }
    assert [(each.value, each.stamp) for each in view.history_of("done")] == [(True, None)]
    assert {(each.keys, each.value) for each in view.history_of("labels")} == {
        (("a",), True),
        (("b",), True),
    }
    assert [each.value for each in view.history_of("log")] == ["one"]
    assert [each.keys for each in view.history_of("findings")] == [("b",), ("b",), ("a",)]
    assert view.history_of("state")[0][2:] == (None, {"epoch": 1, "value": "go"}, ())
    with pytest.raises(SchemaError, match=r"Task\.notes is a Text: it does not keep who wrote"):
        view.history_of("notes")
    with pytest.raises(UnknownField, match="did you mean 'title'"):
        view.history_of("titel")
    assert Site(3).view(Task).history_of("title") == []


def test_history_of_the_other_types() -> None:
    class Other(Document):
        owner: MultiValue[str]
        best: Maximum[int]
        budget: BoundedCounter
        banned: Annotated[Set[str], RemoveWins()]
        steps: Sequence[str]

    site = Site(1)
    with site.edit(Other) as other:
        other.owner = "me"
        other.best = 3
        other.budget.grant(5)
        other.banned.add("kept")
        other.banned.discard("gone")
        other.steps.append("x")
    view = site.view(Other)
    (owner,) = view.history_of("owner")
    assert owner[:2] == (site.session, 1)
    assert owner.stamp is not None
    assert owner.value == "me"
    assert [each[1:4] for each in view.history_of("best")] == [(2, None, 3)]
    assert [each[1:4] for each in view.history_of("budget")] == [(3, None, [5, 0, [], []])]
    assert [(each.keys, each.value) for each in view.history_of("banned")] == [
        (("gone",), False),
        (("kept",), True),
    ]
    with pytest.raises(SchemaError, match=r"Other\.steps is a Sequence: it does not keep who"):
        view.history_of("steps")


def test_a_text_alone_makes_a_document_exist() -> None:
    site = Site(1)
    with site.edit(Task) as task:
        task.notes.append("x")
    assert document_exists(ShardView(site.shard), "Task/1")
    assert list(site.shard.documents("Task")) == ["Task/1"]
