"""One seed of one scenario, from the first start to the verdict.

Phases: everybody starts; faults happen while agents work; then all faults end, everybody is up
again and nobody writes, and all must agree within a stated time; then there must be quiet.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from simulations.agents.claimants import Claimant, History
from simulations.agents.writers import Promises, Writer
from simulations.faults.kinds import KINDS
from simulations.faults.plan import Fault, draw, launch, prepare
from simulations.invariants.base import Checker, Spoiled, Violation
from simulations.invariants.checkpoints import checkpoint_checkers
from simulations.invariants.decisions import decision_checkers
from simulations.invariants.lies import LiesNamed, overheard
from simulations.invariants.replicas import OfHistory, Quiet, checkers_for, collect
from simulations.invariants.services import Settles, service_checkers
from simulations.loop import Deadlock, Escaped, Livelock
from simulations.ports.hosts import drawn
from simulations.ports.network import Conditions
from simulations.ports.services import SERVICES, TEMPORAL
from simulations.scenario import equipped
from simulations.scenarios.corners import cornered
from simulations.scenarios.ready import SERVICE_SETTINGS, Scenario
from simulations.world import World, host_name

__all__ = ("WHOLE", "Outcome", "Part", "drawn_scenario", "simulate")

LOOK_S = 0.5
START_S = 1.0


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a seed is run, by numbers from 1: of the faults it draws, of its hosts, of the
    hosts that write. None: all. What is left is drawn as it would be in the whole.
    """

    faults: tuple[int, ...] | None = None
    hosts: tuple[int, ...] | None = None
    writers: tuple[int, ...] | None = None


WHOLE = Part()


@dataclass(slots=True)
class Outcome:
    """What came of a seed. `plan` has the faults that happened by number; `seconds` are virtual;
    `healed_s` is how long agreeing took.
    """

    seed: int
    violations: list[Violation] = field(default_factory=list)
    plan: dict[int, Fault] = field(default_factory=dict)
    trace_hash: str = ""
    seconds: float = 0.0
    healed_s: float | None = None
    steps: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    marks: Counter[str] = field(default_factory=Counter)
    lines: list[str] | None = None


def simulate(
    scenario: Scenario,
    seed: int,
    *,
    part: Part = WHOLE,
    keep_trace: bool = False,
    watch: Callable[[World], None] | None = None,
) -> Outcome:
    """Run one seed, or a part of it. `watch` gets the world before it begins."""
    scenario = equipped(drawn_scenario(scenario, seed))
    world = World(
        seed,
        scenario.replicas,
        only=part.hosts,
        shards=scenario.shards,
        settings=scenario.settings,
        conditions=scenario.weather,
        services=scenario.services,
        keep_trace=keep_trace,
    )
    if watch is not None:
        watch(world)
    outcome = Outcome(seed, plan=_plan(scenario, world, part))
    performance = _Performance(scenario, world, outcome, part)
    try:
        with overheard(performance.hearing):
            world.run(performance.play)
    except (Escaped, Livelock, Deadlock) as error:
        outcome.violations.append(Violation(type(error).__name__, world.now, str(error)))
    performance.sum_up()
    return outcome


def _plan(scenario: Scenario, world: World, part: Part) -> dict[int, Fault]:
    everybody = [host_name(number) for number in range(1, scenario.replicas + 1)]
    services = scenario.services
    plan: Iterable[Fault] | None = scenario.plan
    if plan is None:
        plan = draw(world.chance("plan"), everybody, scenario.kinds, scenario.fault_s, services)
    left = {number: fault.among([*world.names, *services]) for number, fault in enumerate(plan, 1)}
    return {
        number: fault
        for number, fault in left.items()
        if fault is not None and (part.faults is None or number in part.faults)
    }


def drawn_scenario(scenario: Scenario, seed: int) -> Scenario:
    """Swarm style: what a scenario leaves to the seed. One rack, one country or a bad radio link;
    settings at their ends, where bounds are met.
    """
    if not scenario.swarm:
        return scenario
    rng = random.Random(drawn(seed, "swarm"))  # noqa: S311 - the seed is the point
    latency = rng.choice((0.1, 0.3, 2.0, 20.0))
    weather = Conditions(
        latency_ms=latency,
        jitter_ms=latency * rng.choice((0.1, 1.0, 4.0)),
        tail=rng.choice((0.0, 0.01, 0.1)),
        loss=rng.choice((0.0, 0.0, 0.001, 0.02)),
        bandwidth=rng.choice((100_000_000, 10_000_000, 500_000)),
        buffer=rng.choice((4_096, 1 << 20)),
    )
    settings = {
        "replica__snapshot_every_frames": rng.choice((10, 50, 2_000)),
        "replica__flush_interval_ms": rng.choice((0, 0, 20, 500)),
        "replica__anti_entropy_interval_s": rng.choice((0.3, 1.0, 1.0, 4.0)),
        "replica__presence_interval_s": rng.choice((0.5, 1.0, 1.0, 3.0)),
        "peers__send_buffer_bytes": rng.choice((4_096, 1_048_576)),
        "peers__dial_max": rng.choice((1, 2, 6, 6)),
    } | dict(scenario.settings)
    load = scenario.load
    if load is not None:
        load = dataclasses.replace(
            load, edits=rng.choice((0.2, 0.5, 0.5, 1.0, 3.0)), sheets=rng.choice((1, 4, 20))
        )
    # By chance of its own, and often none: the rest of what is drawn does not depend on it.
    chance = random.Random(drawn(seed, "swarm services"))  # noqa: S311 - the seed is the point
    some = chance.random() < 0.5
    services = tuple(name for name in SERVICES if chance.random() < 0.6 and some)
    if services:
        settings |= SERVICE_SETTINGS
    settings["replica__on_damage"] = chance.choice(("refuse", "rebuild"))
    scenario = dataclasses.replace(
        scenario,
        weather=weather,
        settings=settings,
        load=load,
        shards=rng.choice((1, 4, 4, 16)),
        services=services,
    )
    return cornered(scenario, seed)


class _Performance:
    """A scenario being played in a world."""

    def __init__(self, scenario: Scenario, world: World, outcome: Outcome, part: Part) -> None:
        self._scenario = scenario
        self._world = world
        self._outcome = outcome
        self._promises = Promises()
        history = History()
        self._writer: Writer | None = None
        if scenario.load is not None:
            only = None if part.writers is None else [host_name(one) for one in part.writers]
            self._writer = Writer(
                self._promises,
                scenario.load,
                lambda host, run: world.chance("writer", host, run),
                only,
            )
            world.agents.append(self._writer)
            if TEMPORAL in world.services.names:
                world.agents.append(
                    Claimant(history, lambda host, run: world.chance("claimant", host, run), only)
                )
        world.agents.extend(scenario.agents)
        self._checkers = [
            *checkers_for(world, self._promises),
            *service_checkers(world),
            *checkpoint_checkers(world),
        ]
        if TEMPORAL in world.services.names:
            self._checkers += decision_checkers(world, history)
        broken = [KINDS[fault.kind].breaks for fault in outcome.plan.values()]
        spoiled = Spoiled(scenario.shards)
        world.listeners.append(spoiled.event)
        for checker in self._checkers:
            checker.tolerated, checker.spoiled = frozenset().union(*broken), spoiled
            # Only those that listen are told.
            if type(checker).event is not Checker.event:
                world.listeners.append(checker.event)
            if type(checker).journaled is not Checker.journaled:
                world.watchers.append(checker.journaled)
        # Where nobody lies there is nothing to be heard twice.
        lies = "frame.forked" in frozenset().union(*broken)
        self.hearing = [one.heard for one in self._checkers if lies and isinstance(one, LiesNamed)]
        self._lookers = [one for one in self._checkers if type(one).look is not Checker.look]

    async def play(self, world: World) -> None:
        """See the module."""
        scenario = self._scenario
        prepare(world, self._outcome.plan.values())
        for host in world.hosts.values():
            host.start()
        looking = asyncio.create_task(self._look(), name="checkers")
        await asyncio.sleep(START_S)
        launch(world, self._outcome.plan.values())
        await asyncio.sleep(scenario.fault_s)
        self._outcome.healed_s = await self._heal()
        found = collect(world)
        if self._writer is not None:
            for host in world.up:
                self._writer.read_all(host)
        for checker in self._checkers:
            checker.end(found)
        await self._settled()
        await self._quiet()
        looking.cancel()
        for invariant in scenario.invariants:
            try:
                invariant(world)
            except Exception as error:  # noqa: BLE001 - a user's invariant says it so
                self._outcome.violations.append(
                    Violation(invariant.__name__, world.now, f"{type(error).__name__}: {error}")
                )

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            for checker in self._lookers:
                checker.look()

    async def _heal(self) -> float | None:
        """Everybody is up, nobody writes. How long it takes until all agree; None: too long."""
        world, scenario = self._world, self._scenario
        world.heal()
        began = world.now
        while world.now - began < scenario.heal_s:
            await asyncio.sleep(0.1)
            if len(world.up) == len(world.names) and _agree(world):
                return world.now - began
        return None

    async def _settled(self) -> None:
        """Wait until services have what they must, for as long as agreeing may take."""
        for checker in self._checkers:
            if isinstance(checker, Settles) and self._outcome.healed_s is not None:
                for _ in range(int(self._scenario.heal_s / LOOK_S)):
                    if not checker.lacking():
                        break
                    await asyncio.sleep(LOOK_S)
                checker.judge()

    async def _quiet(self) -> None:
        world, scenario = self._world, self._scenario
        if self._outcome.healed_s is None or not scenario.quiet_s:
            return
        # What was sent on several ways may still come in a second time.
        await asyncio.sleep(2.0)
        before = world.network.messages
        await asyncio.sleep(scenario.quiet_s)
        for checker in self._checkers:
            if isinstance(checker, Quiet):
                checker.judge(scenario.quiet_s, world.network.messages - before)

    def sum_up(self) -> None:
        """Put the verdict together."""
        world, outcome = self._world, self._outcome
        for checker in self._checkers:
            outcome.violations.extend(checker.violations)
        outcome.violations.extend(
            Violation("NothingUnhandled", world.now, fault) for fault in world.loop.faults[:3]
        )
        outcome.violations.sort(key=lambda one: one.at)
        outcome.trace_hash = world.trace.hash
        outcome.seconds = world.now
        outcome.steps = world.loop.steps
        outcome.counts = world.counts + self._promises.counts
        for checker in self._checkers:
            if isinstance(checker, OfHistory):
                outcome.counts[f"checked {checker.name}"] = checker.judge.checked
        outcome.marks = world.marks
        outcome.lines = world.trace.lines


def _agree(world: World) -> bool:
    """Whether all replicas have the same operations, in memory and on disk, and the same state."""
    replicas = world.replicas()
    first = replicas[0].frontier()
    return (
        all(one.frontier() == first and one.journaled() == first for one in replicas)
        and len({tuple(one.digest().values()) for one in replicas}) == 1
    )
