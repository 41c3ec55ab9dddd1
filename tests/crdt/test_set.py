"""Set: add-wins or remove-wins, elements by canonical encoding, the same order everywhere."""

from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdt import (
    Document,
    Feed,
    InvalidValue,
    Map,
    OutOfBounds,
    ReadOnly,
    RemoveWins,
    SchemaError,
    Set,
)
from crdt.codec import encode
from crdt.document import delete_document
from crdt.plain import plain_document
from simulations.sites import Site, exchange


class Bag(Document):
    labels: Set[str]
    mixed: Set[Any]


class Access(Document):
    allowed: Annotated[Set[str], RemoveWins()]
    few: Annotated[Set[str], RemoveWins(markers=3)]
    bare: Annotated[Set[str], RemoveWins]


def test_behaves_like_a_set() -> None:
    site = Site(1)
    with site.edit(Bag) as bag:
        labels = bag.labels
        assert not labels
        assert repr(labels) == "set()"
        labels.add("b")
        labels.add("a")
        bag.labels |= {"c", "d"}
        labels.discard("d")
        labels.discard("never")
        labels.remove("c")
        with pytest.raises(KeyError):
            labels.remove("c")
        assert "a" in labels
        assert "d" not in labels
        assert object() not in labels
        labels.update(["x", "x"])
    labels = site.view(Bag).labels
    assert list(labels) == ["a", "b", "x"]
    assert len(labels) == 3
    assert labels == {"a", "b", "x"}
    assert labels & {"a", "z"} == {"a"}
    assert labels | {"z"} == {"a", "b", "x", "z"}
    assert labels != {"a", "b"}
    assert labels != ["a", "b", "x"]
    assert repr(labels) == "{'a', 'b', 'x'}"
    with site.edit(Bag) as bag:
        bag.labels -= {"x"}
        assert bag.labels.pop() == "a"
        bag.labels.clear()
        bag.labels.clear()
        assert len(bag.labels) == 0
        bag.labels.add("again")
    assert list(site.view(Bag).labels) == ["again"]
    assert site.shard.entry_count == 1


def test_elements_are_told_apart_by_their_encoding() -> None:
    site = Site(1)
    values = [1, True, 1.0, "1", b"1", None, [1], [True], {"a": 1}, -0.0, 0.0, 0, False]
    with site.edit(Bag) as bag:
        for value in values:
            bag.mixed.add(value)
        bag.mixed.add({"a": 1})
    read = list(site.view(Bag).mixed)
    assert [repr(value) for value in read] == [repr(value) for value in sorted(values, key=encode)]
    with site.edit(Bag) as bag:
        bag.mixed.remove(True)
    assert True not in site.view(Bag).mixed
    assert 1 in site.view(Bag).mixed
    assert 1.0 in site.view(Bag).mixed


def test_a_concurrent_add_survives_a_removal() -> None:
    adder, remover = Site(1), Site(2)
    with adder.edit(Bag) as bag:
        bag.labels |= {"x", "y"}
    exchange(adder, remover)
    with adder.edit(Bag) as bag:
        bag.labels.add("x")
    with remover.edit(Bag) as bag:
        bag.labels.clear()
    exchange(adder, remover)
    assert list(remover.view(Bag).labels) == ["x"]
    with remover.edit(Bag) as bag:
        bag.labels.remove("x")
    exchange(adder, remover)
    assert list(adder.view(Bag).labels) == []
    assert adder.shard.entry_count == 0


def test_adding_twice_keeps_one_entry() -> None:
    site, other = Site(1), Site(2)
    with site.edit(Bag) as bag:
        bag.labels.add("x")
    with other.edit(Bag) as bag:
        bag.labels.add("x")
    exchange(site, other)
    assert len(site.view(Bag).labels) == 1
    assert site.shard.entry_count == 2
    with site.edit(Bag) as bag:
        bag.labels.add("x")
    exchange(site, other)
    assert other.shard.entry_count == 1


def test_refusals() -> None:
    site, other = Site(1), Site(2)
    with site.edit(Bag) as bag:
        with pytest.raises(
            InvalidValue, match=r"Bag\.labels takes elements of type str, not int: 3"
        ):
            bag.labels.add(3)  # type: ignore[arg-type]
        with pytest.raises(SchemaError, match=r"Bag\.labels cannot be assigned; use \.add"):
            bag.labels = {"x"}  # type: ignore[assignment]
        with other.edit(Bag) as others, pytest.raises(SchemaError):
            bag.labels = others.labels
        with pytest.raises(InvalidValue, match="path of"):
            bag.labels.add("x" * 2000)
        with pytest.raises(InvalidValue):
            bag.mixed.add({1, 2})
    assert site.operations() == 0
    with pytest.raises(ReadOnly):
        site.view(Bag).labels.add("x")
    with pytest.raises(ReadOnly):
        site.view(Bag).labels.discard("x")
    with pytest.raises(ReadOnly):
        site.view(Bag).labels.clear()


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["add", "discard", "clear", "join"]),
            st.integers(0, 3),
        ),
        max_size=40,
    )
)
@settings(deadline=None)
def test_each_step_does_what_pythons_set_does_and_all_agree_after(
    steps: list[tuple[int, str, int]],
) -> None:
    sites = [Site(number) for number in (1, 2, 3)]
    for number, what, element in steps:
        label = str(element)
        if what == "join":
            sites[number].shard.join(sites[number - 1].shard.snapshot())
            continue
        with sites[number].edit(Bag) as bag:
            model = set(bag.labels)
            arguments = [] if what == "clear" else [label]
            getattr(bag.labels, what)(*arguments)
            getattr(model, what)(*arguments)
            assert bag.labels == model
        assert sites[number].view(Bag).labels == model
    exchange(*sites)
    assert len({tuple(site.view(Bag).labels) for site in sites}) == 1


def test_remove_wins_behaves_like_a_set() -> None:
    site = Site(1)
    with site.edit(Access) as access:
        allowed = access.allowed
        allowed |= {"a", "b", "c", "d"}
        allowed.remove("a")
        with pytest.raises(KeyError):
            allowed.remove("a")
        allowed.discard("never")
        access.allowed -= {"b", "x"}
        assert allowed == {"c", "d"}
        assert "a" not in allowed
        assert "never" not in allowed
        allowed.add("a")
        assert allowed.pop() == "a"
        access.allowed -= access.allowed & {"d"}
    assert list(site.view(Access).allowed) == ["c"]
    assert len(site.view(Access).allowed) == 1
    assert site.view(Access).snapshot() == {"allowed": ["c"], "few": [], "bare": []}
    assert plain_document(site.shard, "Access/1") == {"allowed": ["c"]}
    with site.edit(Access) as access:
        access.allowed.clear()
        access.allowed.clear()
        assert not access.allowed
        access.allowed.add("again")
    assert list(site.view(Access).allowed) == ["again"]


@pytest.mark.parametrize("field", ["allowed", "bare"])
@pytest.mark.parametrize("known", [True, False])
def test_a_removal_wins_against_a_concurrent_add(field: str, known: bool) -> None:
    adder, remover = Site(1), Site(2)
    if known:
        with adder.edit(Access) as access:
            getattr(access, field).add("x")
        exchange(adder, remover)
    with adder.edit(Access) as access:
        getattr(access, field).add("x")
    with remover.edit(Access) as access:
        getattr(access, field).discard("x")
    exchange(adder, remover)
    assert "x" not in getattr(adder.view(Access), field)
    assert list(getattr(remover.view(Access), field)) == []
    with adder.edit(Access) as access:  # having seen the removal
        getattr(access, field).add("x")
    exchange(adder, remover)
    assert list(getattr(remover.view(Access), field)) == ["x"]
    assert adder.shard.entry_count == 1


def test_as_many_removals_are_remembered_as_declared() -> None:
    site = Site(1)
    with site.edit(Access) as access:
        access.few |= {"keep", "also"}
        access.few -= {"1", "2"}
        access.few.discard("3")
        access.few.discard("3")
    before, written = site.shard.digest(), site.operations()
    refused = (
        r"Access\.few: it would remember 4 removed elements, at most 3 are declared; "
        r"\.forget_removed\(\) makes room"
    )
    with site.edit(Access) as access:
        with pytest.raises(OutOfBounds, match=refused):
            access.few.discard("keep")
        with pytest.raises(OutOfBounds, match="5 removed elements"):
            access.few.clear()
        with pytest.raises(OutOfBounds):
            access.few -= {"1", "4"}
    assert site.shard.digest() == before
    assert site.operations() == written
    with site.edit(Access) as access:
        access.few.add("3")
        access.few.discard("3")
        assert access.few.forget_removed(1) == 1
        access.few.discard("keep")
        assert access.few.forget_removed() == 3
        assert access.few.forget_removed() == 0
    assert list(site.view(Access).few) == ["also"]
    assert site.shard.entry_count == 1


def test_what_is_forgotten_no_longer_wins() -> None:
    adder, remover = Site(1), Site(2)
    with adder.edit(Access) as access:
        access.allowed |= {"x", "y"}
    with remover.edit(Access) as access:
        access.allowed -= {"x", "y"}
    remover.shard.join(adder.shard.snapshot())
    with adder.edit(Access) as access:
        access.allowed.add("x")
    with remover.edit(Access) as access:
        assert access.allowed.forget_removed() == 2
        assert not access.allowed
    exchange(adder, remover)
    assert list(adder.view(Access).allowed) == ["x"]
    assert remover.shard.entry_count == 1


def test_a_concurrent_removal_survives_a_deletion_of_the_document() -> None:
    remover, deleter = Site(1), Site(2)
    with deleter.edit(Access) as access:
        access.allowed |= {"x", "y"}
    exchange(remover, deleter)
    with remover.edit(Access) as access:
        access.allowed.discard("x")
    overlay = deleter.overlay()
    assert delete_document(overlay, Access, "Access/1")
    deleter.commit(overlay)
    with deleter.edit(Access) as access:
        access.allowed.add("x")
    exchange(remover, deleter)
    assert list(remover.view(Access).allowed) == []


def test_remove_wins_refusals_change_nothing() -> None:
    site = Site(1)
    with site.edit(Access) as ended:
        ended.allowed.add("x")
    before = site.shard.digest()
    with site.edit(Access) as access:
        with pytest.raises(InvalidValue, match=r"Access\.allowed takes elements of type str"):
            access.allowed.discard(3)  # type: ignore[arg-type]
        with pytest.raises(InvalidValue):
            access.allowed -= {"x", 3}
        with pytest.raises(InvalidValue, match="path of"):
            access.allowed.discard("x" * 2000)
    for each in (site.view(Access), ended):
        for act in ("clear", "forget_removed"):
            with pytest.raises(ReadOnly):
                getattr(each.allowed, act)()
            with pytest.raises(ReadOnly):
                getattr(each.few, act)()
        for act in ("add", "discard"):
            with pytest.raises(ReadOnly):
                getattr(each.allowed, act)("y")
    assert site.operations() == 1
    assert site.shard.digest() == before


def test_remove_wins_is_declared_where_its_markers_last() -> None:
    with pytest.raises(SchemaError, match=r"x: a remove-wins Set cannot stand under a Map"):
        type(
            "Wrong",
            (Document,),
            {"__annotations__": {"x": Map[str, Annotated[Set[str], RemoveWins()]]}},
        )
    for option in (RemoveWins(0), RemoveWins(markers=True), RemoveWins("3")):  # type: ignore[arg-type]
        with pytest.raises(SchemaError, match=r"x: RemoveWins\(.*use at least RemoveWins\(1\)"):
            type("Wrong", (Document,), {"__annotations__": {"x": Annotated[Set[str], option]}})
    with pytest.raises(SchemaError, match="RemoveWins is not for this type"):
        type("Wrong", (Document,), {"__annotations__": {"x": Annotated[Feed[str], RemoveWins()]}})


def test_an_add_wins_set_reads_another_versions_markers_as_that_version_does() -> None:
    """The class once said RemoveWins: elements it removed do not come back with the option gone."""
    site = Site(1)
    with site.edit(Access) as access:
        access.allowed |= {"x", "y"}
        access.allowed.discard("x")

    class Later(Document, name="Access"):
        allowed: Set[str]

    assert list(site.view(Later).allowed) == ["y"]
    with site.edit(Later) as later:
        assert later.allowed.forget_removed() == 1
        later.allowed.add("x")
    assert list(site.view(Later).allowed) == ["x", "y"]
    assert site.shard.entry_count == 2
