"""Partition tests for programs that embed a replica: your documents and agents in simulated worlds.

    @partition_test(replicas=3, seeds=50, faults="network", invariants=[every_vote_counts])
    async def test_voting(replica: Replica) -> None:
        ...

What is decorated becomes a test for pytest that runs it as an agent beside every replica of a
world, one world for each seed, and fails at the first seed that breaks an invariant, with the
faults that happened and the command that runs this seed alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, Unpack, cast

from mesh.replica import Replica
from simulations.batch import TWICE_EVERY, Task, perform_one
from simulations.run import Outcome
from simulations.scenario import Beside, Options, scenario
from simulations.scenarios.ready import Scenario

if TYPE_CHECKING:
    import pytest

__all__ = ("PartitionFailed", "PartitionTest", "partition_test")

SEED_OPTION = "--simulation-seed"


class PartitionFailed(AssertionError):
    """An invariant did not hold. The message has the seed, the faults and the command."""


class PartitionTest(Protocol):
    """A test that pytest runs; `mesh simulate module:name` runs its scenario."""

    scenario: Scenario

    def __call__(self, request: pytest.FixtureRequest) -> None:
        """Raises PartitionFailed."""


def partition_test(
    *, seeds: int = 50, **options: Unpack[Options]
) -> Callable[[Callable[[Replica], Awaitable[None]]], PartitionTest]:
    """Make a test of an agent, in `seeds` worlds. Raises CallerError for what there is not."""
    world = scenario(**options)

    def decorate(agent: Callable[[Replica], Awaitable[None]]) -> PartitionTest:
        made = dataclasses.replace(world, name=agent.__name__, agents=(Beside(agent),))

        def test(request: pytest.FixtureRequest) -> None:
            only: int | None = request.config.getoption(SEED_OPTION)
            for seed in range(seeds) if only is None else [only]:
                outcome = perform_one(Task(made, seed, twice=seed % TWICE_EVERY == 0))
                if outcome.violations:
                    raise PartitionFailed(_report(outcome, request.node.nodeid))

        for name in ("__name__", "__qualname__", "__module__", "__doc__"):
            setattr(test, name, getattr(agent, name))
        test.scenario = made  # type: ignore[attr-defined]
        return cast("PartitionTest", test)

    return decorate


def _report(outcome: Outcome, test: str) -> str:
    lines = [f"seed {outcome.seed}:"]
    lines += [f"  {violation}" for violation in outcome.violations]
    lines += [f"  fault {number}: {fault}" for number, fault in outcome.plan.items()]
    lines.append(f"run this seed alone: pytest '{test}' {SEED_OPTION} {outcome.seed}")
    return "\n".join(lines)
