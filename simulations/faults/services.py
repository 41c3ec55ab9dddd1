"""What befalls shared services: each function does it to them, and gives what ends it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from persistence.frame import parse_frame
from simulations.faults.hosts import nothing
from simulations.ports.services import Services

if TYPE_CHECKING:
    from simulations.world import World

Undo = Callable[[], None]
Befall = Callable[[Services, random.Random], Undo]
MOST_LOST = 20
"""Entries of a stream that a copy of the bus may lack, and records of an append that fails."""
COPIES = 2
"""On so many disks an operation is safe: no plan loses more than one."""


def flushed(services: Services, rng: random.Random) -> Undo:
    """The bus is empty, and goes on."""
    del rng
    services.bus_server.flush()
    return nothing


def failed_over(services: Services, rng: random.Random) -> Undo:
    """A copy of the bus takes over that lacks the newest entries; connections break."""
    services.bus_server.fail_over(rng.randint(1, MOST_LOST))
    return nothing


def trimmed(services: Services, rng: random.Random) -> Undo:
    """Old entries go before all have read them; sometimes all there are."""
    keep = rng.choice((0, 1, 10))
    for shard in range(services.shards):
        services.bus_server.trim(shard, keep)
    return nothing


def full(services: Services, rng: random.Random) -> Undo:
    """The bus refuses every write, and is read as before."""
    del rng
    services.bus_full = True

    def end() -> None:
        services.bus_full = False

    return end


def slow_log(services: Services, rng: random.Random) -> Undo:
    """Each call waits, some longer than a flush does."""
    services.log_server.slow(rng.choice((0.2, 1.0, 6.0)))
    return lambda: services.log_server.slow(0.0)


def unacknowledged(services: Services, rng: random.Random) -> Undo:
    """The next append stores its first records, most often all of them, and fails."""
    services.log_server.fail_next_append(stored=rng.choice((0, 1, MOST_LOST, 1_000_000)))
    return nothing


def twice(services: Services, rng: random.Random) -> Undo:
    """Every record is stored again behind itself."""
    services.log_server.duplicate(rng.choice((2, 3)))
    return lambda: services.log_server.duplicate(1)


def retained(world: World, targets: tuple[str, ...]) -> Undo:
    """Old records go, of each shard as many as are drawn: only such as are elsewhere, too, or the
    one disk that has them might be lost.
    """
    rng = world.chance("retention", *targets, world.now)
    server = world.services.log_server
    for shard in range(world.services.shards):
        spare = _spare(world, shard)
        if spare and rng.random() < 0.7:
            server.retain(shard, spare[rng.randrange(len(spare))] + 1)
    return nothing


def _spare(world: World, shard: int) -> list[int]:
    """Offsets of the shard's oldest records, up to the first that neither the newest checkpoint nor
    two replicas have.
    """
    mesh = world.authority.mesh
    newest = world.services.checkpoint(shard)
    held = [replica.journaled()[shard] for replica in world.replicas()]
    spare: list[int] = []
    for record in world.services.log_server.records(shard):
        header = parse_frame(record.data, mesh.id, mesh.shards).header
        session, last = header.session, header.last
        in_checkpoint = newest is not None and newest[0].frontier.get(session, 0) >= last
        if not in_checkpoint and sum(one.get(session, 0) >= last for one in held) < COPIES:
            break
        spare.append(record.offset)
    return spare


def truncated(services: Services, rng: random.Random) -> Undo:
    """The log is away, and comes back without its newest records: more of one shard than of
    another.
    """
    server = services.log_server
    server.stop()
    for shard in range(services.shards):
        lost = rng.choice((0, 1, 3, MOST_LOST, 1_000_000))
        server.truncate(shard, max(0, server.end(shard) - lost))
    return server.start


def made_anew(services: Services, rng: random.Random) -> Undo:
    """The log is away, and comes back empty."""
    del rng
    services.log_server.stop()
    services.log_server.recreate()
    return services.log_server.start


def slow_checkpoints(services: Services, rng: random.Random) -> Undo:
    """Each call waits, some longer than a lease lasts."""
    services.checkpoint_server.slow(rng.choice((0.2, 1.0, 6.0)))
    return lambda: services.checkpoint_server.slow(0.0)


def unanswered(services: Services, rng: random.Random) -> Undo:
    """The next call of one kind does its work, and fails."""
    call = rng.choice(("acquire", "write", "verified", "discard", "release"))
    services.checkpoint_server.fail_next(call, done=True)
    return nothing


def temporal_away(services: Services, rng: random.Random) -> Undo:
    """Nobody decides anything."""
    del rng
    services.temporal_server.stop()
    return services.temporal_server.start


def slow_temporal(services: Services, rng: random.Random) -> Undo:
    """Answers come late, some when nobody waits for them any more."""
    services.temporal_server.slow(rng.choice((0.2, 1.0, 6.0)))
    return lambda: services.temporal_server.slow(0.0)


def repeating(services: Services, rng: random.Random) -> Undo:
    """Answers are lost after the decision, requests and actions come twice."""
    services.temporal_server.repeats = rng.choice((0.2, 0.5, 0.9))

    def end() -> None:
        services.temporal_server.repeats = 0.0

    return end


def down(world: World, targets: tuple[str, ...]) -> Undo:
    """The servers are away."""
    servers = [world.services.server(name) for name in targets]
    for server in servers:
        server.stop()

    def end() -> None:
        for server in servers:
            server.start()

    return end


def of_service(befall: Befall) -> Callable[[World, tuple[str, ...]], Undo]:
    """What does this to the world's services, by chance of its own."""

    def begin(world: World, targets: tuple[str, ...]) -> Undo:
        return befall(world.services, world.chance("service", *targets, world.now))

    return begin
