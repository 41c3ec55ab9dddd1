"""Maximum and Minimum: the outermost value wins, whatever the clocks and the order of arrival."""

from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Annotated, Any, NewType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdt import (
    Check,
    Document,
    InvalidValue,
    Map,
    Maximum,
    Minimum,
    ReadOnly,
    SchemaError,
)
from crdt.codec import encode
from crdt.operation import Operation, Removal
from crdt.paths import TypeCode, field_path
from crdt.plain import plain_document
from simulations.sites import START_MS, Site, exchange

Score = NewType("Score", int)


class Run(Document):
    best: Maximum[int]
    worst: Minimum[int]
    ratio: Maximum[float]
    last: Maximum[datetime]
    first: Minimum[str]
    raw: Maximum[bytes]
    scores: Map[str, Maximum[int]]
    lows: Map[str, Minimum[float]]


def test_only_a_value_that_gains_is_written() -> None:
    site = Site(1)
    assert site.view(Run).best is None
    with site.edit(Run) as run:
        for value in (3, 1, 3, 7, 5):
            run.best = value
            run.worst = -value
        assert (run.best, run.worst) == (7, -7)
    assert site.operations() == 4
    with site.edit(Run) as run:
        run.best = 6
        run.worst = 0
    assert site.operations() == 4
    assert (site.view(Run).best, site.view(Run).worst) == (7, -7)
    assert site.shard.entry_count == 2


def test_of_every_ordered_type() -> None:
    site, now = Site(1), datetime(2026, 11, 1, tzinfo=UTC)
    with site.edit(Run) as run:
        run.ratio = 0.5
        run.ratio = 1
        run.ratio = float("-inf")
        run.last = now
        run.last = now - timedelta(days=1)
        run.first = "b"
        run.first = "ä"
        run.first = "a"
        run.raw = b"\x01"
        run.raw = b"\x01\x00"
    found = site.view(Run).snapshot()
    assert found == {
        "best": None, "worst": None, "ratio": 1, "last": now, "first": "a", "raw": b"\x01\x00",
        "scores": {}, "lows": {},
    }  # fmt: skip
    assert type(found["ratio"]) is int
    written = {name: value for name, value in found.items() if value not in (None, {})}
    assert plain_document(site.shard, "Run/1") == written


@pytest.mark.parametrize("order", list(permutations((0, 1, 2))))
def test_the_outermost_wins_in_any_order_of_arrival(order: tuple[int, ...]) -> None:
    sites = [Site(number, START_MS - number) for number in (1, 2, 3)]  # the latest clock is first
    for value, site in zip((5, 9, 7), sites, strict=True):
        with site.edit(Run) as run:
            run.best = value
            run.lows["k"] = value
    reader = Site(9)
    for number in order:
        sites[number].send(reader)
    assert reader.view(Run).best == 9
    assert reader.view(Run).lows["k"] == 5
    with reader.edit(Run) as run:
        run.best = 8
        run.lows["k"] = 6
    assert reader.operations() == 0
    with reader.edit(Run) as run:
        run.best = 10
    exchange(reader, *sites)
    assert sites[0].view(Run).best == 10


@given(st.lists(st.integers() | st.floats(allow_nan=False), min_size=1, max_size=6))
def test_ints_and_floats_have_one_order_on_every_replica(values: list[float]) -> None:
    sites = [Site(number) for number in range(1, len(values) + 1)]
    for site, value in zip(sites, values, strict=True):
        with site.edit(Run) as run:
            run.ratio = value
    exchange(*sites)
    read = [site.view(Run).ratio for site in sites]
    assert read[0] == max(values)
    assert len({encode(value) for value in read}) == 1


def test_deleting_takes_what_was_seen_so_that_less_counts_again() -> None:
    site, other = Site(1), Site(2)
    with site.edit(Run) as run:
        run.best = 9
        run.scores["k"] = 9
    exchange(site, other)
    with other.edit(Run) as run:
        run.best = 10
        run.scores["k"] = 10
    with site.edit(Run) as run:
        del run.best
        del run.best
        del run.scores["k"]
        assert run.snapshot()["best"] is None
        run.best = 2
        assert run.best == 2
    with pytest.raises(KeyError):
        site.view(Run).scores["k"]
    exchange(site, other)
    assert site.view(Run).best == 10
    assert site.view(Run).scores["k"] == 10


def test_a_dishonest_writer_cannot_lower_a_maximum() -> None:
    site, path = Site(1), field_path("best", TypeCode.MAXIMUM)
    with site.edit(Run) as run:
        run.best = 9
    seen = (Removal(path, False, ((site.session, 1),)),)
    site.shard.apply(Site(2).session, 1, Operation("Run/1", path, encode(3), seen))
    assert site.view(Run).best == 9


BAD: list[Any] = [float("nan"), True, None, "3", b"3", [1], datetime(2026, 1, 1, tzinfo=UTC)]


@pytest.mark.parametrize("value", BAD)
def test_what_has_no_order_or_the_wrong_type_changes_nothing(value: Any) -> None:
    site = Site(1)
    with site.edit(Run) as run:
        run.ratio = 1.0
    before = site.shard.digest()
    with site.edit(Run) as run:
        with pytest.raises(InvalidValue, match=r"Run\.ratio takes .*, not "):
            run.ratio = value
        with pytest.raises(InvalidValue, match=r"Run\.lows\[…\] takes .*, not "):
            run.lows["k"] = value
        with pytest.raises(InvalidValue, match=r"Run\.best takes int, not float: 1\.5"):
            run.best = 1.5  # type: ignore[assignment]
        with pytest.raises(InvalidValue, match="naive"):
            run.last = datetime(2026, 1, 1)
    assert site.operations() == 1
    assert site.shard.digest() == before


def test_read_only_refuses_also_what_would_gain_nothing() -> None:
    site = Site(1)
    with site.edit(Run) as ended:
        ended.best = 5
    before = site.shard.digest()
    for run in (site.view(Run), ended):
        for value in (4, 5, 6):
            with pytest.raises(ReadOnly):
                run.best = value
            with pytest.raises(ReadOnly):
                run.scores["k"] = value
        with pytest.raises(ReadOnly):
            del run.best
    assert site.shard.digest() == before


@pytest.mark.parametrize("kind", [bool, list[int], int | str, Any, None])
def test_declared_of_a_type_without_an_order(kind: Any) -> None:
    with pytest.raises(SchemaError, match=r"x: a Minimum is of int, float, datetime, str or bytes"):
        type("Wrong", (Document,), {"__annotations__": {"x": Minimum[kind]}})


def test_declared_with_a_new_type_or_a_check() -> None:
    class Game(Document):
        high: Maximum[Score]
        percent: Maximum[Annotated[int, Check(lambda value: value <= 100, "at most 100")]]

    site = Site(1)
    with site.edit(Game) as game:
        game.high = Score(3)
        game.percent = 100
        with pytest.raises(InvalidValue, match="at most 100"):
            game.percent = 101
    assert site.view(Game).high == 3
    with pytest.raises(SchemaError, match=r"Wrong\.x: declare it as Maximum\[int\]"):
        type("Wrong", (Document,), {"__annotations__": {"x": Maximum}})
