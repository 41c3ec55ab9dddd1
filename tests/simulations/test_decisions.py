"""The checkers of decisions say what is wrong, and nothing where nothing is."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.environment import Transition
from mesh.replica import Replica
from simulations.agents.claimants import Affair, History, Operation
from simulations.invariants import linearizable
from simulations.invariants.base import Checker
from simulations.invariants.decisions import (
    Fencing,
    Linearizable,
    NoEffectBeforeCommit,
    OneWinner,
)
from simulations.invariants.linearizable import NEVER, Call, Undecidable, unexplained
from simulations.ports.services import TEMPORAL
from simulations.run import simulate
from simulations.scenarios.ready import Scenario
from simulations.world import Host, World
from workflows import registry
from workflows.claims import EXCLUSIVE
from workflows.publish import publish
from workflows.request import prepare

KEY = f"{EXCLUSIVE.name}/1"


@pytest.fixture
def world() -> Iterator[World]:
    made = World(1, 1, services=(TEMPORAL,))
    yield made
    made.loop.close()


def decide(world: World, event: str, actor: str, request: str, **data: Any) -> Transition:
    prepared = prepare(registry.machines, EXCLUSIVE.name, "1", event, actor, request, data)
    return world.services.temporal_server.decide(prepared).transition()


def asked(
    actor: str, event: str, times: tuple[float, float], answer: Transition | None, token: int = 0
) -> Operation:
    return Operation(actor, event, f"{actor} {times}", token, *times, answer)


def verdict(kind: type[Any], world: World, *operations: Operation) -> list[str]:
    history = History({KEY: list(operations)})
    checker: Checker = kind(world, history)
    checker.end([])
    return [one.message for one in checker.violations]


def held(epoch: int, owner: str, token: int | None = None) -> Transition:
    data = {"token": epoch if token is None else token}
    return Transition(EXCLUSIVE.name, "1", "claim", "free", "held", epoch, owner, data)


def freed(epoch: int) -> Transition:
    return Transition(EXCLUSIVE.name, "1", "release", "held", "free", epoch, "", {"token": epoch})


# ---------------------------------------------------------------------- one winner


def test_a_version_has_one_winner(world: World) -> None:
    ada, bob = (asked(name, "claim", (0, 1), held(1, name)) for name in ("ada", "bob"))
    assert verdict(OneWinner, world, ada) == []
    found = verdict(OneWinner, world, ada, bob)
    assert "epoch 1 was won by" in found[0]
    assert "was told" in found[1]


def test_a_request_is_decided_once(world: World) -> None:
    decide(world, "claim", "ada", "one")
    world.services.temporal_server.commits[KEY] *= 2
    assert verdict(OneWinner, world) == []
    decide(world, "claim", "ada", "two")
    last = world.services.temporal_server.commits[KEY][-1]
    again = dataclasses.replace(
        last, fire=dataclasses.replace(last.fire, request="one"),
    )  # fmt: skip
    world.services.temporal_server.commits[KEY][-1] = again
    assert verdict(OneWinner, world) == [f"{KEY}: request one was decided as epoch 1 and 2"]


def test_what_was_refused_is_never_decided(world: World) -> None:
    refused = asked("ada", "claim", (0, 1), None)
    assert verdict(OneWinner, world, refused) == []
    decide(world, "claim", "ada", refused.request)
    assert verdict(OneWinner, world, refused) == [f"{KEY}: {refused}, but decided as epoch 1"]
    given_up = asked("ada", "claim", (0, NEVER), None)
    decide(world, "claim", "ada", given_up.request)
    assert verdict(OneWinner, world, given_up) == []


# ---------------------------------------------------------------------- fencing


def test_a_keeper_takes_no_older_token(world: World) -> None:
    history = History()
    assert [history.keep("1", token) for token in (2, 2, 1, 3)] == [True, True, False, True]
    history.kept.append(("1", 1))
    checker = Fencing(world, history)
    checker.end([])
    assert [one.message for one in checker.violations] == ["the keeper of 1 took token 1 after 3"]


def test_a_machine_takes_no_token_but_the_present_one(world: World) -> None:
    decide(world, "claim", "ada", "one")
    decide(world, "claim", "ada", "two")
    decide(world, "release", "ada", "three", token=2)
    assert verdict(Fencing, world) == []
    commits = world.services.temporal_server.commits[KEY]
    late = dataclasses.replace(commits[-1].fire, data={"token": 1})
    commits[-1] = dataclasses.replace(commits[-1], fire=late)
    assert "under token 1 was accepted while 2 was valid" in verdict(Fencing, world)[0]


# ---------------------------------------------------------------------- effects and their order


def test_an_effect_needs_a_decision_that_stands(world: World) -> None:
    checker = NoEffectBeforeCommit(world, History())
    decided = decide(world, "claim", "ada", "one")
    checker.effect(decided)
    assert checker.violations == []
    checker.effect(dataclasses.replace(decided, owner="bob"))
    checker.effect(dataclasses.replace(decided, epoch=2))
    assert len(checker.violations) == 2


def test_who_publishes_what_was_not_decided_is_found() -> None:
    async def liar(host: Host, replica: Replica) -> None:
        del host
        publish(replica, Affair, f"{EXCLUSIVE.name}.0-0", "decision", held(1_000, "liar"))

    scenario = Scenario("lies", "", replicas=2, services=(TEMPORAL,), agents=(liar,), fault_s=9)
    found = simulate(scenario, 1).violations
    assert {one.invariant for one in found} == {"OneOrder"}
    assert "as epoch 1000 of exclusive-claim/0-0" in found[0].message


# ---------------------------------------------------------------------- linearizable


def test_answers_that_an_order_explains(world: World) -> None:
    history = [
        asked("ada", "", (0, 1), None),
        asked("ada", "claim", (0, 5), held(1, "ada")),
        asked("bob", "claim", (2, 3), None),  # ada has it by then
        asked("ada", "release", (6, 9), freed(2), token=1),
        asked("bob", "claim", (7, 8), held(3, "bob")),  # she had let it go by then
        asked("ada", "release", (10, 11), None, token=1),
        asked("eve", "claim", (0, NEVER), None),  # and nobody knows
    ]
    assert verdict(Linearizable, world, *history) == []


def test_a_lost_claim_may_have_come_late_and_explains_what_others_saw(world: World) -> None:
    lost = asked("eve", "claim", (0, NEVER), None)
    bob = asked("bob", "claim", (5, 6), None)
    assert verdict(Linearizable, world, lost, bob) == []
    assert verdict(Linearizable, world, bob)


@pytest.mark.parametrize(
    "history",
    [
        # read before it was asked for
        [asked("bob", "", (0, 1), held(1, "ada")), asked("ada", "claim", (2, 3), held(1, "ada"))],
        # an old state after a new one
        [
            asked("ada", "claim", (0, 1), held(1, "ada")),
            asked("ada", "release", (2, 3), freed(2), token=1),
            asked("bob", "", (4, 5), held(1, "ada")),
        ],
        # two hold it
        [
            asked("ada", "claim", (0, 1), held(1, "ada")),
            asked("bob", "claim", (2, 3), held(2, "bob")),
        ],
        # an old token
        [
            asked("ada", "claim", (0, 1), held(1, "ada")),
            asked("ada", "claim", (2, 3), held(2, "ada")),
            asked("ada", "release", (4, 5), freed(3), token=1),
        ],
    ],
)
def test_answers_that_no_order_explains(world: World, history: list[Operation]) -> None:
    assert "no order explains" in verdict(Linearizable, world, *history)[0]


def register(state: int, what: tuple[str, int]) -> int | None:
    kind, value = what
    if kind == "write":
        return value
    return state if state == value else None


def explained_by_force(calls: list[Call[tuple[str, int]]]) -> bool:
    for order in permutations(calls):
        state: int | None = 0
        for place, call in enumerate(order):
            if any(later.ended < call.began for later in order[place + 1 :]):
                break
            state = register(state or 0, call.what)
            if state is None:
                break
        else:
            return True
    return False


CALLS = st.lists(
    st.builds(
        lambda began, lasts, kind, value: Call(
            began, began + lasts, (kind, value), idle=kind == "read"
        ),
        st.integers(0, 6), st.integers(0, 4), st.sampled_from(("read", "write")),
        st.integers(0, 2),
    ),
    max_size=6,
)  # fmt: skip


@given(CALLS)
def test_the_search_finds_an_order_exactly_where_there_is_one(
    calls: list[Call[tuple[str, int]]],
) -> None:
    assert (unexplained(calls, 0, register) == []) == explained_by_force(calls)


def test_too_much_choice_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linearizable, "MOST", 100)
    rng = random.Random(1)
    calls = [Call(0, 9, ("write", rng.randrange(5, 9))) for _ in range(12)]
    with pytest.raises(Undecidable, match="13 calls"):
        unexplained([*calls, Call(0, 9, ("read", 1))], 0, register)


def test_a_history_that_cannot_be_judged_is_no_history_that_holds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linearizable, "MOST", 1)
    history = [
        asked("ada", "claim", (0, 1), held(1, "ada")),
        asked("ada", "release", (2, 3), freed(2)),
    ]
    assert "partial orders" in verdict(Linearizable, world, *history)[0]
