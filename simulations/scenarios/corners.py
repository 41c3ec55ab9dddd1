"""Corners: worlds of a swarm where rare paths of the production code are taken often.

What is drawn evenly rarely meets all that such a path needs at once: it would take thousands of
seeds. So some worlds are pushed into a corner that has all of it; what the seed draws besides
stays.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from simulations.ports.hosts import drawn
from simulations.ports.services import BUS, CHECKPOINTS
from simulations.scenarios.ready import SERVICE_SETTINGS, Scenario

__all__ = ("CORNERS", "cornered")


@dataclass(frozen=True, slots=True)
class Corner:
    """What a world in it has instead of what was drawn. `share` of all worlds are in it."""

    meaning: str
    share: float
    kinds: tuple[str, ...]
    services: tuple[str, ...] | None = None
    shards: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    load: Mapping[str, Any] = field(default_factory=dict)
    weather: Mapping[str, Any] = field(default_factory=dict)


CORNERS = (
    Corner(
        "Much is written while ways are held, and little fits on a link.",
        0.06,
        ("halves", "isolate", "one-way", "clog", "pause", "lag"),
        settings={"peers__send_buffer_bytes": 4_096},
        load={"edits": 2.0, "padding": 3_000},
        weather={"buffer": 4_096},
    ),
    Corner(
        "Leases change hands between replicas that don't see each other, and there is no log.",
        0.15,
        ("halves", "isolate", "bridge", "kill", "power", "stop", "pause"),
        services=(CHECKPOINTS,),
        shards=1,
        settings=SERVICE_SETTINGS
        | {"postgres__checkpoint_interval_s": 0.5, "postgres__lease_s": 1.0},
        load={"edits": 2.0},
    ),
    Corner(
        "Replicas are closed that reach neither peers nor the bus.",
        0.15,
        ("halves", "isolate", "stop", "bus-down"),
        services=(BUS,),
        load={"edits": 1.0},
    ),
)


def cornered(scenario: Scenario, seed: int) -> Scenario:
    """The scenario that a swarm's seed has drawn, in a corner if it draws one."""
    chance = random.Random(drawn(seed, "swarm corner"))  # noqa: S311 - the seed is the point
    at = chance.random()
    for corner in CORNERS:
        at -= corner.share
        if at < 0:
            return _put(scenario, corner)
    return scenario


def _put(scenario: Scenario, corner: Corner) -> Scenario:
    kinds = tuple(kind for kind in scenario.kinds if kind in corner.kinds)
    load, weather = scenario.load, scenario.weather
    return dataclasses.replace(
        scenario,
        kinds=kinds or scenario.kinds,
        services=scenario.services if corner.services is None else corner.services,
        shards=corner.shards or scenario.shards,
        settings={**scenario.settings, **corner.settings},
        load=None if load is None else dataclasses.replace(load, **corner.load),
        weather=dataclasses.replace(weather, **corner.weather),
    )
