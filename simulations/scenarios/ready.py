"""Scenarios: what a world is like, what goes wrong in it, and what its agents do. Each is data.

One with agents and invariants of your own is made by `simulations.scenario`; one in a file is read
by `simulations.scenarios.files`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crdt.errors import CallerError
from simulations.agents.writers import Load
from simulations.faults.kinds import CRASHES, KINDS, LOSSES, NETWORK, ROT, SERVICE
from simulations.faults.plan import Fault
from simulations.ports.network import Conditions
from simulations.ports.services import BUS, LOG, SERVICES

if TYPE_CHECKING:
    from simulations.world import Agent, World

__all__ = ("MARKS", "SCENARIOS", "Scenario", "scenario_named")


@dataclass(frozen=True, slots=True)
class Scenario:
    """See the module. `kinds` of faults happen for `fault_s` virtual seconds; then everybody must
    agree within `heal_s`, and be quiet for `quiet_s`. `swarm`: the seed draws network, settings and
    load, too, and which `services` there are; else every replica has all that are named. With a
    `plan` exactly these faults happen, and none are drawn. `code` names the scenario of which
    `agents` and `invariants` are to be taken: functions don't travel to other processes.
    """

    name: str
    meaning: str
    kinds: tuple[str, ...] = ()
    plan: tuple[Fault, ...] | None = None
    replicas: int = 5
    shards: int = 4
    load: Load | None = field(default_factory=Load)
    fault_s: float = 30.0
    heal_s: float = 60.0
    quiet_s: float = 5.0
    swarm: bool = False
    weather: Conditions = field(default_factory=Conditions)
    settings: Mapping[str, Any] = field(default_factory=dict)
    services: tuple[str, ...] = ()
    agents: tuple[Agent, ...] = ()
    invariants: tuple[Callable[[World], None], ...] = ()
    code: str = ""


SERVICE_SETTINGS: dict[str, Any] = {
    "kafka__upload_after_s": 2.0,
    "postgres__checkpoint_interval_s": 2.0,
    "postgres__lease_s": 4.0,
}
"""So that half a minute of faults sees uploads to the log, checkpoints, and leases that end."""

SCENARIOS: Mapping[str, Scenario] = {
    one.name: one
    for one in (
        Scenario("calm", "Nothing goes wrong."),
        Scenario("partition", "The network falls apart, in every shape.", NETWORK),
        Scenario("crash", "Processes are killed, hosts go dark, disks fail.", CRASHES),
        Scenario("swarm", "Everything that can go wrong, in another mix each time.",
                 tuple(kind for kind in KINDS if kind != ROT), swarm=True),
        Scenario("services", "Bus, log, checkpoints and Temporal fail, and hosts and ways to them.",
                 (*SERVICE, *NETWORK, *CRASHES), services=SERVICES,
                 settings=SERVICE_SETTINGS | {"replica__snapshot_every_frames": 10}),
        Scenario("behind", "The event log falls behind a bus that is well.",
                 ("log-down", "log-slow", "log-unacknowledged", "kill"), shards=1,
                 load=Load(edits=1.0), services=(BUS, LOG), settings=SERVICE_SETTINGS),
        Scenario("forgetful", "The event log loses records, and removes old ones.",
                 (*LOSSES, "log-down", "halves"), replicas=2, shards=1, load=Load(edits=3.0),
                 services=(LOG,), settings=SERVICE_SETTINGS),
        Scenario("rot", "Values in memory turn into others; equal frontiers hide it.",
                 (ROT, "halves", "kill")),
    )
}  # fmt: skip
"""The ready ones, by name."""


MARKS = (
    "a slow peer is repaired",
    "a snapshot is served",
    "closed before all peers had everything",
    "closed while it was flushed for closing",
    "left without a word on the bus",
    "a checkpoint has what its lease's holder lacks",
)
"""Rare paths of the production code, each marked there by `probe.sometimes`, that a soak must have
taken.
"""


def scenario_named(name: str) -> Scenario:
    """Raises CallerError, which lists those there are."""
    if name not in SCENARIOS:
        raise CallerError(f"{name!r} is no scenario; there are {', '.join(SCENARIOS)}")
    return SCENARIOS[name]
