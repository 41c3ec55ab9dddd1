"""What happens to hosts that should not: clones. Honest replicas notice, and nothing is lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from simulations.faults import Fault
from simulations.run import Outcome, Part, simulate
from simulations.scenarios import SCENARIOS, Scenario
from simulations.world import World

SHORT = dataclasses.replace(SCENARIOS["swarm"], fault_s=12.0, quiet_s=1.0)


def only(*kinds: str) -> Scenario:
    return dataclasses.replace(SHORT, kinds=kinds)


def with_faults(scenario: Scenario, count: int, seeds: range = range(40)) -> Sequence[Outcome]:
    """Runs of the first seeds whose plan is not empty."""
    found: list[Outcome] = []
    for seed in seeds:
        outcome = simulate(scenario, seed)
        if outcome.plan:
            found.append(outcome)
        if len(found) == count:
            return found
    raise AssertionError(f"{len(found)} of {count} plans have a fault")


# ---------------------------------------------------------------------- clones


def test_a_clone_is_noticed_and_nothing_is_lost() -> None:
    for outcome in with_faults(only("clone"), 4):
        assert outcome.violations == []
        assert outcome.counts["identity.cloned"] > 0


def test_a_clone_writes_at_its_own_address_under_the_same_name_and_is_gone_in_the_end() -> None:
    seen: set[tuple[str, str, bool]] = set()

    def watch(world: World) -> None:
        def listen(host: str, kind: str, fields: object) -> None:
            del kind, fields
            clone = world.clones.get(host)
            if clone is not None and clone.replica is not None and clone.run is not None:
                original = world.hosts[clone.replica.name]
                other = original.replica
                differs = other is None or other.session != clone.replica.session
                seen.add((clone.replica.name, clone.run.transport.address, differs))

        world.listeners.append(listen)
        worlds.append(world)

    worlds: list[World] = []
    outcome = simulate(only("clone"), 1, watch=watch)
    (fault,) = outcome.plan.values()
    assert seen == {(fault.targets[0], f"{fault.targets[0]}:7401", True)}
    assert worlds[0].clones == {}


def test_without_a_clone_the_alarm_is_judged() -> None:
    """Only a plan that clones somebody may have clones noticed."""

    def rumour(world: World) -> None:
        world.loop.call_at(5.0, lambda: world.hosts["replica-1"].tell("identity.cloned"))

    outcome = next(one for one in with_faults(only("clone", "kill"), 9) if not _has(one, "clone"))
    again = simulate(only("clone", "kill"), outcome.seed, watch=rumour)
    assert [one.invariant for one in again.violations] == ["NothingRefused"]


def _has(outcome: Outcome, kind: str) -> bool:
    return any(fault.kind == kind for fault in outcome.plan.values())


# ---------------------------------------------------------------------- all of them


KINDS = ("clone",)


@pytest.mark.parametrize("kind", KINDS)
def test_such_a_fault_repeats_exactly_prints_and_can_be_left_out(kind: str) -> None:
    first = with_faults(only(kind), 1)[0]
    again = simulate(
        only(kind), first.seed, part=Part(hosts=(1, 2, 3, 4, 5), writers=(1, 2, 3, 4, 5))
    )
    assert again.trace_hash == first.trace_hash
    fault = next(iter(first.plan.values()))
    assert f"{kind}: {' '.join(fault.targets)}" in str(fault)
    assert Fault(**fault.plain()) == fault
    assert simulate(only(kind), first.seed, part=Part(faults=())).plan == {}
