"""Set: add-wins, elements by canonical encoding, the same order everywhere."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdt import Document, InvalidValue, ReadOnly, SchemaError, Set
from crdt.codec import encode
from tests.crdt.sites import Site, exchange


class Bag(Document):
    labels: Set[str]
    mixed: Set[Any]


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
