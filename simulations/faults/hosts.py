"""What befalls hosts: each function does it to those named, and gives what ends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mesh.wire import WIRE_NEWEST, WIRE_OLDEST

if TYPE_CHECKING:
    from simulations.world import World

Undo = Callable[[], None]
OTHER_STATES = frozenset(
    {
        "digest.mismatch", "lattice.conflict", "StrongConvergence", "CheckpointsWhole", "OneOrder",
        "NeverOverdrawn",
    }
)  # fmt: skip
"""What is broken where the same operations make different states."""


def nothing() -> None:
    """It leaves nothing to undo."""


def crash(*, power: bool) -> Callable[[World, tuple[str, ...]], Undo]:
    def begin(world: World, targets: tuple[str, ...]) -> Undo:
        for name in targets:
            world.hosts[name].crash(power=power)
        return start(world, targets)

    return begin


def start(world: World, targets: tuple[str, ...]) -> Undo:
    def end() -> None:
        for name in targets:
            world.hosts[name].start()

    return end


def crash_in_sync(moment: str) -> Callable[[World, tuple[str, ...]], Undo]:
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


def pause(world: World, targets: tuple[str, ...]) -> Undo:
    runs = [world.hosts[name].run for name in targets]
    for run in runs:
        if run is not None:
            world.loop.suspend(run.life)

    def end() -> None:
        for run in runs:
            if run is not None and not run.over:
                world.loop.resume(run.life)

    return end


def stop(world: World, targets: tuple[str, ...]) -> Undo:
    for name in targets:
        world.hosts[name].stop()
    return start(world, targets)


def lose_disk(world: World, targets: tuple[str, ...]) -> Undo:
    for name in targets:
        world.hosts[name].lose_disk()
    return start(world, targets)


def old_disk(world: World, targets: tuple[str, ...]) -> Undo:
    copies = {name: world.hosts[name].disk.copy() for name in targets}

    def end() -> None:
        for name, copy in copies.items():
            world.hosts[name].restore(copy)
            world.hosts[name].start()

    return end


def clone(world: World, targets: tuple[str, ...]) -> Undo:
    """Another machine with this folder runs, too."""
    clones = [world.clone(name) for name in targets]

    def end() -> None:
        for clone in clones:
            world.give_away(clone)

    return end


def flip(world: World, targets: tuple[str, ...]) -> Undo:
    """Bits turn. Until the next start nobody looks at most of what is on a disk."""
    rng = world.chance("flip", world.now)
    hosts = [world.hosts[name] for name in targets]
    for host in hosts:
        host.tell("disk.flipped", where=", ".join(host.disk.platter.flip(rng)))

    def end() -> None:
        for host in hosts:
            host.crash(power=True)
            host.start()

    return end


def tear(world: World, targets: tuple[str, ...]) -> Undo:
    """A power cut, after which the newest writes turn out not to be on disk."""
    rng = world.chance("tear", world.now)
    for name in targets:
        host = world.hosts[name]
        host.crash(power=True)
        host.tell("disk.torn", frames=host.disk.platter.tear(rng))

    def end() -> None:
        for name in targets:
            world.hosts[name].start()

    return end


def older(world: World, targets: tuple[str, ...]) -> None:
    """Programs that speak the first or second wire version, where a newer one will come."""
    for name in targets:
        newest = WIRE_NEWEST - 1
        world.hosts[name].wire = world.chance("wire", name).randint(WIRE_OLDEST, newest)


def upgrade(world: World, targets: tuple[str, ...]) -> Undo:
    """One version further, by closing the replica in order or by killing it."""
    rng = world.chance("upgrade", world.now)
    for name in targets:
        if rng.random() < 0.5:
            world.hosts[name].stop()
        else:
            world.hosts[name].crash(power=False)

    def end() -> None:
        for name in targets:
            host = world.hosts[name]
            host.wire = min(host.wire + 1, WIRE_NEWEST)
            host.tell("program.upgraded", wire=host.wire)
            host.start()

    return end


def dishonest(world: World, targets: tuple[str, ...]) -> None:
    """Who will lie one day."""
    for name in targets:
        world.hosts[name].lies = True


def equivocate(world: World, targets: tuple[str, ...]) -> Undo:
    """Some peers hear something else, until the liar is found out and restarted as an honest
    replica.
    """
    rng = world.chance("equivocate", world.now)
    for name in targets:
        run = world.hosts[name].run
        others = [other for other in world.names if other != name]
        if run is not None and run.liar is not None and others:
            run.liar.begin(rng.sample(others, rng.randint(1, len(others))))

    def end() -> None:
        for name in targets:
            world.hosts[name].crash(power=False)
            world.hosts[name].start()

    return end


def disk(attribute: str, during: object, after: object) -> Any:
    """A property of the disk is another meanwhile."""

    def begin(world: World, targets: tuple[str, ...]) -> Undo:
        disks = [world.hosts[name].disk for name in targets]
        for disk in disks:
            setattr(disk, attribute, during)

        def end() -> None:
            for disk in disks:
                setattr(disk, attribute, after)

        return end

    return begin


def rot(world: World, targets: tuple[str, ...]) -> Undo:
    """A value in memory turns into another."""
    rng = world.chance("rot", world.now)
    for name in targets:
        world.hosts[name].rot(rng)
    return nothing


def step_clock(world: World, targets: tuple[str, ...]) -> Undo:
    """Somebody sets the clock."""
    rng = world.chance("clock", world.now)
    for name in targets:
        world.hosts[name].clock.step(int(rng.gauss(0, 20_000)))
    return nothing


def blind(world: World, targets: tuple[str, ...]) -> Undo:
    """Discovery finds nobody."""
    seeds = [world.hosts[name].seeds for name in targets]
    for one in seeds:
        one.blind = True

    def end() -> None:
        for one in seeds:
            one.blind = False

    return end
