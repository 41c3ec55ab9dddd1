"""Decided: late and repeated decisions change nothing."""

from itertools import permutations

import pytest

from crdt import Decided, Document, InvalidValue, OutOfBounds, ReadOnly, SchemaError
from simulations.sites import Site, exchange


class Job(Document):
    state: Decided[str]


def test_only_a_higher_epoch_writes() -> None:
    site = Site(1)
    view = site.view(Job)
    assert (view.state.epoch, view.state.value) == (0, None)
    assert repr(view.state) == "<Decided None in epoch 0>"
    with site.edit(Job) as job:
        assert job.state.decide(2, "two")
        assert not job.state.decide(2, "again")
        assert not job.state.decide(1, "late")
        assert (job.state.epoch, job.state.value) == (2, "two")
    assert site.operations() == 1
    with site.edit(Job) as job:
        assert not job.state.decide(2, "again")
        assert job.state.decide(5, "five")
    assert site.shard.entry_count == 1
    assert view.snapshot() == {"state": {"epoch": 5, "value": "five"}}
    assert repr(view.state) == "<Decided 'five' in epoch 5>"


@pytest.mark.parametrize("order", list(permutations((0, 1, 2))))
def test_the_highest_epoch_wins_in_any_order_of_arrival(order: tuple[int, ...]) -> None:
    sites = [Site(number) for number in (1, 2, 3)]
    for epoch, site in enumerate(sites, 1):
        with site.edit(Job) as job:
            job.state.decide(epoch, str(epoch))
    reader = Site(9)
    for number in order:
        sites[number].send(reader)
    assert (reader.view(Job).state.epoch, reader.view(Job).state.value) == (3, "3")
    assert reader.view(Job).conflicts("state") == ["2", "1"]
    with reader.edit(Job) as job:
        job.state.decide(4, "4")
    exchange(reader, *sites)
    assert sites[0].view(Job).conflicts("state") == []


def test_refusals() -> None:
    site = Site(1)
    with site.edit(Job) as job:
        for epoch in (0, -1, 2**63):
            with pytest.raises(OutOfBounds, match="epochs are from 1"):
                job.state.decide(epoch, "x")
        with pytest.raises(InvalidValue, match="int as epoch, not bool"):
            job.state.decide(True, "x")
        with pytest.raises(InvalidValue, match=r"Job\.state takes str"):
            job.state.decide(1, 1)  # type: ignore[arg-type]
        with pytest.raises(SchemaError, match=r"use \.decide"):
            job.state = "x"  # type: ignore[assignment]
    assert site.operations() == 0
    with site.edit(Job) as job:
        job.state.decide(2, "x")
    for epoch in (1, 3):
        with pytest.raises(ReadOnly):
            site.view(Job).state.decide(epoch, "x")
