"""The simulated services keep the very contracts that the real ones keep, and fail as they do."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mesh.conformance_bus import BUS_CHECKS, OUTAGE_CHECKS, Buses
from mesh.conformance_bus import Check as BusCheck
from persistence.base import CheckpointStore, EventLog, LogFrame, ServiceUnavailable
from persistence.conformance_checkpoints import CHECKPOINT_CHECKS, run_check
from persistence.conformance_checkpoints import Check as CheckpointCheck
from persistence.conformance_checkpoints import Open as OpenStore
from persistence.conformance_log import LOG_CHECKS, SHARDS, Open
from persistence.conformance_log import Check as LogCheck
from simulations.faults.kinds import LOSSES
from simulations.faults.plan import Fault
from simulations.faults.services import _spare
from simulations.loop import SimLoop
from simulations.ports.hosts import SimClock
from simulations.ports.network import Conditions, Network
from simulations.ports.services import LOG, SERVICES, STREAM_ENTRIES, Services
from simulations.run import drawn_scenario, simulate
from simulations.scenarios.ready import SCENARIOS
from simulations.trace import Trace
from simulations.world import World

SEEDS = range(3)
ROUGH = Conditions(latency_ms=2, jitter_ms=5, tail=0.05, bandwidth=20_000_000)


def new_services(loop: SimLoop, seed: int = 1, names: tuple[str, ...] = SERVICES) -> Services:
    network = Network(loop, Trace(loop), random.Random(seed), ROUGH if seed % 2 else None)
    return Services(network, random.Random(seed), SimClock(loop), SHARDS, names)


class Server:
    """What the checks of the bus do to its server."""

    def __init__(self, services: Services) -> None:
        self._bus = services.bus_server

    async def flush(self) -> None:
        self._bus.flush()

    async def trim(self, shard: int, keep: int) -> None:
        self._bus.trim(shard, keep)

    async def stop(self) -> None:
        self._bus.stop()

    async def start(self) -> None:
        self._bus.start(empty=True)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("check", [*BUS_CHECKS, *OUTAGE_CHECKS], ids=lambda one: one.__name__)
def test_bus_contract(check: BusCheck, seed: int) -> None:
    loop = SimLoop(seed)

    @asynccontextmanager
    async def make() -> AsyncIterator[Buses]:
        services = new_services(loop, seed)
        one, other = services.bus("a"), services.bus("b")
        assert one is not None
        assert other is not None
        try:
            yield Buses(one, other, Server(services), STREAM_ENTRIES)
        finally:
            await one.close()
            await other.close()

    async def run() -> None:
        await check(make)

    loop.run_until_complete(run())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("check", LOG_CHECKS, ids=lambda one: one.__name__)
def test_log_contract(check: LogCheck, seed: int) -> None:
    loop = SimLoop(seed)

    @asynccontextmanager
    async def make() -> AsyncIterator[Open]:
        services = new_services(loop, seed)
        made: list[EventLog] = []

        def one_more() -> EventLog:
            log = services.log(f"host {len(made)}")
            assert log is not None
            made.append(log)
            return log

        try:
            yield one_more
        finally:
            for log in made:
                await log.close()

    async def run() -> None:
        await check(make)

    loop.run_until_complete(run())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("check", CHECKPOINT_CHECKS, ids=lambda one: one.__name__)
def test_checkpoints_contract(check: CheckpointCheck, seed: int) -> None:
    loop = SimLoop(seed)

    async def make() -> OpenStore:
        services = new_services(loop, seed)

        def one_more() -> CheckpointStore:
            store = services.checkpoints("host")
            assert store is not None
            return store

        return one_more

    loop.run_until_complete(run_check(check, make))


def test_a_way_that_is_cut_refuses_and_an_answer_lost_leaves_the_work_done() -> None:
    loop = SimLoop()
    services = new_services(loop)
    log = services.log("a")
    assert log is not None

    async def run() -> None:
        network = services.network
        for way, stored in (("a", LOG), 0), ((LOG, "a"), 1):
            network.cut([way])
            with pytest.raises(ServiceUnavailable, match="no way"):
                await log.append([LogFrame(0, 7, 1, 1, b"frame")])
            network.mend([way])
            assert len(services.log_server.records(0)) == stored
        other = services.log("b")
        assert other is not None
        network.cut([("a", LOG)])
        assert len(await other.read({0: 0}, limit=9, wait_s=0)) == 1

    loop.run_until_complete(run())


def test_a_world_has_the_services_that_are_named() -> None:
    services = new_services(SimLoop(), names=(LOG,))
    assert services.bus("a") is None
    assert services.checkpoints("a") is None
    assert services.log("a") is not None


def test_a_full_bus_takes_nothing_and_is_read_on() -> None:
    loop = SimLoop()
    services = new_services(loop)
    bus = services.bus("a")
    assert bus is not None

    async def run() -> None:
        await bus.publish([(0, b"before")])
        services.bus_full = True
        with pytest.raises(ServiceUnavailable, match="memory"):
            await bus.publish([(0, b"full")])
        with pytest.raises(ServiceUnavailable, match="memory"):
            await bus.announce("a", b"row", ttl_s=9)
        batch = await bus.read({0: ""}, limit=9, wait_s=0)
        assert [entry.data for entry in batch.entries] == [b"before"]
        services.heal()
        await bus.publish([(0, b"after")])

    loop.run_until_complete(run())


def test_replicas_use_all_services_and_agree() -> None:
    outcome = simulate(SCENARIOS["services"], 3)
    assert outcome.violations == []
    assert outcome.healed_s is not None
    assert outcome.counts["acknowledged"]
    for level in ("BUS", "LOG", "CHECKPOINT"):
        assert outcome.counts[level], f"no flush at {level} returned"


def test_a_swarm_has_worlds_with_services_and_worlds_without() -> None:
    drawn = [drawn_scenario(SCENARIOS["swarm"], seed).services for seed in range(60)]
    assert () in drawn
    assert {name for names in drawn for name in names} == set(SERVICES)


def test_the_same_seed_is_the_same_run_with_services() -> None:
    short = SCENARIOS["services"]
    assert simulate(short, 5).trace_hash == simulate(short, 5).trace_hash


def test_reading_waits_across_hosts() -> None:
    loop = SimLoop()
    services = new_services(loop)
    one, other = services.bus("a"), services.bus("b")
    assert one is not None
    assert other is not None

    async def run() -> None:
        reading = asyncio.ensure_future(one.read({0: ""}, limit=9, wait_s=60))
        await other.publish([(0, b"news")])
        assert [entry.data for entry in (await reading).entries] == [b"news"]
        assert loop.time() < 1

    loop.run_until_complete(run())


def test_retention_leaves_what_is_nowhere_else() -> None:
    """Two replicas that have it, or a checkpoint, and no fewer."""
    spared: list[tuple[int, int, int]] = []

    def at_the_end(world: World) -> None:
        server = world.services.log_server
        everything = len(server.records(0))
        both = len(_spare(world, 0))
        world.hosts["replica-1"].crash(power=False)
        one = len(_spare(world, 0))
        spared.append((everything, both, one))

    few = dataclasses.replace(
        SCENARIOS["calm"], replicas=2, shards=1, fault_s=4.0, services=(LOG,),
        invariants=(at_the_end,),
    )  # fmt: skip
    assert simulate(few, 1).violations == []
    everything, both, one = spared[0]
    assert both == everything > 0
    assert one == 0


@pytest.mark.parametrize("kind", LOSSES)
def test_a_log_that_loses_records_has_all_that_journals_have_in_the_end(kind: str) -> None:
    cuts: list[int] = []

    def watch(world: World) -> None:
        world.services.on_log_cut.append(lambda _, end: cuts.append(end))

    plan = (Fault(5.0, kind, (LOG,), 6.0), Fault(12.0, kind, (LOG,), 13.0))
    scenario = dataclasses.replace(SCENARIOS["services"], plan=plan, fault_s=15.0)
    outcome = simulate(scenario, 2, watch=watch)
    assert outcome.violations == []
    assert cuts
    assert bool(outcome.counts["log.reset"]) == (kind != "log-retention")
