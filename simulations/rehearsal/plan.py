"""Who plays what, and what goes wrong when: everything about a run that the seed decides."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from crdt.errors import CallerError
from mesh.stack import SERVICES
from simulations.rehearsal.proxy import Cut, Pair
from simulations.rehearsal.roles import ROLES

MIN_AGENTS = 2
MAX_AGENTS = 48

Cast = Mapping[str, tuple[str, ...]]
"""Agent name → the roles it plays."""


SHARED = ("redis", "kafka", "postgres")
"""The services that carry state between agents, so that a partition has to cut them off too."""


class PlanError(CallerError):
    """A fleet that can't be: too few agents, or too many; or a service that can't be lost."""


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """When and how the run is disturbed. Progress is the share of all work done, from 0 to 1.

    The shared services are on the second side, and the first side loses them too. `lose`: the
    service that is killed at `lose_at`, "" for none.
    """

    partition_at: float
    partition_seconds: float
    sides: tuple[tuple[str, ...], tuple[str, ...]]
    silenced: frozenset[Pair]
    kill_at: float
    victim: str
    lose_at: float
    lose: str = ""

    def how(self, pair: Pair) -> Cut:
        """Whether a pair that the partition crosses breaks or falls silent."""
        return Cut.SILENCE if pair in self.silenced else Cut.BREAK


def cast(agents: int) -> dict[str, tuple[str, ...]]:
    """Spread the roles over so many agents: one each, several each if agents are fewer.

    Raises PlanError.
    """
    if agents < MIN_AGENTS or agents > MAX_AGENTS:
        raise PlanError(
            f"--agents {agents}: a fleet has {MIN_AGENTS} to {MAX_AGENTS} agents (7: one per role)"
        )
    names = list(ROLES)
    if agents <= len(names):
        return {names[index]: tuple(names[index::agents]) for index in range(agents)}
    players: dict[str, tuple[str, ...]] = {}
    for index in range(agents):
        role = names[index % len(names)]
        generation = index // len(names) + 1
        players[role if generation == 1 else f"{role}-{generation}"] = (role,)
    return players


def pairs(names: Iterable[str]) -> list[Pair]:
    """Every two agents once; the lower name dials."""
    ordered = sorted(names)
    return [(low, high) for index, low in enumerate(ordered) for high in ordered[index + 1 :]]


def service_pairs(names: Iterable[str]) -> list[Pair]:
    """Every agent with every shared service; the agent dials."""
    return [(name, service) for name in sorted(names) for service in SHARED]


def check_lost(lose: str, *, stack: bool) -> str:
    """The service to lose, if that can be; "" is none. Raises PlanError."""
    choices = ", ".join(SERVICES)
    if lose and lose not in SERVICES:
        raise PlanError(f"--lose {lose}: the stack has no such service; choose one of {choices}")
    if lose and not stack:
        raise PlanError(
            f"--lose {lose} needs --stack: without it no service is there that can be lost and "
            f"come back; with it, one of {choices}"
        )
    return lose


def draw(players: Cast, seed: int, partition_seconds: float, lose: str = "") -> FaultPlan:
    """The faults of this seed: the same seed and fleet always give the same plan.

    What is drawn is the same whether a service is lost or not, and with or without a stack.
    """
    dice = random.Random(f"statemesh demo {seed}")  # noqa: S311 - a plan, not a key
    names = sorted(players)
    shuffled = dice.sample(names, len(names))
    middle = len(names) // 2
    sides = (tuple(sorted(shuffled[:middle])), tuple(sorted(shuffled[middle:])))
    silenced = frozenset(pair for pair in pairs(names) if dice.random() < 0.4)
    leads = [name for name in names if any(ROLES[role].leads for role in players[name])]
    partition_at, kill_at = dice.uniform(0.22, 0.30), dice.uniform(0.50, 0.60)
    victim = dice.choice(leads)
    # What is drawn later comes after, so that a seed goes on meaning what it meant.
    unheard = frozenset(pair for pair in service_pairs(names) if dice.random() < 0.4)
    return FaultPlan(
        partition_at=partition_at,
        partition_seconds=partition_seconds,
        sides=sides,
        silenced=silenced | unheard,
        kill_at=kill_at,
        victim=victim,
        lose_at=dice.uniform(0.36, 0.46),
        lose=lose,
    )


def rendezvous(key: str, names: Sequence[str]) -> list[str]:
    """`names` in the order in which they are to answer for `key`, the same for everybody.

    Highest random weight (Thaler and Ravishankar, Using name-based mappings to increase hit rates,
    1998): when a name goes, only its own keys move.
    """
    return sorted(names, key=lambda name: (_weight(key, name), name), reverse=True)


def _weight(key: str, name: str) -> bytes:
    return hashlib.blake2b(f"{key}\0{name}".encode(), digest_size=8).digest()
