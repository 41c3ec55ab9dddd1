"""The simulated Temporal keeps the contract that the real one keeps, and fails as it does."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from mesh.environment import Coordinator
from simulations.coordination import SimCoordinator, TemporalServer
from simulations.hosts import SimClock
from simulations.loop import SimLoop
from simulations.network import Conditions, Network
from simulations.services import TEMPORAL, Way
from simulations.trace import Trace
from tests.workflows.world import Recorder
from workflows import registry
from workflows.conformance import check_coordinator
from workflows.machine import Machine

SEEDS = range(5)
ROUGH = Conditions(latency_ms=5, jitter_ms=20, tail=0.05)
TIMEOUT_S = 5.0


class Place:
    """One server, and clients of it on hosts of any name."""

    def __init__(self, seed: int = 1) -> None:
        self.loop = SimLoop(seed)
        rng = random.Random(seed)
        self.network = Network(self.loop, Trace(self.loop), rng, ROUGH if seed % 2 else None)
        self.server = TemporalServer(rng)
        self.probe = Recorder()

    def client(
        self,
        host: str,
        machines: Mapping[str, Machine] = registry.machines,
        timeout_s: float = TIMEOUT_S,
    ) -> SimCoordinator:
        way = Way(self.network, random.Random(1), host, TEMPORAL)
        clock = SimClock(self.loop)
        return SimCoordinator(self.server, way, clock, self.probe, timeout_s, machines)


@pytest.mark.parametrize("repeats", [0.0, 0.5])
@pytest.mark.parametrize("seed", SEEDS)
def test_simulated_temporal_holds_the_contract(seed: int, repeats: float) -> None:
    place = Place(seed)
    place.server.repeats = repeats

    async def make(machines: Mapping[str, Machine]) -> Coordinator:
        return place.client("a", machines, timeout_s=60.0)

    place.loop.run_until_complete(check_coordinator(make, "run"))
