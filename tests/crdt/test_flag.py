"""Flag: which side wins is declared, and wins on every replica."""

from typing import Annotated

import pytest

from crdt import DisableWins, Document, Flag, InvalidValue, Map, ReadOnly
from simulations.sites import Site, exchange


class Switch(Document):
    on: Flag
    safe: Annotated[Flag, DisableWins()]
    safe_too: Annotated[Flag, DisableWins]
    by_key: Map[str, Flag]
    safe_by_key: Map[str, Annotated[Flag, DisableWins()]]


def test_reads_false_until_written() -> None:
    site = Site(1)
    assert site.view(Switch).on is False
    with site.edit(Switch) as switch:
        switch.on = True
        assert switch.on is True
    assert site.view(Switch).on is True
    with site.edit(Switch) as switch:
        switch.on = False
    assert site.view(Switch).on is False
    assert site.shard.entry_count == 1


@pytest.mark.parametrize(("field", "winner"), [("on", True), ("safe", False), ("safe_too", False)])
@pytest.mark.parametrize("before", [None, True, False])
def test_the_declared_side_wins(field: str, winner: bool, before: bool | None) -> None:
    enabler, disabler = Site(1), Site(2)
    if before is not None:
        with enabler.edit(Switch) as switch:
            setattr(switch, field, before)
        exchange(enabler, disabler)
    with enabler.edit(Switch) as switch:
        setattr(switch, field, True)
    with disabler.edit(Switch) as switch:
        setattr(switch, field, False)
    exchange(enabler, disabler)
    assert getattr(enabler.view(Switch), field) is winner
    assert getattr(disabler.view(Switch), field) is winner
    with enabler.edit(Switch) as switch:
        setattr(switch, field, not winner)
    exchange(enabler, disabler)
    assert getattr(disabler.view(Switch), field) is not winner


@pytest.mark.parametrize("value", [1, 0, None, "yes"])
def test_takes_bools_only(value: object) -> None:
    site = Site(1)
    before = site.shard.digest()
    with (
        site.edit(Switch) as switch,
        pytest.raises(InvalidValue, match=r"Switch\.on takes bool"),
    ):
        setattr(switch, "on", value)  # noqa: B010 - mypy would refuse the assignment
    assert site.operations() == 0
    assert site.shard.digest() == before


def test_under_a_map_too_the_declared_side_wins_and_a_write_survives_a_removal() -> None:
    one, two = Site(1), Site(2)
    with one.edit(Switch) as switch:
        switch.by_key["k"] = True
        switch.safe_by_key["k"] = True
    with two.edit(Switch) as switch:
        switch.by_key["k"] = False
        switch.safe_by_key["k"] = False
    exchange(one, two)
    assert one.view(Switch).by_key["k"] is True
    assert one.view(Switch).safe_by_key["k"] is False
    with one.edit(Switch) as switch:
        del switch.by_key["k"]
    with two.edit(Switch) as switch:
        switch.by_key["k"] = False
    exchange(one, two)
    assert dict(one.view(Switch).by_key.items()) == {"k": False}


def test_read_only_refuses() -> None:
    site = Site(1)
    with site.edit(Switch) as ended:
        ended.on = True
    before = site.shard.digest()
    for switch in (site.view(Switch), ended):
        with pytest.raises(ReadOnly):
            switch.on = True
        with pytest.raises(ReadOnly):
            switch.safe_by_key["k"] = False
    assert site.shard.digest() == before
