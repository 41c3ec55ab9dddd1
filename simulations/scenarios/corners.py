"""Corners: worlds of a swarm where rare paths of the production code are taken often.

What is drawn evenly rarely meets all that such a path needs at once: it would take thousands of
seeds. So some worlds are pushed into a corner that has all of it; what the seed draws besides
stays. Of twenty seeds in a row, from a multiple of twenty on, each corner has its share, in an
order that is drawn: no corner has to be waited for.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from simulations.faults.kinds import KINDS, ROT
from simulations.ports.hosts import drawn
from simulations.ports.services import BUS, CHECKPOINTS, LOG, SERVICES
from simulations.scenarios.ready import SCENARIOS, SERVICE_SETTINGS, Scenario

__all__ = ("CORNERS", "ROUND", "cornered")

ROUND = 20
"""Seeds in a row of which each corner has its share."""


@dataclass(frozen=True, slots=True)
class Corner:
    """What a world in it has instead of what was drawn. `share` worlds of each `ROUND` are in it.
    `kinds` may have ROT, which a swarm draws nowhere else.
    """

    meaning: str
    share: int
    kinds: tuple[str, ...]
    services: tuple[str, ...] | None = None
    shards: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    load: Mapping[str, Any] = field(default_factory=dict)
    weather: Mapping[str, Any] = field(default_factory=dict)


CORNERS = (
    Corner(
        "Much is written while ways are held, and little fits on a link.",
        1,
        ("halves", "isolate", "one-way", "clog", "pause", "lag"),
        settings={"peers__send_buffer_bytes": 4_096},
        load={"edits": 2.0, "padding": 3_000},
        weather={"buffer": 4_096},
    ),
    Corner(
        "Leases change hands between replicas that don't see each other, and there is no log.",
        3,
        ("halves", "isolate", "bridge", "kill", "power", "stop", "pause"),
        services=(CHECKPOINTS,),
        shards=1,
        settings=SERVICE_SETTINGS
        | {"postgres__checkpoint_interval_s": 0.5, "postgres__lease_s": 1.0},
        load={"edits": 2.0},
    ),
    Corner(
        "Replicas are closed that reach neither peers nor the bus.",
        2,
        ("halves", "isolate", "stop", "bus-down"),
        services=(BUS,),
        load={"edits": 1.0},
    ),
    Corner(
        "The log falls behind a bus that is well and trimmed all the time.",
        1,
        ("log-down", "log-slow"),
        services=(BUS, LOG),
        shards=1,
        settings=SERVICE_SETTINGS | {"replica__flush_interval_ms": 0},
        load={"edits": 2.0},
    ),
    Corner(
        "Journals forget often, while the log owes them an answer.",
        1,
        ("log-down", "log-slow", "log-unacknowledged", "bus-down", "power", "halves"),
        services=SERVICES,
        settings=SERVICE_SETTINGS | {"replica__snapshot_every_frames": 10},
        load={"edits": 1.0},
    ),
    Corner(
        "The bus loses what it had, while many wait for it.",
        1,
        ("bus-flushed", "bus-failover", "bus-down"),
        services=(BUS,),
        load={"edits": 1.0, "flush": 0.5},
    ),
    Corner(
        "Values in memory turn into others, and frontiers don't show it.",
        1,
        (ROT, "halves", "kill"),
        services=(),
        load={"edits": 1.0},
    ),
    Corner(
        "Nothing goes wrong but that a member lies, and much is heard of it.",
        1,
        ("equivocation",),
        services=(),
        shards=1,
        load={"edits": 2.0},
    ),
)


def cornered(scenario: Scenario, seed: int) -> Scenario:
    """The scenario that a swarm's seed has drawn, in a corner if the seed is in one."""
    turn, at = divmod(seed, ROUND)
    seats = [corner for corner in CORNERS for _ in range(corner.share)]
    order = list(range(ROUND))
    random.Random(drawn(turn, "swarm corners")).shuffle(order)  # noqa: S311 - the seed is the point
    return _put(scenario, seats[order[at]]) if order[at] < len(seats) else scenario


def _put(scenario: Scenario, corner: Corner) -> Scenario:
    everything = scenario.kinds == SCENARIOS["swarm"].kinds
    allowed = KINDS if everything else scenario.kinds  # where somebody chose, these alone
    kinds = tuple(kind for kind in allowed if kind in corner.kinds)
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
