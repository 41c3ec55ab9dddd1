"""Faults: what goes wrong in a world, when, to whom, and for how long. A plan of them is data.

    plan = draw(rng, names, kinds=("halves", "kill"), seconds=30.0)

A plan is drawn from the seed before the run begins and printed with every failure; a run takes any
list of `Fault` instead, which is how a failing one is made smaller. Ways of a network are written
`a>b`: from a to b.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any

from crdt.errors import CallerError
from simulations import misfortunes, mishaps
from simulations.services import BUS, CHECKPOINTS, LOG, TEMPORAL

if TYPE_CHECKING:
    from simulations.services import Services
    from simulations.world import World

__all__ = ("KINDS", "Fault", "Kind", "chosen_kinds", "draw", "launch", "prepare")

Names = Sequence[str]
Undo = Callable[[], None]


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


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: whom it hits, for how many seconds, and what it does. `begin` gives what
    ends it. `scarce`: a plan has one fault of all that are, or nothing might be left of a write.
    `breaks`: alarms and invariants that it breaks until all agree; they are not judged then.
    `service`: the one that it hits, where a world has it. `prepare`: what has to be so from the
    start.
    """

    meaning: str
    targets: Callable[[random.Random, Names], tuple[str, ...]]
    lasts: tuple[float, float]
    begin: Callable[[World, tuple[str, ...]], Undo]
    prepare: Callable[[World, tuple[str, ...]], None] | None = None
    scarce: bool = False
    breaks: frozenset[str] = frozenset()
    service: str = ""

    @property
    def hits_ways(self) -> bool:
        """Whether its targets are ways, or hosts."""
        return self.targets in _WAYS


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


# ---------------------------------------------------------------------- whom it hits


def _between(some: Names, others: Names) -> tuple[str, ...]:
    """All ways between two groups."""
    return tuple(way for a in some for b in others for way in (f"{a}>{b}", f"{b}>{a}"))


def _halves(rng: random.Random, names: Names) -> tuple[str, ...]:
    mixed = rng.sample(names, len(names))
    middle = rng.randint(1, max(1, len(mixed) - 1))
    return _between(mixed[:middle], mixed[middle:])


def _isolate(rng: random.Random, names: Names) -> tuple[str, ...]:
    one = rng.choice(names)
    return _between([one], [name for name in names if name != one])


def _one_way(rng: random.Random, names: Names) -> tuple[str, ...]:
    mixed = rng.sample(names, len(names))
    middle = rng.randint(1, max(1, len(mixed) - 1))
    return tuple(f"{a}>{b}" for a in mixed[:middle] for b in mixed[middle:])


def _bridge(rng: random.Random, names: Names) -> tuple[str, ...]:
    mixed = rng.sample(names, len(names))
    rest = mixed[1:]
    return _between(rest[: len(rest) // 2], rest[len(rest) // 2 :])


def _ring(rng: random.Random, names: Names) -> tuple[str, ...]:
    mixed = rng.sample(names, len(names))
    size = len(mixed)
    near = {(a, (a + step) % size) for a in range(size) for step in (1, size - 1)}
    return tuple(
        f"{mixed[a]}>{mixed[b]}" for a, b in permutations(range(size), 2) if (a, b) not in near
    )


def _pair(rng: random.Random, names: Names) -> tuple[str, ...]:
    if len(names) < 2:
        return ()
    a, b = rng.sample(names, 2)
    return (f"{a}>{b}",)


def _one(rng: random.Random, names: Names) -> tuple[str, ...]:
    return (rng.choice(names),)


def _some(rng: random.Random, names: Names) -> tuple[str, ...]:
    return tuple(sorted(rng.sample(names, rng.randint(1, len(names)))))


def _everybody(rng: random.Random, names: Names) -> tuple[str, ...]:
    del rng
    return tuple(names)


def _service(name: str) -> Callable[[random.Random, Names], tuple[str, ...]]:
    return lambda rng, names: (name,)  # noqa: ARG005 - it is always this one


_WAYS = (_halves, _isolate, _one_way, _bridge, _ring, _pair)
"""Whose targets are ways."""


# ---------------------------------------------------------------------- what it does


def _nothing() -> None:
    """It leaves nothing to undo."""


def _ways(targets: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(way.partition(">")[0], way.partition(">")[2]) for way in targets]


def _cut(world: World, targets: tuple[str, ...]) -> Undo:
    ways = _ways(targets)
    world.network.cut(ways)
    return lambda: world.network.mend(ways)


def _flap(world: World, targets: tuple[str, ...]) -> Undo:
    ways = _ways(targets)
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


def _reset(world: World, targets: tuple[str, ...]) -> Undo:
    for a, b in _ways(targets):
        world.network.reset(a, b)
    return _nothing


def _weather(**changes: float) -> Callable[[World, tuple[str, ...]], Undo]:
    def begin(world: World, targets: tuple[str, ...]) -> Undo:
        del targets
        network = world.network
        before = network.conditions
        network.conditions = dataclasses.replace(before, **changes)  # type: ignore[arg-type]

        def end() -> None:
            network.conditions = world.fair_weather

        return end

    return begin


def _crash(*, power: bool) -> Callable[[World, tuple[str, ...]], Undo]:
    def begin(world: World, targets: tuple[str, ...]) -> Undo:
        for name in targets:
            world.hosts[name].crash(power=power)
        return _start(world, targets)

    return begin


def _start(world: World, targets: tuple[str, ...]) -> Undo:
    def end() -> None:
        for name in targets:
            world.hosts[name].start()

    return end


def _crash_in_sync(moment: str) -> Callable[[World, tuple[str, ...]], Undo]:
    def begin(world: World, targets: tuple[str, ...]) -> Undo:
        hosts = [world.hosts[name] for name in targets]
        for host in hosts:
            host.crash_in_sync(moment)

        def end() -> None:
            for host in hosts:
                host.disk.on_sync = None
                host.start()

        return end

    return begin


def _pause(world: World, targets: tuple[str, ...]) -> Undo:
    runs = [world.hosts[name].run for name in targets]
    for run in runs:
        if run is not None:
            world.loop.suspend(run.life)

    def end() -> None:
        for run in runs:
            if run is not None and not run.over:
                world.loop.resume(run.life)

    return end


def _stop(world: World, targets: tuple[str, ...]) -> Undo:
    for name in targets:
        world.hosts[name].stop()
    return _start(world, targets)


def _lose_disk(world: World, targets: tuple[str, ...]) -> Undo:
    for name in targets:
        world.hosts[name].lose_disk()
    return _start(world, targets)


def _old_disk(world: World, targets: tuple[str, ...]) -> Undo:
    copies = {name: world.hosts[name].disk.copy() for name in targets}

    def end() -> None:
        for name, copy in copies.items():
            world.hosts[name].restore(copy)
            world.hosts[name].start()

    return end


def _down(world: World, targets: tuple[str, ...]) -> Undo:
    servers = [world.services.server(name) for name in targets]
    for server in servers:
        server.stop()

    def end() -> None:
        for server in servers:
            server.start()

    return end


def _service_fault(
    befall: Callable[[Services, random.Random], Undo],
) -> Callable[[World, tuple[str, ...]], Undo]:
    def begin(world: World, targets: tuple[str, ...]) -> Undo:
        return befall(world.services, world.chance("service", *targets, world.now))

    return begin


ROT = "rot"
"""Where it may happen less can be judged: it is a scenario of its own."""
KINDS: Mapping[str, Kind] = {
    "halves": Kind("The network falls into two parts.", _halves, (0.3, 15), _cut),
    "isolate": Kind("One host is cut off from all others.", _isolate, (0.3, 15), _cut),
    "one-way": Kind("Some hosts hear others, and are not heard.", _one_way, (0.3, 15), _cut),
    "bridge": Kind("Two parts that only one host still sees both of.", _bridge, (1, 15), _cut),
    "ring": Kind("Every host sees its two neighbours alone.", _ring, (1, 15), _cut),
    "flapping": Kind("Two parts, cut and mended again and again.", _halves, (2, 15), _flap),
    "clog": Kind("One way is held, and flooded when it is open again.", _pair, (0.1, 8), _cut),
    "reset": Kind("Connections between two hosts break.", _pair, (0.1, 0.2), _reset),
    "loss": Kind(
        "Every fifth message needs a retransmission.", _everybody, (1, 10), _weather(loss=0.2)
    ),
    "lag": Kind(
        "Everything takes some hundred milliseconds.", _everybody, (1, 10),
        _weather(latency_ms=80.0, jitter_ms=120.0),
    ),
    "blind": Kind("Discovery names nobody.", _some, (1, 20), mishaps.blind),
    "kill": Kind("A process is killed, and started again.", _some, (0.2, 10), _crash(power=False)),
    "power": Kind("A host goes dark, and comes back.", _some, (0.5, 20), _crash(power=True)),
    "power-before-sync": Kind(
        "A host goes dark while it writes: nothing of the write is there.", _one, (1, 8),
        _crash_in_sync("before"),
    ),
    "power-after-sync": Kind(
        "A host goes dark when a write is on disk, and nobody was told.", _one, (1, 8),
        _crash_in_sync("after"),
    ),
    "pause": Kind("A process stands still, and goes on.", _some, (0.1, 20), _pause),
    "stop": Kind("A replica is closed in order, and started again.", _one, (1, 10), _stop),
    "equivocation": Kind(
        "A member signs two frames under one name, and tells some the one, some the other.", _one,
        (2, 15), mishaps.equivocate, scarce=True, prepare=mishaps.dishonest,
        breaks=mishaps.OTHER_STATES | {"frame.forked", "frame.void", "UniqueIds"},
    ),
    "upgrade": Kind(
        "An older program runs on some hosts; it is ended, and its next version started.", _some,
        (0.2, 5), mishaps.upgrade, prepare=mishaps.older,
    ),
    "disk-slow": Kind(
        "Syncs take fifty times as long.", _some, (1, 10), mishaps.disk("slow", 50.0, 1.0)
    ),
    "disk-full": Kind(
        "A disk takes no more frames.", _one, (0.5, 8), mishaps.disk("full", True, False)
    ),
    "disk-broken": Kind(
        "A disk refuses every write.", _one, (0.5, 8), mishaps.disk("broken", True, False)
    ),
    "disk-lost": Kind(
        "A host comes back with an empty disk.", _one, (1, 8), _lose_disk, scarce=True
    ),
    "disk-old": Kind(
        "A host goes dark, and its disk is as it was when this began.", _one, (1, 15), _old_disk,
        scarce=True,
    ),
    "flip": Kind(
        "Bits on a disk turn; later the host goes dark, and starts with them.", _one, (0.5, 15),
        mishaps.flip, scarce=True, breaks=frozenset({"frame.stuck"}),
    ),
    "torn": Kind(
        "A host goes dark, and its disk lacks the newest writes, which it had called done.", _one,
        (0.5, 8), mishaps.tear, scarce=True, breaks=frozenset({"frame.stuck"}),
    ),
    "clone": Kind(
        "A machine is cloned with its folder, and both run until somebody ends the clone.", _one,
        (2, 20), mishaps.clone, scarce=True, breaks=frozenset({"identity.cloned"}),
    ),
    "clock-step": Kind("Somebody sets a host's clock.", _one, (0.1, 0.2), mishaps.step_clock),
    "bus-down": Kind("The bus is away.", _service(BUS), (0.3, 10), _down, service=BUS),
    "bus-flushed": Kind(
        "The bus loses all its data.", _service(BUS), (0.1, 0.2),
        _service_fault(misfortunes.flushed), service=BUS,
    ),
    "bus-failover": Kind(
        "A copy of the bus takes over, which lacks the newest entries.", _service(BUS), (0.1, 0.2),
        _service_fault(misfortunes.failed_over), service=BUS,
    ),
    "bus-trimmed": Kind(
        "The bus drops old entries early.", _service(BUS), (0.1, 0.2),
        _service_fault(misfortunes.trimmed), service=BUS,
    ),
    "bus-full": Kind(
        "The bus is out of memory and takes nothing.", _service(BUS), (0.3, 10),
        _service_fault(misfortunes.full), service=BUS,
    ),
    "log-down": Kind("The event log is away.", _service(LOG), (0.3, 10), _down, service=LOG),
    "log-slow": Kind(
        "The event log takes its time for everything.", _service(LOG), (1, 10),
        _service_fault(misfortunes.slow_log), service=LOG,
    ),
    "log-unacknowledged": Kind(
        "An append fails of which all, or a part, is in the log.", _service(LOG), (0.1, 0.2),
        _service_fault(misfortunes.unacknowledged), service=LOG,
    ),
    "log-twice": Kind(
        "Everything comes into the log twice.", _service(LOG), (0.5, 8),
        _service_fault(misfortunes.twice), service=LOG,
    ),
    "checkpoints-down": Kind(
        "The checkpoint store is away.", _service(CHECKPOINTS), (0.3, 10), _down,
        service=CHECKPOINTS,
    ),
    "checkpoints-slow": Kind(
        "The checkpoint store takes its time for everything.", _service(CHECKPOINTS), (1, 10),
        _service_fault(misfortunes.slow_checkpoints), service=CHECKPOINTS,
    ),
    "checkpoints-unanswered": Kind(
        "The store does what it is asked for, and the connection is lost before it says so.",
        _service(CHECKPOINTS), (0.1, 0.2), _service_fault(misfortunes.unanswered),
        service=CHECKPOINTS,
    ),
    **{
        name: Kind(meaning, _service(TEMPORAL), lasts, _service_fault(befall), service=TEMPORAL)
        for name, (meaning, lasts, befall) in misfortunes.OF_TEMPORAL.items()
    },
    ROT: Kind(
        "A value in a replica's memory turns into another.", _one, (0.1, 0.2), mishaps.rot,
        breaks=mishaps.OTHER_STATES,
    ),
}  # fmt: skip
"""All there are, by name."""

NETWORK = (
    "halves", "isolate", "one-way", "bridge", "ring", "flapping", "clog", "reset", "loss", "lag",
)  # fmt: skip
SERVICE = tuple(name for name, kind in KINDS.items() if kind.service)
CRASHES = (
    "kill", "power", "power-before-sync", "power-after-sync", "pause", "stop", "disk-slow",
    "disk-full", "disk-broken", "disk-lost", "disk-old", "flip", "torn", "clone", "upgrade",
)  # fmt: skip
