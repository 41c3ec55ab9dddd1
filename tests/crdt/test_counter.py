"""Counter: every increment counts once, wherever it was made."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdt import Counter, Document, InvalidValue, Map, ReadOnly
from simulations.sites import Site, exchange


class Tally(Document):
    total: Counter
    by_key: Map[str, Counter]


def test_adds_subtracts_and_assigns_the_difference() -> None:
    site = Site(1)
    assert site.view(Tally).total == 0
    with site.edit(Tally) as tally:
        tally.total += 3
        tally.total -= 5
        assert tally.total == -2
        tally.total = 10
        assert tally.total == 10
    with site.edit(Tally) as tally:
        tally.total += 1
    assert site.view(Tally).total == 11
    assert type(site.view(Tally).total) is int
    assert site.shard.entry_count == 1


def test_a_change_of_nothing_is_no_operation() -> None:
    site = Site(1)
    with site.edit(Tally) as tally:
        tally.total += 0
        tally.total = 0
        tally.by_key["k"] += 0
    assert site.operations() == 0
    assert "k" not in site.view(Tally).by_key


@pytest.mark.parametrize("value", [True, 1.0, "1", None])
def test_takes_ints_only(value: object) -> None:
    with Site(1).edit(Tally) as tally, pytest.raises(InvalidValue, match=r"Tally\.total takes int"):
        setattr(tally, "total", value)  # noqa: B010 - mypy would refuse the assignment


def test_shows_also_what_python_does_not_print() -> None:
    """Python refuses to print ints of more than 4,300 digits; a member may write one."""
    site = Site(1)
    with site.edit(Tally) as tally:
        tally.total = 10**5000
        tally.by_key["k"] = 10**5000
    assert repr(site.view(Tally)).startswith("<Tally/1 total=<int")


def test_of_any_size() -> None:
    site, other = Site(1), Site(2)
    with site.edit(Tally) as tally:
        tally.total += 2**100
    site.send(other)
    with other.edit(Tally) as tally:
        tally.total -= 2**101
    assert other.view(Tally).total == -(2**100)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-9, 9)), max_size=30), st.integers(1, 7))
@settings(deadline=None)
def test_concurrent_changes_add_up(changes: list[tuple[int, int]], every: int) -> None:
    sites = [Site(number) for number in (1, 2, 3)]
    for index, (number, change) in enumerate(changes):
        with sites[number].edit(Tally) as tally:
            tally.total += change
            tally.by_key["k"] += change
        if index % every == 0:
            sites[number].shard.join(sites[number - 1].shard.snapshot())
    exchange(*sites)
    expected = sum(change for _, change in changes)
    for site in sites:
        assert site.view(Tally).total == expected
        assert site.view(Tally).by_key.get("k", 0) == expected


def test_removed_at_the_same_time_the_sessions_total_comes_back() -> None:
    remover, adder = Site(1), Site(2)
    with adder.edit(Tally) as tally:
        tally.by_key["k"] += 5
    exchange(remover, adder)
    with remover.edit(Tally) as tally:
        tally.by_key["k"] += 100
    exchange(remover, adder)
    with remover.edit(Tally) as tally:
        del tally.by_key["k"]
    with adder.edit(Tally) as tally:
        tally.by_key["k"] += 1
    exchange(remover, adder)
    assert remover.view(Tally).by_key["k"] == 6
    with remover.edit(Tally) as tally:
        tally.by_key["k"] += 1
    assert remover.view(Tally).by_key["k"] == 7


def test_read_only_refuses_also_a_change_of_nothing() -> None:
    site = Site(1)
    with site.edit(Tally) as ended:
        ended.total += 3
    before = site.shard.digest()
    for tally in (site.view(Tally), ended):
        for value in (3, 4):
            with pytest.raises(ReadOnly):
                tally.total = value
            with pytest.raises(ReadOnly):
                tally.by_key["k"] = value - 3
    assert site.shard.digest() == before
