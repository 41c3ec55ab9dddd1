"""What is judged of services is found where it is not so, and only there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from crdt.lattice import Shard
from crdt.snapshot import encode_snapshot
from mesh.core import Core
from mesh.durability import Durability
from mesh.services import registry
from persistence.frame import Frame, parse_frame
from persistence.journal import apply_frame, read_transactions
from persistence.sealing import VerifiedFrame
from simulations.agents.writers import Load
from simulations.invariants.checkpoints import CheckpointsWhole
from simulations.invariants.services import LogFirst, Served, Spans
from simulations.ports.services import BUS, CHECKPOINTS, SERVICES
from simulations.run import simulate
from simulations.scenarios.ready import SERVICE_SETTINGS, Scenario
from simulations.world import World

FEW = Scenario(
    "few", "Two replicas and all services; nothing goes wrong.", replicas=2, shards=1,
    load=Load(edits=2.0), fault_s=6.0, services=SERVICES, settings=SERVICE_SETTINGS,
)  # fmt: skip


def told_at_the_end(
    check: Callable[[World, CheckpointsWhole], None], services: tuple[str, ...] = SERVICES
) -> None:
    """Have a checker that knows all frames, and no checkpoint yet, in a world that is over."""
    checkers: list[CheckpointsWhole] = []

    def watch(world: World) -> None:
        checkers.append(CheckpointsWhole(world))
        world.watchers.append(checkers[0].journaled)

    def at_the_end(world: World) -> None:
        check(world, checkers[0])

    few = dataclasses.replace(FEW, services=services, invariants=(at_the_end,))
    outcome = simulate(few, 1, watch=watch)
    assert [str(one) for one in outcome.violations] == []
    assert bool(outcome.counts["checkpoint.written"]) == (CHECKPOINTS in services)


def core_of(world: World) -> Core:
    replica = world.up[0].replica
    assert replica is not None
    return replica._started().core


def put(world: World, state: Shard) -> None:
    """A member stores this as a checkpoint, in due form."""
    core, server = core_of(world), world.services.checkpoint_server
    snapshot = state.snapshot()
    certificates = core.trust.certificates(sorted(snapshot.frontier))
    data = core.sealer.seal_snapshot(
        0, encode_snapshot(snapshot), certificates, {}, core.clock.now()
    )
    lease = server.steal(0, "test")
    made = server._write(lease, snapshot.frontier, 0, snapshot.digest, data)
    server._verified(lease, made)


def frames_in_log(world: World) -> list[Frame]:
    mesh = world.authority.mesh
    return [parse_frame(one.data, mesh.id, 1) for one in world.services.log_server.records(0)]


def apply(world: World, shard: Shard, frame: Frame) -> None:
    opened = core_of(world).opener.decrypt(VerifiedFrame(frame.header, frame, ""))
    apply_frame(shard, frame.header, read_transactions(opened.header, opened.body))


def test_an_honest_checkpoint_is_believed() -> None:
    def check(world: World, checker: CheckpointsWhole) -> None:
        checker.look()
        assert checker.violations == []
        assert checker.lacking() == []

    told_at_the_end(check)


def test_a_cut_without_what_it_rests_on_is_found() -> None:
    def check(world: World, checker: CheckpointsWhole) -> None:
        frames = frames_in_log(world)
        session = next(one.header.session for one in frames if one.header.deps)
        alone = Shard(world.authority.mesh.digest_key)
        for frame in frames:
            if frame.header.session == session and not alone.seen(session, frame.header.last):
                apply(world, alone, frame)
        put(world, alone)
        checker.look()
        assert "without what that rests on" in checker.violations[0].message

    told_at_the_end(check)


def test_a_state_that_is_not_that_of_its_operations_is_found() -> None:
    def check(world: World, checker: CheckpointsWhole) -> None:
        core = core_of(world)
        other = Shard(world.authority.mesh.digest_key)
        for session, seq in core.hosts[0].lattice.frontier.items():
            other.use_up(session, 1, seq)
        put(world, other)
        checker.look()
        assert "another state" in checker.violations[0].message

    told_at_the_end(check)


def test_an_offset_beyond_what_a_checkpoint_contains_is_found() -> None:
    def check(world: World, checker: CheckpointsWhole) -> None:
        put(world, Shard(world.authority.mesh.digest_key))
        server = world.services.checkpoint_server
        kept = world.services.checkpoint(0)
        assert kept is not None
        server.alter(kept[0].id, log_offset=1)
        checker.look()
        assert "which the log has at 0, below 1" in checker.violations[0].message
        assert "don't give what the replicas have" not in checker.violations[0].message

    told_at_the_end(check)


def test_what_the_bus_drops_is_judged_unless_a_checkpoint_or_a_hole_excuses_it() -> None:
    def check(world: World, checker: CheckpointsWhole) -> None:
        del checker
        data = world.services.log_server.records(0)[0].data
        header = parse_frame(data, world.authority.mesh.id, 1).header
        first = LogFirst(world)
        first._trimmed(0, data)
        assert first.violations == []  # the log has it
        world.services.log_server._records[0].clear()
        first = LogFirst(world)
        first._trimmed(0, data)
        assert first.violations == []  # the checkpoint has it
        world.services.checkpoint_server._rows.clear()
        first._trimmed(0, data)
        assert len(first.violations) == 1
        hole = {"shard": 0, "session": header.session, "after": 0, "upto": header.last}
        first.event("replica-1", "log.hole", hole)
        first._trimmed(0, data)
        assert len(first.violations) == 1

    told_at_the_end(check)


def test_an_acknowledged_write_was_in_one_data_of_the_bus() -> None:
    def check(world: World, checker: CheckpointsWhole) -> None:
        del checker
        served = Served(world)
        host = world.up[0]
        own = [frame for frame in host.disk.frames() if frame.own]
        fields: dict[str, object] = {
            "shard": 0, "session": own[0].session, "seq": own[1].last, "level": Durability.BUS,
        }  # fmt: skip
        served._published("one", 0, own[0].data)
        served._published("other", 0, own[1].data)
        served.event(host.name, "acknowledged", fields)
        assert len(served.violations) == 1
        served._published("other", 0, own[0].data)
        served.event(host.name, "acknowledged", fields)
        assert len(served.violations) == 1

    told_at_the_end(check, (BUS,))


def test_spans() -> None:
    spans = Spans()
    spans.add(2, 4)
    assert spans.lacking(1, 5) == [1, 5]


def test_streams_are_short_only_while_a_world_runs() -> None:
    usual = registry.KEPT, registry.TRIM_S
    during: list[int] = []

    def check(world: World, checker: CheckpointsWhole) -> None:
        del world, checker
        during.append(registry.KEPT)

    told_at_the_end(check)
    assert during[0] < usual[0]
    after = registry.KEPT, registry.TRIM_S
    assert after == usual
