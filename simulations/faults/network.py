"""What befalls the network: each function does it to ways, and gives what ends it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from simulations.faults.hosts import nothing

if TYPE_CHECKING:
    from simulations.world import World

Undo = Callable[[], None]


def ways_of(targets: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(way.partition(">")[0], way.partition(">")[2]) for way in targets]


def cut(world: World, targets: tuple[str, ...]) -> Undo:
    ways = ways_of(targets)
    world.network.cut(ways)
    return lambda: world.network.mend(ways)


def flap(world: World, targets: tuple[str, ...]) -> Undo:
    ways = ways_of(targets)
    rng = world.chance("flap", world.now)
    state = {"cut": False, "over": False}

    def flip() -> None:
        if state["over"]:
            return
        state["cut"] = not state["cut"]
        (world.network.cut if state["cut"] else world.network.mend)(ways)
        world.loop.call_later(rng.uniform(0.05, 1.5), flip)

    def end() -> None:
        state["over"] = True
        if state["cut"]:
            world.network.mend(ways)

    flip()
    return end


def reset(world: World, targets: tuple[str, ...]) -> Undo:
    for a, b in ways_of(targets):
        world.network.reset(a, b)
    return nothing


def weather(**changes: float) -> Callable[[World, tuple[str, ...]], Undo]:
    def begin(world: World, targets: tuple[str, ...]) -> Undo:
        del targets
        network = world.network
        before = network.conditions
        network.conditions = dataclasses.replace(before, **changes)  # type: ignore[arg-type]

        def end() -> None:
            network.conditions = world.fair_weather

        return end

    return begin
