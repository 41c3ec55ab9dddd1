"""The simulated Temporal keeps the contract that the real one keeps, and fails as it does."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Mapping
from itertools import pairwise

import pytest

from mesh.environment import Coordinator, CoordinatorUnavailable, InvalidTransition, Transition
from simulations.agents.claimants import EFFECTS, TASK
from simulations.loop import SimLoop
from simulations.ports.coordination import SimCoordinator, TemporalServer
from simulations.ports.hosts import SimClock
from simulations.ports.network import Conditions, Network
from simulations.ports.services import TEMPORAL, Way
from simulations.run import simulate
from simulations.scenarios.ready import SCENARIOS
from simulations.trace import Trace
from tests.workflows.world import Recorder
from workflows import registry
from workflows.claims import EXCLUSIVE, token_of
from workflows.conformance import check_coordinator
from workflows.machine import Machine

SEEDS = range(5)
ROUGH = Conditions(latency_ms=5, jitter_ms=20, tail=0.05)
TIMEOUT_S = 5.0


class Place:
    """One server, and clients of it on hosts of any name."""

    def __init__(self, seed: int = 1) -> None:
        self.loop = SimLoop(seed)
        rng = random.Random(seed)
        self.network = Network(self.loop, Trace(self.loop), rng, ROUGH if seed % 2 else None)
        self.server = TemporalServer(rng)
        self.probe = Recorder()

    def client(
        self,
        host: str,
        machines: Mapping[str, Machine] = registry.machines,
        timeout_s: float = TIMEOUT_S,
    ) -> SimCoordinator:
        way = Way(self.network, random.Random(1), host, TEMPORAL)
        clock = SimClock(self.loop)
        return SimCoordinator(self.server, way, clock, self.probe, timeout_s, machines)


@pytest.mark.parametrize("repeats", [0.0, 0.5])
@pytest.mark.parametrize("seed", SEEDS)
def test_simulated_temporal_holds_the_contract(seed: int, repeats: float) -> None:
    place = Place(seed)
    place.server.repeats = repeats

    async def make(machines: Mapping[str, Machine]) -> Coordinator:
        return place.client("a", machines, timeout_s=60.0)

    place.loop.run_until_complete(check_coordinator(make, "run"))


def fire(
    client: SimCoordinator, event: str, request: str, actor: str = "ada", token: int = 0
) -> Awaitable[Transition]:
    data = {"token": token} if token else None
    return client.fire(EXCLUSIVE.name, "1", event, actor=actor, request=request, data=data)


def test_a_way_that_is_cut_decides_nothing_and_an_answer_lost_leaves_the_decision() -> None:
    place = Place()
    ada, bob = place.client("a"), place.client("b")

    async def run() -> None:
        for way, decided in (("a", TEMPORAL), 0), ((TEMPORAL, "a"), 1):
            place.network.cut([way])
            with pytest.raises(CoordinatorUnavailable, match="exclusive-claim/1"):
                await fire(ada, "claim", "one")
            assert ada.health().state == "down"
            assert bob.health().state != "down"
            place.network.mend([way])
            assert len(place.server.commits.get("exclusive-claim/1", ())) == decided
        with pytest.raises(InvalidTransition, match="held by 'ada'"):
            await fire(bob, "claim", "bob's", "bob")
        assert (await fire(ada, "claim", "one")).epoch == 1
        assert ada.health().state == "ok"

    place.loop.run_until_complete(run())


def test_a_server_that_is_away_keeps_what_it_had_decided() -> None:
    place = Place()
    client = place.client("a")

    async def run() -> None:
        first = await fire(client, "claim", "one")
        place.server.stop()
        with pytest.raises(CoordinatorUnavailable, match="away"):
            await client.state(EXCLUSIVE.name, "1")
        place.server.start()
        assert await client.state(EXCLUSIVE.name, "1") == first

    place.loop.run_until_complete(run())


def test_who_waits_too_short_for_a_late_answer_gets_it_when_he_asks_again() -> None:
    place = Place(2)
    client = place.client("a", timeout_s=0.1)

    async def run() -> None:
        place.server.slow(1_000.0)
        with pytest.raises(CoordinatorUnavailable, match=r"no answer within 0\.1 s"):
            await fire(client, "claim", "one")
        place.server.slow(0.0)
        assert (await fire(client, "claim", "one")).epoch == 1

    place.loop.run_until_complete(run())


def test_what_comes_again_is_not_decided_again_and_a_late_token_is_refused() -> None:
    place = Place()
    client = place.client("a", timeout_s=60.0)

    async def run() -> None:
        place.server.repeats = 0.9
        old = token_of(await fire(client, "claim", "one"))
        new = token_of(await fire(client, "claim", "two"))
        await asyncio.sleep(100)  # all copies have come
        assert (old, new) == (1, 2)
        with pytest.raises(InvalidTransition, match="token 1 is not the present one, 2"):
            await fire(client, "release", "three", token=old)
        assert [one.fire.request for one in place.server.commits["exclusive-claim/1"]] == [
            "one", "two",
        ]  # fmt: skip
        assert (await client.state(EXCLUSIVE.name, "1")).epoch == 2

    place.loop.run_until_complete(run())


def test_copies_come_late_of_what_was_refused_and_of_what_never_came() -> None:
    place = Place()
    ada, bob = place.client("a"), place.client("b", timeout_s=60.0)

    async def run() -> None:
        await fire(ada, "claim", "one")
        place.server.repeats = 0.9
        for number in range(5):
            with pytest.raises(InvalidTransition, match="held by 'ada'"):
                await fire(bob, "claim", f"bob's {number}", "bob")
        place.network.cut([("a", TEMPORAL)])
        for number in range(5):
            with pytest.raises(CoordinatorUnavailable):
                await fire(ada, "release", f"lost {number}", token=1)
        await asyncio.sleep(100)  # all copies have come

    place.loop.run_until_complete(run())
    claimed, released = place.server.commits["exclusive-claim/1"]
    assert claimed.fire.request == "one"
    assert released.fire.request.startswith("lost"), "a refused claim was granted"


def test_actions_follow_decisions_in_their_order_at_least_once() -> None:
    place = Place()
    client = place.client("a", timeout_s=60.0)
    performed: list[str] = []
    place.server.context.run(EFFECTS.set, lambda decided: performed.append(decided.event))

    async def run() -> None:
        place.server.repeats = 0.7
        for number, event in enumerate(("claim", "submit", "reject", "submit", "accept")):
            await client.fire(TASK.name, "1", event, actor="ada", request=str(number))
        await asyncio.sleep(100)

    place.loop.run_until_complete(run())
    once = [event for event, before in pairwise([*performed, ""]) if event != before]
    assert performed[0] == "submit"
    assert performed[-1] == "accept"
    assert once == ["submit", "accept"]
    assert performed.count("submit") >= 2
    assert len(performed) > 3, "nothing was performed again"


def test_a_world_with_temporal_sees_all_that_can_become_of_a_question() -> None:
    outcomes = [simulate(SCENARIOS["services"], seed) for seed in range(3)]
    assert [one.violations for one in outcomes] == [[], [], []]
    counts = sum((one.counts for one in outcomes), Counter[str]())
    for kind in (
        "machine.fired", "coordinator.unavailable", "coordinator.health", "kept", "fenced",
        "budget.refused",
    ):  # fmt: skip
        assert counts[kind], f"no {kind} in three seeds"
