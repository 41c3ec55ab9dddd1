"""Partition tests for programs that embed a replica: your documents and agents in simulated worlds.

    @partition_test(replicas=3, seeds=50, faults="network", invariants=[every_vote_counts])
    async def test_voting(replica: Replica) -> None:
        ...

What is decorated becomes a test for pytest that runs it as an agent beside every replica of a
world, one world for each seed, and fails at the first seed that breaks an invariant, with the
faults that happened and the command that runs this seed alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from mesh.replica import Replica
from simulations.batch import TWICE_EVERY, Task, perform_one
from simulations.faults import CRASHES, NETWORK, chosen_kinds
from simulations.run import Outcome
from simulations.scenarios import SCENARIOS, Scenario
from simulations.world import Host, World

if TYPE_CHECKING:
    import pytest

__all__ = ("PartitionFailed", "partition_test")

GROUPS = {"network": NETWORK, "crashes": CRASHES}
SEED_OPTION = "--simulation-seed"


class PartitionFailed(AssertionError):
    """An invariant did not hold. The message has the seed, the faults and the command."""


def partition_test(
    *,
    replicas: int = 3,
    seeds: int = 50,
    faults: str = "all",
    seconds: float = 30.0,
    invariants: Sequence[Callable[[World], None]] = (),
) -> Callable[[Callable[[Replica], Awaitable[None]]], Callable[[pytest.FixtureRequest], None]]:
    """Make a test of an agent.

    `faults`: "all", "none", "network", "crashes", or names of `mesh simulate --list` with commas;
    they happen for so many virtual `seconds`, while agents run. Then agents are cancelled, the
    faults end, and once all replicas agree each of `invariants` is called with the world: what it
    raises is what is wrong. That all replicas agree, and all else that a mesh promises, is judged
    in any case. Raises CallerError for a fault that there is not.
    """
    kinds = GROUPS.get(faults) or chosen_kinds(faults, SCENARIOS["swarm"].kinds)

    def decorate(
        agent: Callable[[Replica], Awaitable[None]],
    ) -> Callable[[pytest.FixtureRequest], None]:
        async def run_agent(host: Host, replica: Replica) -> None:
            del host
            await agent(replica)

        scenario = Scenario(
            agent.__name__, agent.__doc__ or "", kinds, replicas=replicas, load=None,
            fault_s=seconds, agents=(run_agent,), invariants=tuple(invariants),
        )  # fmt: skip

        def test(request: pytest.FixtureRequest) -> None:
            only: int | None = request.config.getoption(SEED_OPTION)
            for seed in range(seeds) if only is None else [only]:
                task = Task(scenario, seed, twice=seed % TWICE_EVERY == 0)
                outcome = perform_one(task)
                if outcome.violations:
                    raise PartitionFailed(_report(outcome, request.node.nodeid))

        for name in ("__name__", "__qualname__", "__module__", "__doc__"):
            setattr(test, name, getattr(agent, name))
        return test

    return decorate


def _report(outcome: Outcome, test: str) -> str:
    lines = [f"seed {outcome.seed}:"]
    lines += [f"  {violation}" for violation in outcome.violations]
    lines += [f"  fault {number}: {fault}" for number, fault in outcome.plan.items()]
    lines.append(f"run this seed alone: pytest '{test}' {SEED_OPTION} {outcome.seed}")
    return "\n".join(lines)
