"""BoundedCounter: spending needs nobody's consent, and never goes below the bound."""

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdt import (
    AtLeast,
    BoundedCounter,
    Counter,
    Document,
    InvalidValue,
    Map,
    OutOfBounds,
    ReadOnly,
    SchemaError,
)
from crdt.access import ShardView
from crdt.document import delete_document
from crdt.ids import MAX_SESSION
from crdt.operation import Operation
from crdt.paths import TypeCode, field_path
from crdt.plain import plain_document
from crdt.types.bounded import BoundedEditor
from simulations.sites import Site, exchange


class Budget(Document):
    tokens: BoundedCounter
    seats: Annotated[BoundedCounter, AtLeast(10)]


def tokens_of(site: Site) -> BoundedEditor:
    return site.view(Budget).tokens


def granted(amount: int) -> Site:
    site = Site(1)
    with site.edit(Budget) as budget:
        budget.tokens.grant(amount)
    return site


def test_grants_and_spends() -> None:
    site = Site(1)
    assert tokens_of(site).value == 0
    with site.edit(Budget) as budget:
        tokens = budget.tokens
        tokens.grant(5)
        tokens.spend(3)
        assert (tokens.value, tokens.available, tokens.bound) == (2, 2, 0)
        tokens.spend(2)
        tokens.grant(4)
    assert tokens_of(site).value == 4
    assert tokens_of(site).rights == {site.session: 4}
    assert repr(tokens_of(site)) == "<BoundedCounter 4, at least 0>"
    assert site.shard.entry_count == 1
    assert site.view(Budget).snapshot() == {"tokens": 4, "seats": 10}
    assert plain_document(site.shard, "Budget/1") == {"tokens": 4}


def test_starts_at_its_bound() -> None:
    site = Site(1)
    with site.edit(Budget) as budget:
        seats = budget.seats
        assert (seats.value, seats.bound, seats.available) == (10, 10, 0)
        seats.grant(2)
        seats.spend(2)
        with pytest.raises(OutOfBounds, match="value of 10 that stays at least 10"):
            seats.spend(1)
    assert site.view(Budget).seats.value == 10
    assert repr(site.view(Budget)) == "<Budget/1 seats=10>"


def test_a_view_tells_what_its_replica_may_spend() -> None:
    site, other = granted(5), Site(2)
    exchange(site, other)
    assert tokens_of(site).available == 5
    assert tokens_of(other).available == 0
    nobody = Budget.bind(ShardView(site.shard), "Budget/1")
    assert nobody.tokens.available == 0, "a reader that never writes"


def test_what_one_granted_another_spends_after_a_transfer() -> None:
    giver, taker, third = granted(10), Site(2), Site(3)
    exchange(giver, taker)
    with taker.edit(Budget) as budget, pytest.raises(OutOfBounds):
        budget.tokens.spend(1)
    with giver.edit(Budget) as budget:
        budget.tokens.transfer(taker.session, 4)
        budget.tokens.transfer(third.session, 1)
        budget.tokens.transfer(taker.session, 2)
        assert budget.tokens.available == 3
    exchange(giver, taker)
    with taker.edit(Budget) as budget:
        assert budget.tokens.available == 6
        budget.tokens.spend(5)
        budget.tokens.transfer(giver.session, 1)
    exchange(giver, taker, third)
    assert tokens_of(third).value == 5
    assert tokens_of(third).rights == {giver.session: 4, taker.session: 0, third.session: 1}


def test_two_cannot_spend_the_same() -> None:
    one, two = granted(10), Site(2)
    with one.edit(Budget) as budget:
        budget.tokens.transfer(two.session, 5)
    exchange(one, two)
    for site in (one, two):
        with site.edit(Budget) as budget:
            budget.tokens.spend(5)
            with pytest.raises(OutOfBounds):
                budget.tokens.spend(1)
    exchange(one, two)
    assert tokens_of(one).value == 0


def test_the_rights_of_a_closed_session_are_taken_over_once() -> None:
    closed, coordinator, heir = granted(10), Site(2), Site(3)
    with closed.edit(Budget) as budget:
        budget.tokens.spend(3)
        budget.tokens.transfer(heir.session, 2)
    exchange(closed, coordinator)
    with coordinator.edit(Budget) as budget:
        assert budget.tokens.take_over(closed.session) == 5
        assert budget.tokens.take_over(closed.session) == 0
        assert budget.tokens.take_over(9) == 0
        budget.tokens.transfer(heir.session, 5)
    assert coordinator.operations() == 2
    exchange(closed, coordinator, heir)
    with heir.edit(Budget) as budget:
        assert budget.tokens.available == 7
        budget.tokens.spend(7)
    assert tokens_of(heir).value == 0
    assert tokens_of(heir).rights == {closed.session: 0, coordinator.session: 0, heir.session: 0}


def test_nothing_is_written_for_an_amount_of_nothing() -> None:
    site = Site(1)
    with site.edit(Budget) as budget:
        budget.tokens.grant(0)
        budget.tokens.spend(0)
        budget.tokens.transfer(2, 0)
    assert site.operations() == 0


REFUSED: list[tuple[Callable[[BoundedEditor], Any], type[Exception], str]] = [
    (
        lambda tokens: tokens.spend(6),
        OutOfBounds,
        r"this session may spend 5, not 6, of a value of 5 .*\.transfer\(…\).*\.grant\(…\)",
    ),
    (lambda tokens: tokens.transfer(2, 6), OutOfBounds, "may transfer 5, not 6"),
    (lambda tokens: tokens.spend(-1), OutOfBounds, "from 0 up, not -1"),
    (lambda tokens: tokens.grant(-1), OutOfBounds, "from 0 up, not -1"),
    (lambda tokens: tokens.transfer(2, -1), OutOfBounds, "from 0 up, not -1"),
    (lambda tokens: tokens.grant(True), InvalidValue, "ints as amounts, not bool"),
    (lambda tokens: tokens.spend(1.0), InvalidValue, "ints as amounts, not float"),  # type: ignore[arg-type]
    (lambda tokens: tokens.transfer("2", 1), InvalidValue, "int as session, not str"),  # type: ignore[arg-type]
    (lambda tokens: tokens.transfer(0, 1), OutOfBounds, "sessions are from 1"),
    (lambda tokens: tokens.transfer(MAX_SESSION + 1, 1), OutOfBounds, "sessions are from 1"),
    (lambda tokens: tokens.take_over(-1), OutOfBounds, "sessions are from 1"),
    (lambda tokens: tokens.take_over(Site(1).session), OutOfBounds, "is this edit's own"),
    (lambda tokens: tokens.transfer(Site(1).session, 1), OutOfBounds, "is this edit's own"),
]


@pytest.mark.parametrize(("act", "error", "message"), REFUSED)
def test_refusals_change_nothing(
    act: Callable[[BoundedEditor], Any], error: type[Exception], message: str
) -> None:
    site = granted(5)
    before = site.shard.digest()
    with site.edit(Budget) as budget, pytest.raises(error, match=rf"Budget\.tokens.*{message}"):
        act(budget.tokens)
    assert site.operations() == 1
    assert site.shard.digest() == before


def test_cannot_be_assigned() -> None:
    with Site(1).edit(Budget) as budget, pytest.raises(SchemaError, match=r"use \.grant\(…\)"):
        budget.tokens = 3  # type: ignore[assignment]


WRITES: list[Callable[[BoundedEditor], Any]] = [
    lambda tokens: tokens.grant(1),
    lambda tokens: tokens.grant(0),
    lambda tokens: tokens.spend(1),
    lambda tokens: tokens.transfer(2, 1),
    lambda tokens: tokens.take_over(2),
]


@pytest.mark.parametrize("act", WRITES)
def test_read_only_refuses(act: Callable[[BoundedEditor], Any]) -> None:
    site = granted(5)
    with site.edit(Budget) as ended:
        pass
    before = site.shard.digest()
    for budget in (site.view(Budget), ended):
        with pytest.raises(ReadOnly):
            act(budget.tokens)
    assert site.shard.digest() == before


def test_declarations_are_checked() -> None:
    with pytest.raises(SchemaError, match="BoundedCounter cannot stand under a Map"):
        type("Wrong", (Document,), {"__annotations__": {"x": Map[str, BoundedCounter]}})  # type: ignore[type-var]
    for bound in (True, 1.5, "3", None):
        option = AtLeast(bound)  # type: ignore[arg-type]
        kind = Annotated[BoundedCounter, option]
        with pytest.raises(SchemaError, match=r"x: AtLeast takes an int"):
            type("Wrong", (Document,), {"__annotations__": {"x": kind}})
    with pytest.raises(SchemaError, match=r"AtLeast takes arguments"):
        type("Wrong", (Document,), {"__annotations__": {"x": Annotated[BoundedCounter, AtLeast]}})
    with pytest.raises(SchemaError, match="AtLeast is not for this type"):
        type("Wrong", (Document,), {"__annotations__": {"x": Annotated[Counter, AtLeast(1)]}})


def test_a_session_that_overspent_shows_and_frees_nobody() -> None:
    """A dishonest session writes what no editor would: its rights become negative."""
    site, thief = granted(5), Site(2)
    path = field_path("tokens", TypeCode.BOUNDED)
    row = bytes.fromhex("94 00 07 90 90")
    site.shard.apply(thief.session, 1, Operation("Budget/1", path, row))
    assert tokens_of(site).value == -2
    assert tokens_of(site).rights == {site.session: 5, thief.session: -7}
    with site.edit(Budget) as budget:
        assert budget.tokens.take_over(thief.session) == 0
        assert budget.tokens.available == 5


def test_a_deletion_takes_all_rows_and_those_that_had_not_seen_it() -> None:
    deleter, spender = granted(5), Site(2)
    with deleter.edit(Budget) as budget:
        budget.tokens.transfer(spender.session, 2)
    exchange(deleter, spender)
    overlay = deleter.overlay()
    assert delete_document(overlay, Budget, "Budget/1")
    again = Budget.bind(overlay, "Budget/1").tokens
    assert (again.value, again.available) == (0, 0)
    again.grant(1)
    deleter.commit(overlay)
    with spender.edit(Budget) as budget:
        budget.tokens.spend(2)
    exchange(deleter, spender)
    assert tokens_of(spender).value == 1
    assert tokens_of(spender).rights == {deleter.session: 1}


actions = st.sampled_from(["grant", "spend", "transfer", "join"])


@given(st.lists(st.tuples(st.integers(0, 2), actions, st.integers(0, 6)), max_size=40))
def test_never_below_the_bound_whatever_is_heard_when(
    script: list[tuple[int, str, int]],
) -> None:
    sites = [Site(number) for number in (1, 2, 3)]
    total = 0
    for number, action, amount in script:
        site, other = sites[number], sites[(number + 1 + amount % 2) % 3]
        if action == "join":
            site.shard.join(other.shard.snapshot())
        else:
            with site.edit(Budget) as budget:
                seats = budget.seats
                amount = amount if action == "grant" else min(amount, seats.available)
                arguments = (other.session, amount) if action == "transfer" else (amount,)
                getattr(seats, action)(*arguments)
            total += {"grant": amount, "spend": -amount, "transfer": 0}[action]
        for each in sites:
            assert each.view(Budget).seats.value >= 10
    exchange(*sites)
    seats = sites[0].view(Budget).seats
    assert seats.value == 10 + total
    assert all(right >= 0 for right in seats.rights.values())
    assert sum(seats.rights.values()) == total
