"""Scenarios of your own: your documents and agents in simulated worlds, judged by your invariants.

    async def vote(replica: Replica) -> None: ...
    def every_vote_counts(world: World) -> None: ...

    VOTING = scenario(vote, replicas=3, faults="network", invariants=[every_vote_counts])

In a module `votes`, that is run by `mesh simulate votes:VOTING --seeds 0:500`. A test of
`simulations.testing.partition_test` is run in the same way, by its name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

from crdt.errors import CallerError
from mesh.editing import ReplicaClosed
from mesh.replica import Replica
from mesh.settings import Settings
from simulations.agents.writers import Load
from simulations.faults.kinds import CRASHES, KINDS, NETWORK
from simulations.faults.plan import chosen_kinds
from simulations.ports.network import Conditions
from simulations.ports.services import SERVICES
from simulations.scenarios.ready import SCENARIOS, Scenario
from simulations.world import Host, World

__all__ = ("DEFAULTS", "Beside", "Options", "equipped", "faults_of", "imported", "scenario")

GROUPS = {"network": NETWORK, "crashes": CRASHES}
"""Kinds of faults that go together, by a name for all of them."""


@dataclass(frozen=True, slots=True)
class Beside:
    """An agent that is told of its replica alone."""

    agent: Callable[[Replica], Awaitable[None]]

    async def __call__(self, host: Host, replica: Replica) -> None:
        del host
        with contextlib.suppress(ReplicaClosed):  # by a fault; beside the next run it runs again
            await self.agent(replica)


class Options(TypedDict, total=False):
    """What a world of yours is like, for `scenario` and `simulations.testing.partition_test`. What
    is not given is as in `DEFAULTS`.
    """

    replicas: int
    faults: str
    """What goes wrong: "all", "none", or with commas "network", "crashes" and names of
    `mesh simulate --list`.
    """
    seconds: float
    """For how long, in virtual seconds. Then agents are cancelled and the faults end."""
    invariants: Sequence[Callable[[World], None]]
    """Each is called with the world once all replicas agree: what it raises is what is wrong. That
    they agree, and all else that a mesh promises, is judged in any case.
    """
    services: Sequence[str]
    """Which of "bus", "log", "checkpoints" and "temporal" each replica has."""
    network: Conditions
    """How the network is where nothing is wrong with it."""
    settings: Mapping[str, Any]
    """Of all replicas, as for `load_settings`."""
    load: Load | None
    """Writers of ours that work beside your agents."""


DEFAULTS = Options(
    replicas=3, faults="all", seconds=30.0, invariants=(), services=(), network=Conditions(),
    settings={}, load=None,
)  # fmt: skip


def scenario(
    *agents: Callable[[Replica], Awaitable[None]], name: str = "", **options: Unpack[Options]
) -> Scenario:
    """A scenario with these agents: async functions of a replica. Each runs beside every replica,
    again after each restart. Raises CallerError for what there is not.
    """
    for option in options:
        if option not in DEFAULTS:
            raise CallerError(f"{option!r} is no option; there are {', '.join(DEFAULTS)}")
    chosen: Options = {**DEFAULTS, **options}
    services, settings = tuple(chosen["services"]), dict(chosen["settings"])
    for service in services:
        if service not in SERVICES:
            raise CallerError(f"{service!r} is no service; there are {', '.join(SERVICES)}")
    Settings().override(**settings)
    return Scenario(
        name or (agents[0].__name__ if agents else "scenario"), "",
        faults_of(chosen["faults"], services), replicas=chosen["replicas"],
        fault_s=chosen["seconds"], load=chosen["load"], weather=chosen["network"],
        settings=settings, services=services, agents=tuple(map(Beside, agents)),
        invariants=tuple(chosen["invariants"]),
    )  # fmt: skip


def faults_of(text: str, services: Sequence[str]) -> tuple[str, ...]:
    """The kinds of faults that a text names, in a world with these services. Raises CallerError."""
    parts = (part.strip() for part in text.split(","))
    names = ",".join(",".join(GROUPS.get(part, (part,))) for part in parts)
    kinds = tuple(dict.fromkeys(chosen_kinds(names, SCENARIOS["swarm"].kinds)))
    for kind in kinds if text != "all" else ():
        service = KINDS[kind].service
        if service not in ("", *services):
            raise CallerError(
                f"{kind} hits the service {service!r}, and this world has none; "
                "there is one in the scenarios services and swarm"
            )
    return kinds


def imported(code: str) -> Scenario:
    """The scenario, or the partition test, that is called `module:name`; modules are looked for
    where the command was called, too. Raises CallerError, which says what is wrong.
    """
    module_name, _, name = code.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        at = "" if "importlib" in where.filename else f" at {where.filename}:{where.lineno}"
        raise CallerError(f"{module_name} can't be imported: {error!r}{at}") from error
    found = {key: one for key, value in vars(module).items() if (one := _scenario_in(value))}
    if name not in found:
        there = ", ".join(found) or "none: make one with simulations.scenario.scenario"
        raise CallerError(f"{module_name} has no scenario {name!r}; there are {there}")
    return dataclasses.replace(found[name], name=code, code=code, agents=(), invariants=())


def _scenario_in(value: object) -> Scenario | None:
    """A scenario, or that of a test."""
    made = getattr(value, "scenario", value)
    return made if isinstance(made, Scenario) else None


def equipped(scenario: Scenario) -> Scenario:
    """The scenario with the agents and invariants of its `code`."""
    if not scenario.code:
        return scenario
    module, _, name = scenario.code.partition(":")
    real = _scenario_in(getattr(importlib.import_module(module), name))
    assert real is not None, f"{scenario.code} is no scenario any more"
    return dataclasses.replace(scenario, agents=real.agents, invariants=real.invariants)
