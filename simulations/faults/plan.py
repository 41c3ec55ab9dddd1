"""Faults: what goes wrong in a world, when, to whom, and for how long. A plan of them is data.

    plan = draw(rng, names, kinds=("halves", "kill"), seconds=30.0)

A plan is drawn from the seed before the run begins and printed with every failure; a run takes any
list of `Fault` instead, which is how a failing one is made smaller. Ways of a network are written
`a>b`: from a to b.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crdt.errors import CallerError
from simulations.faults.kinds import KINDS
from simulations.faults.targets import Names

if TYPE_CHECKING:
    from simulations.world import World

__all__ = ("Fault", "chosen_kinds", "draw", "launch", "prepare")


@dataclass(frozen=True, slots=True)
class Fault:
    """Of this `kind`, from second `t` of the world `until` another; `targets` are hosts or ways."""

    t: float
    kind: str
    targets: tuple[str, ...]
    until: float

    def plain(self) -> dict[str, Any]:
        """As data."""
        return dataclasses.asdict(self)

    def among(self, names: Names) -> Fault | None:
        """The same fault where only these hosts are; None where it hits nobody."""
        left = tuple(one for one in self.targets if set(one.split(">")) <= set(names))
        return dataclasses.replace(self, targets=left) if left else None

    def __str__(self) -> str:
        return f"{self.t:.3f}–{self.until:.3f} s {self.kind}: {' '.join(self.targets)}"


def draw(
    rng: random.Random, names: Names, kinds: Iterable[str], seconds: float, services: Names = ()
) -> list[Fault]:
    """A plan: some of these kinds, at drawn moments of so many seconds, all over at the end. Of the
    kinds that hit services those of services there are; what parts hosts parts these from them.

    Swarm style: each plan has another choice of kinds and another density, for what always happens
    together hides what happens alone.
    """
    allowed = [one for one in kinds if KINDS[one].service in ("", *services)]
    if not allowed:
        return []
    chosen = sorted(rng.sample(allowed, rng.randint(1, len(allowed))), key=allowed.index)
    mean = rng.choice((1.0, 2.0, 4.0, 8.0))
    plan: list[Fault] = []
    spent = False
    at = 0.5
    while (at := at + rng.expovariate(1 / mean)) < seconds - 1.0:
        name = rng.choice(chosen)
        kind = KINDS[name]
        targets = kind.targets(rng, [*names, *services] if kind.hits_ways else names)
        shortest, longest = kind.lasts
        until = min(at + shortest * (longest / shortest) ** rng.random(), seconds)
        if targets and not (kind.scarce and spent):
            spent = spent or kind.scarce
            plan.append(Fault(round(at, 3), name, targets, round(until, 3)))
    return plan


def launch(world: World, plan: Iterable[Fault]) -> None:
    """Let the faults of a plan happen in a world, counted from now."""
    start = world.now

    def begin(fault: Fault) -> None:
        world.trace.add("fault", fault)
        undo = KINDS[fault.kind].begin(world, fault.targets)

        def end() -> None:
            world.trace.add("fault over", fault)
            undo()

        world.loop.call_at(start + fault.until, end)

    for fault in plan:
        world.loop.call_at(start + fault.t, begin, fault)


def prepare(world: World, plan: Iterable[Fault]) -> None:
    """Have the world be as a plan needs it, before anybody is started."""
    for fault in plan:
        if (ready := KINDS[fault.kind].prepare) is not None:
            ready(world, fault.targets)


def chosen_kinds(text: str, allowed: Sequence[str]) -> tuple[str, ...]:
    """What `--faults` names: `all`, `none`, or kinds with commas. Raises CallerError."""
    if text in ("all", ""):
        return tuple(allowed)
    if text == "none":
        return ()
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in KINDS:
            raise CallerError(f"{name!r} is no fault; there are all, none, {', '.join(KINDS)}")
    return names
