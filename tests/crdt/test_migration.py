"""Two versions of a document class in one mesh: fields added, renamed, and of another type."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import pytest

from crdt import (
    Convert,
    Counter,
    Decided,
    Default,
    Document,
    Feed,
    Flag,
    Formerly,
    Map,
    Maximum,
    MultiValue,
    Register,
    RemoveWins,
    SchemaError,
    Sequence,
    Set,
    Text,
    Wire,
)
from crdt.document import delete_document, schema_of
from crdt.plain import plain_document
from crdt.snapshot import decode_snapshot, encode_snapshot
from simulations.sites import Site, exchange


class Old(Document, name="Task"):
    """The first version."""

    title: Register[str]
    size: Register[str]
    labels: Set[str]
    remarks: Text
    steps: Sequence[str]
    findings: Map[str, Register[str]]


class New(Document, name="Task"):
    """The second: a field renamed, values and fields of other types, and fields added."""

    headline: Annotated[Register[str], Wire("title")]
    size: Annotated[Register[int], Convert(str, int), Default(1)]
    labels: Annotated[Register[list[str]], Formerly(Set[str], "labels", list)]
    summary: Annotated[Register[str], Formerly(Text, "remarks", str.strip), Default("none")]
    step_count: Annotated[Register[int], Formerly(Sequence[str], "steps", len), Default(0)]
    findings: Map[str, Annotated[Register[list[str]], Convert(str, str.split)]]
    done: Flag
    effort: Counter
    log: Feed[str]
    state: Decided[str]
    notes: Text
    votes: Map[str, Counter]


def fill_old(old: Old) -> None:
    old.title = "Audit"
    old.size = "42"
    old.labels |= {"b", "a"}
    old.remarks.append(" looks fine ")
    old.steps.extend(["one", "two"])
    old.findings["x"] = "one two"


def fill_new(new: New) -> None:
    new.done = True
    new.effort += 3
    new.log.append("line")
    new.state.decide(1, "go")
    new.notes.append("note")
    new.votes["a"] += 1


ADDED = {
    "done": True,
    "effort": 3,
    "log": ["line"],
    "state": {"epoch": 1, "value": "go"},
    "notes": "note",
    "votes": {"a": 1},
}


def test_what_the_old_version_wrote_is_read_by_the_new() -> None:
    site = Site(1)
    new = site.view(New)
    assert (new.size, new.labels, new.summary) == (1, None, "none")
    with site.edit(Old) as old:
        fill_old(old)
    before = site.shard.digest()
    assert new.headline == "Audit"
    assert new.size == 42
    assert new.labels == ["a", "b"]
    assert new.summary == "looks fine"
    assert new.step_count == 2
    assert new.findings["x"] == ["one", "two"]
    assert new.snapshot()["findings"] == {"x": ["one", "two"]}
    assert new.undeclared() == {}
    assert site.shard.digest() == before


def test_the_first_write_takes_the_former_fields_place() -> None:
    site = Site(1)
    with site.edit(Old) as old:
        fill_old(old)
    with site.edit(New) as new:
        new.labels = [*(new.labels or []), "c"]
        new.size = (new.size or 0) + 1
        new.summary = "short"
        assert new.labels == ["a", "b", "c"]
    with site.edit(Old) as old:
        old.labels.add("unseen")
    new = site.view(New)
    assert (new.labels, new.size, new.summary) == (["a", "b", "c"], 43, "short")
    assert set(site.view(Old).labels) == {"a", "b", "unseen"}
    with site.edit(New) as new:
        del new.labels
    assert site.view(New).labels == ["a", "b", "unseen"]


def test_concurrent_values_of_both_versions_are_both_read() -> None:
    older, newer = Site(1), Site(2)
    with older.edit(Old) as old:
        old.size = "7"
    newer.wall_ms += 1
    with newer.edit(New) as new:
        new.size = 8
    exchange(older, newer)
    for each in (older, newer):
        assert each.view(New).size == 8
        assert each.view(New).conflicts("size") == [7]


def by_frames(source: Site, target: Site) -> None:
    source.send(target)


def by_snapshot(source: Site, target: Site) -> None:
    target.shard.join(decode_snapshot(encode_snapshot(source.shard.snapshot())))


@pytest.mark.parametrize("deliver", [by_frames, by_snapshot])
def test_old_peers_keep_and_pass_on_what_they_do_not_know(
    deliver: Callable[[Site, Site], None],
) -> None:
    newer, old_peer, third = Site(1), Site(2), Site(3)
    with newer.edit(New) as new:
        new.headline = "Audit"
        fill_new(new)
    deliver(newer, old_peer)
    view = old_peer.view(Old)
    assert view.title == "Audit"
    assert view.undeclared() == ADDED
    assert plain_document(old_peer.shard, "Task/1") == ADDED | {"title": "Audit"}
    with old_peer.edit(Old) as old:
        assert old.undeclared() == ADDED
        old.title = "Audited"
    deliver(newer, third)
    deliver(old_peer, third)
    assert third.view(New).headline == "Audited"
    assert {name: third.view(New).snapshot()[name] for name in ADDED} == ADDED
    if deliver is by_snapshot:
        alone = Site(4)
        deliver(old_peer, alone)
        assert {name: alone.view(New).snapshot()[name] for name in ADDED} == ADDED


class Middle(Document, name="Task"):
    """A version with added fields, but nothing that makes a deletion final."""

    title: Register[str]
    effort: Counter
    notes: Text
    plan: Sequence[int]
    owner: MultiValue[str]
    best: Maximum[int]
    banned: Annotated[Set[str], RemoveWins()]


def test_deleting_removes_what_the_class_does_not_know() -> None:
    site, other = Site(1), Site(2)
    with site.edit(Middle) as middle:
        middle.effort += 3
        middle.notes.append("note")
        middle.plan.extend([3, 1])
        middle.owner = "me"
        middle.best = 3
        middle.banned.add("x")
        middle.banned.discard("y")
    written = site.view(Middle).snapshot()
    del written["title"]
    site.send(other)
    assert other.view(Old).undeclared() == written | {"owner": ["me"]}
    overlay = other.overlay()
    assert delete_document(overlay, Old, "Task/1")
    assert Old.bind(overlay, "Task/1").undeclared() == {}
    other.commit(overlay)
    assert schema_of(Old).on_delete == "merge"
    exchange(site, other)
    for each in (site, other):
        assert not each.shard.exists("Task/1")
        assert each.view(Middle).snapshot() == Site(3).view(Middle).snapshot()


def test_one_name_with_two_types_is_two_fields() -> None:
    site = Site(1)
    with site.edit(Old) as old:
        old.labels.add("x")
    with site.edit(New) as new:
        new.labels = ["y"]
    assert set(site.view(Old).labels) == {"x"}
    assert site.view(Old).undeclared() == {"labels": ["y"]}


class Strict(Document, name="Task"):
    size: Annotated[Register[int], Convert(str, int)]
    due: Annotated[Register[datetime], Convert(int, lambda seconds: seconds / 2)]
    count: Annotated[Register[int], Formerly(Set[str], "labels", lambda labels: str(len(labels)))]
    total: Annotated[Register[int], Formerly(Text, "remarks", int)]


class Loose(Document, name="Task"):
    size: Register[Any]
    due: Register[Any]
    labels: Set[str]
    remarks: Text


@pytest.mark.parametrize(
    ("field", "write", "message"),
    [
        ("size", 1.5, r"Task\.size holds float 1\.5, which is neither int nor str, .* assign it"),
        ("size", "many", r"Task\.size holds str 'many', which int refuses \(ValueError: .* anew"),
        ("due", 3, r"Task\.due: <lambda> made float 1\.5 of 3, declared is datetime; correct"),
        ("due", None, r"Task\.due holds NoneType None, which is neither datetime nor int"),
        ("labels", "a", r"Task\.count: <lambda> made str '1' of \['a'\], declared is int"),
        ("remarks", "many", r"Task\.total holds str 'many', which int refuses \(ValueError"),
    ],
)
def test_what_neither_fits_nor_converts_is_named(field: str, write: Any, message: str) -> None:
    site = Site(1)
    with site.edit(Loose) as loose:
        if field == "labels":
            loose.labels.add(write)
        elif field == "remarks":
            loose.remarks.append(write)
        else:
            setattr(loose, field, write)
    before = site.shard.digest()
    view = site.view(Strict)
    read = {"labels": "count", "remarks": "total"}.get(field, field)
    for call in (lambda: getattr(view, read), view.snapshot):
        with pytest.raises(SchemaError, match=message):
            call()
    assert repr(view) == f"<Task/1 {read}=<SchemaError>>"
    assert site.shard.digest() == before
    # The cure that the error names: others are read all the same, and writing it anew mends it.
    good: Any = datetime(2027, 1, 1, tzinfo=UTC) if field == "due" else 5
    with site.edit(Strict) as strict:
        setattr(strict, read, good)
    assert site.view(Strict).snapshot()[read] == good
