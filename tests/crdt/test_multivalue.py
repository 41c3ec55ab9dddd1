"""MultiValue: whatever was written at the same time is all there, until somebody has seen it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from crdt import Document, InvalidValue, Map, MultiValue, ReadOnly, SchemaError
from crdt.document import delete_document
from crdt.plain import plain_document
from simulations.sites import START_MS, Site, exchange


class Task(Document):
    owner: MultiValue[str]
    any: MultiValue[Any]
    by_key: Map[str, MultiValue[str]]


def write(site: Site, value: str) -> None:
    with site.edit(Task) as task:
        task.owner = value
        task.by_key["k"] = value


def test_reads_empty_then_what_was_written() -> None:
    site = Site(1)
    assert site.view(Task).owner == ()
    assert site.view(Task).by_key["k"] == ()
    assert "k" not in site.view(Task).by_key
    with site.edit(Task) as task:
        task.owner = "ann"
        assert task.owner == ("ann",)
        task.owner = "bob"
        assert task.owner == ("bob",)
    assert site.view(Task).owner == ("bob",)
    assert site.shard.entry_count == 1
    with site.edit(Task) as task:
        del task.owner
        assert task.owner == ()
        del task.owner
    assert site.view(Task).owner == ()
    assert site.shard.entry_count == 0
    assert site.operations() == 3


def test_all_concurrent_values_are_read_the_latest_first_and_the_next_write_resolves_them() -> None:
    sites = [Site(number, START_MS + number) for number in (1, 3, 2)]
    for site, value in zip(sites, ("one", "three", "two"), strict=True):
        write(site, value)
    exchange(*sites)
    for site in sites:
        assert site.view(Task).owner == ("three", "two", "one")
        assert site.view(Task).by_key["k"] == ("three", "two", "one")
    shown = {"owner": ["three", "two", "one"], "by_key": {"k": ["three", "two", "one"]}}
    assert sites[0].view(Task).snapshot() == {**shown, "any": []}
    assert plain_document(sites[0].shard, "Task/1") == shown
    write(sites[1], "done")
    exchange(*sites)
    assert sites[0].view(Task).owner == ("done",)
    assert sites[0].view(Task).by_key["k"] == ("done",)
    assert sites[0].shard.entry_count == 2


def test_a_write_is_stamped_above_what_it_replaces() -> None:
    """The first site's clock is ahead: who answers it stands before who wrote in between."""
    ahead, answers, between = Site(1, START_MS + 9), Site(2, START_MS), Site(3, START_MS + 5)
    write(ahead, "first")
    exchange(ahead, answers)
    write(answers, "answer")
    write(between, "between")
    exchange(ahead, answers, between)
    assert ahead.view(Task).owner == ("answer", "between")


def test_equal_values_are_read_once_and_equal_is_a_matter_of_encoding() -> None:
    values: list[Any] = [1, True, 1.0, 1, {"a": [1]}, {"a": [1]}]
    sites = [Site(number, START_MS + number) for number in range(1, len(values) + 1)]
    for site, value in zip(sites, values, strict=True):
        with site.edit(Task) as task:
            task.any = value
    exchange(*sites)
    assert repr(sites[0].view(Task).any) == "({'a': [1]}, 1, 1.0, True)"


def test_a_concurrent_write_survives_a_removal() -> None:
    writer, remover = Site(1), Site(2)
    write(writer, "before")
    exchange(writer, remover)
    write(writer, "after")
    with remover.edit(Task) as task:
        del task.owner
        del task.by_key["k"]
    exchange(writer, remover)
    assert remover.view(Task).owner == ("after",)
    assert dict(remover.view(Task).by_key.items()) == {"k": ("after",)}
    overlay = remover.overlay()
    assert delete_document(overlay, Task, "Task/1")
    remover.commit(overlay)
    assert remover.view(Task).owner == ()


@pytest.mark.parametrize("value", [3, None, b"x", ["x"], datetime(2026, 1, 1, tzinfo=UTC)])
def test_a_value_of_the_wrong_type_changes_nothing(value: object) -> None:
    site = Site(1)
    write(site, "x")
    before = site.shard.digest()
    with site.edit(Task) as task:
        with pytest.raises(InvalidValue, match=r"Task\.owner takes str, not "):
            setattr(task, "owner", value)  # noqa: B010 - mypy would refuse the assignment
        with pytest.raises(InvalidValue, match=r"Task\.by_key\[…\] takes str, not "):
            task.by_key["k"] = value  # type: ignore[assignment]
        with pytest.raises(InvalidValue, match="naive datetime"):
            task.any = datetime(2026, 1, 1)
    assert site.operations() == 2
    assert site.shard.digest() == before


def test_read_only_refuses_and_changes_nothing() -> None:
    site = Site(1)
    with site.edit(Task) as ended:
        ended.owner = "x"
    before = site.shard.digest()
    for task in (site.view(Task), ended):
        with pytest.raises(ReadOnly):
            task.owner = "y"
        with pytest.raises(ReadOnly):
            del task.owner
        with pytest.raises(ReadOnly):
            task.by_key["k"] = "y"
    assert site.shard.digest() == before


def test_has_all_its_values_in_sight_and_no_conflicts() -> None:
    with pytest.raises(SchemaError, match="no conflicts"):
        Site(1).view(Task).conflicts("owner")
