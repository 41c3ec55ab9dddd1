"""Who plays what and what goes wrong: decided by the seed, and always possible."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.stack import SERVICES
from simulations.rehearsal import plan
from simulations.rehearsal.proxy import Cut
from simulations.rehearsal.roles import ROLES


@pytest.mark.parametrize("agents", [2, 3, 5, 7, 8, 12, 20])
def test_every_role_is_played_whatever_the_number_of_agents(agents: int) -> None:
    players = plan.cast(agents)
    assert len(players) == agents
    assert {role for roles in players.values() for role in roles} == set(ROLES)
    if agents >= len(ROLES):
        assert all(len(roles) == 1 for roles in players.values())


def test_names_say_the_role_and_which_of_it() -> None:
    players = plan.cast(15)
    assert players["security-analyst-2"] == ("security-analyst",)
    assert players["requirements-analyst-3"] == ("requirements-analyst",)


@pytest.mark.parametrize("agents", [-1, 0, 1, plan.MAX_AGENTS + 1])
def test_a_fleet_that_cannot_be_is_refused(agents: int) -> None:
    with pytest.raises(plan.PlanError, match=f"--agents {agents}: a fleet has 2 to"):
        plan.cast(agents)


@pytest.mark.parametrize("seed", range(20))
def test_the_seed_decides_and_both_sides_have_somebody(seed: int) -> None:
    players = plan.cast(7)
    faults = plan.draw(players, seed, 6.0)
    assert faults == plan.draw(players, seed, 6.0)
    here, there = faults.sides
    assert here
    assert there
    assert sorted((*here, *there)) == sorted(players)
    assert any(ROLES[role].leads for role in players[faults.victim])
    assert 0 < faults.partition_at < faults.kill_at < 1


def test_a_seed_means_what_it_always_meant() -> None:
    """Later draws come after earlier ones: a run that somebody noted down can be had again."""
    faults = plan.draw(plan.cast(7), 1, 6.0)
    assert (faults.partition_at, faults.kill_at) == (0.23281635943277268, 0.5020917324180261)
    assert faults.victim == "security-analyst"
    assert faults.sides[0] == ("code-reviewer", "documentation-generator", "security-analyst")
    assert sorted(pair for pair in faults.silenced if pair[1] not in plan.SHARED) == [
        ("code-generator", "code-reviewer"),
        ("code-reviewer", "requirements-analyst"),
        ("code-reviewer", "security-analyst"),
        ("code-reviewer", "test-generator"),
        ("documentation-generator", "test-generator"),
        ("requirements-analyst", "security-analyst"),
    ]


@pytest.mark.parametrize("lose", SERVICES)
def test_a_service_is_lost_between_the_partition_and_the_crash(lose: str) -> None:
    players = plan.cast(7)
    moments = set()
    for seed in range(20):
        faults = plan.draw(players, seed, 6.0, lose)
        assert faults.partition_at < faults.lose_at < faults.kill_at
        assert replace(faults, lose="") == plan.draw(players, seed, 6.0)
        moments.add(faults.lose_at)
    assert len(moments) == 20


def test_only_a_stack_can_lose_a_service_and_only_one_it_has() -> None:
    assert plan.check_lost("", stack=False) == ""
    assert [plan.check_lost(name, stack=True) for name in SERVICES] == list(SERVICES)
    with pytest.raises(plan.PlanError, match="--lose kafka needs --stack"):
        plan.check_lost("kafka", stack=False)
    for stack in (True, False):
        with pytest.raises(plan.PlanError, match=r"--lose rabbit: .* redis, kafka, postgres, t"):
            plan.check_lost("rabbit", stack=stack)


def test_a_partition_can_break_and_silence_the_way_to_a_service() -> None:
    players = plan.cast(7)
    ways = {
        faults.how(pair)
        for faults in (plan.draw(players, seed, 6.0) for seed in range(5))
        for pair in plan.service_pairs(players)
    }
    assert ways == set(Cut)


def test_seeds_differ() -> None:
    players = plan.cast(7)
    assert len({plan.draw(players, seed, 6.0) for seed in range(20)}) > 15


def test_every_pair_is_there_once_and_the_lower_name_dials() -> None:
    found = plan.pairs(["c", "a", "b"])
    assert found == [("a", "b"), ("a", "c"), ("b", "c")]


def test_when_a_name_goes_only_its_own_keys_move() -> None:
    names = [f"agent-{n}" for n in range(6)]
    keys = [f"module/{n}.py" for n in range(300)]
    before = {key: plan.rendezvous(key, names) for key in keys}
    after = {key: plan.rendezvous(key, names[1:])[0] for key in keys}
    for key in keys:
        assert after[key] == next(name for name in before[key] if name != names[0])
    shares = [sum(before[key][0] == name for key in keys) for name in names]
    assert min(shares) > 20
