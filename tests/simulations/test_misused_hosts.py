"""What happens to hosts that should not: clones, damage, upgrades on the way, lies. It is noticed,
and nothing is lost."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from mesh.environment import Link
from mesh.transports.memory import MemoryNetwork
from mesh.wire import WIRE_NEWEST, Hello, RosterVersion, WantRest, decode, encode
from persistence.base import WAITING, FrameRecord, JournalDamaged, SnapshotRecord
from persistence.identity import Identity
from persistence.salvage import Found, sort_out
from simulations.agents.writers import Load
from simulations.faults.plan import Fault
from simulations.faults.versions import speaking
from simulations.ports.damage import Platter, at_once
from simulations.run import Outcome, Part, simulate
from simulations.scenarios.ready import SCENARIOS, Scenario
from simulations.world import World
from tests.persistence.world import make_mesh, make_writer

SHORT = dataclasses.replace(SCENARIOS["swarm"], fault_s=12.0, quiet_s=1.0)


def only(*kinds: str) -> Scenario:
    return dataclasses.replace(SHORT, kinds=kinds)


def with_faults(scenario: Scenario, count: int, seeds: range = range(40)) -> Sequence[Outcome]:
    """Runs of the first seeds whose plan is not empty."""
    found: list[Outcome] = []
    for seed in seeds:
        outcome = simulate(scenario, seed)
        if outcome.plan:
            found.append(outcome)
        if len(found) == count:
            return found
    raise AssertionError(f"{len(found)} of {count} plans have a fault")


# ---------------------------------------------------------------------- clones


def test_a_clone_is_noticed_and_nothing_is_lost() -> None:
    for outcome in with_faults(only("clone"), 4):
        assert outcome.violations == []
        assert outcome.counts["identity.cloned"] > 0


def test_a_clone_writes_at_its_own_address_under_the_same_name_and_is_gone_in_the_end() -> None:
    seen: set[tuple[str, str, bool]] = set()

    def watch(world: World) -> None:
        def listen(host: str, kind: str, fields: object) -> None:
            del kind, fields
            clone = world.clones.get(host)
            if clone is not None and clone.replica is not None and clone.run is not None:
                original = world.hosts[clone.replica.name]
                other = original.replica
                differs = other is None or other.session != clone.replica.session
                seen.add((clone.replica.name, clone.run.transport.address, differs))

        world.listeners.append(listen)
        worlds.append(world)

    worlds: list[World] = []
    outcome = simulate(only("clone"), 1, watch=watch)
    (fault,) = outcome.plan.values()
    assert seen == {(fault.targets[0], f"{fault.targets[0]}:7401", True)}
    assert worlds[0].clones == {}


def test_without_a_clone_the_alarm_is_judged() -> None:
    """Only a plan that clones somebody may have clones noticed."""

    def rumour(world: World) -> None:
        world.loop.call_at(5.0, lambda: world.hosts["replica-1"].tell("identity.cloned"))

    outcome = next(one for one in with_faults(only("clone", "kill"), 9) if not _has(one, "clone"))
    again = simulate(only("clone", "kill"), outcome.seed, watch=rumour)
    assert [one.invariant for one in again.violations] == ["NothingRefused"]


def _has(outcome: Outcome, kind: str) -> bool:
    return any(fault.kind == kind for fault in outcome.plan.values())


# ---------------------------------------------------------------------- damage


def written(frames: int = 9) -> tuple[Platter, Identity, list[FrameRecord]]:
    """A disk with frames of its own session in one shard, each with one operation."""
    writer = make_writer(make_mesh(), "replica-1")
    records = [writer.write((0, f"Note/{number}", "text"))[0] for number in range(frames)]
    platter = Platter()
    at_once(platter.append(records))
    return platter, writer.identity, records


def test_a_bit_that_turned_is_an_error_for_who_reads_it_and_only_for_him() -> None:
    platter, _, records = written()
    platter._flipped[4] = b"damaged"
    session = records[0].session
    assert len(at_once(platter.replay(4, 10))) == 5
    assert len(at_once(platter.frames(0, session, 0, 3, 10))) == 3
    with pytest.raises(JournalDamaged, match="position 4 has a wrong checksum"):
        at_once(platter.replay(0, 10))
    with pytest.raises(JournalDamaged, match="position 4"):
        at_once(platter.frames(0, session, 3, 9, 10))
    assert platter.damaged_shards == [0]
    assert platter.legible() == [*records[:3], *records[4:]]


def test_a_torn_tail_refuses_everything_until_it_is_built_anew() -> None:
    platter, identity, records = written()
    torn = platter.tear(random.Random(1))
    assert 0 < torn < 9
    with pytest.raises(JournalDamaged, match="written up to position 9"):
        at_once(platter.snapshots())
    new, report = platter.rebuilt(identity, "disk", "torn")
    assert (report.own, report.tail) == (9 - torn, torn)
    assert [frame for _, frame in at_once(new.replay(0, 20))] == records[: 9 - torn]
    assert not new.damaged
    assert new.tear(random.Random(1)) == 0, "what was built anew was synced"


def test_a_journal_built_anew_keeps_what_is_behind_the_damage() -> None:
    platter, identity, records = written()
    platter._flipped[4] = records[3].data[:-1] + bytes([records[3].data[-1] ^ 1])
    new, report = platter.rebuilt(identity, "disk", "flipped")
    assert (report.own, report.waiting, report.refused) == (3, 5, 1)
    assert report.missing == [(0, records[0].session, 3, 4)]
    assert sum(name.startswith(WAITING) for name in at_once(new.meta())) == 5
    # And what waited is found once more, should it be damaged again.
    again, report = new.rebuilt(identity, "disk", "again")
    assert (report.own, report.waiting) == (3, 5)
    assert not again.damaged


def test_what_is_written_over_is_sound_again() -> None:
    platter, _, _ = written()
    at_once(platter.save_snapshot(SnapshotRecord(0, 9, b"old")))
    at_once(platter.set_meta({"name": b"value"}))
    platter._bad_snapshots[0] = None
    platter._bad_meta["name"] = None
    platter._flipped[4] = b"damaged"
    assert at_once(platter.meta()) == {}
    with pytest.raises(JournalDamaged, match="the snapshot of shard 0"):
        at_once(platter.snapshots())
    at_once(platter.save_snapshot(SnapshotRecord(0, 9, b"new")))
    at_once(platter.set_meta({"name": b"new"}))
    (session,) = {session for _, session in platter._of_session}
    at_once(platter.prune(0, {session: 9}))
    assert at_once(platter.meta()) == {"name": b"new"}
    assert not platter.damaged


@pytest.mark.parametrize("kind", ["flip", "torn"])
def test_damage_is_found_repaired_and_nothing_else_is_lost(kind: str) -> None:
    rebuilt = 0
    for outcome in with_faults(only(kind), 5):
        assert outcome.violations == []
        assert outcome.counts["start.refused"] == outcome.counts["journal.rebuilt"]
        rebuilt += outcome.counts["journal.rebuilt"]
    assert rebuilt > 1


def alone_and_damaged(world: World) -> None:
    """Nobody hears one host; then a bit turns on its disk, and it starts again."""
    name, others = world.names[0], world.names[1:]
    host = world.hosts[name]

    def harm() -> None:
        platter = host.disk.platter
        at = next(at for at, frame in platter._frames.items() if frame.own)
        platter._flipped[at] = b"damaged"
        host.crash(power=True)
        host.start()

    # From the start: what is on its way when a way is cut arrives later.
    world.network.cut([(name, other) for other in others])
    world.loop.call_at(11.0, harm)


def test_only_what_lies_in_damaged_shards_may_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = dataclasses.replace(only(), swarm=False, load=Load(edits=3.0, flush=1.0))
    outcome = simulate(scenario, 1, watch=alone_and_damaged)
    assert outcome.violations == []
    assert outcome.counts["journal.rebuilt"] == 1

    def forgets(*arguments: Any) -> Found:
        found = sort_out(*arguments)
        found.applied, found.contained, found.waiting = [], [], []
        return found

    monkeypatch.setattr("simulations.ports.damage.sort_out", forgets)
    outcome = simulate(scenario, 1, watch=alone_and_damaged)
    assert {one.invariant for one in outcome.violations} == {"NothingLost"}


# ---------------------------------------------------------------------- upgrades


def versions(world: World) -> dict[str, set[int]]:
    """{host: wire versions of its links now}"""
    found: dict[str, set[int]] = {}
    for host in world.up:
        assert host.replica is not None
        links = host.replica._check().exchange.links.values()
        found[host.name] = {link.wire for link in links}
    return found


def test_an_older_program_speaks_as_it_did_and_is_replaced() -> None:
    seen: dict[str, list[int]] = {}

    def watch(world: World) -> None:
        def look() -> None:
            for name, spoken in versions(world).items():
                assert all(wire <= world.hosts[name].wire for wire in spoken)
                told = seen.setdefault(name, [])
                if spoken and max(spoken) not in told[-1:]:
                    told.append(max(spoken))
            world.loop.call_later(0.25, look)

        world.loop.call_at(0.5, look)

    scenario = dataclasses.replace(only("upgrade"), swarm=False, fault_s=20.0)
    outcome = simulate(scenario, 3, watch=watch)
    assert outcome.violations == []
    assert outcome.counts["program.upgraded"] > 2
    assert any(told[:1] == [1] and told[-1] == WIRE_NEWEST for told in seen.values()), seen


@pytest.mark.parametrize("older", [1, 2])
def test_a_fleet_of_several_versions_agrees(older: int) -> None:
    def watch(world: World) -> None:
        for name in world.names[:2]:
            world.hosts[name].wire = older

    outcome = simulate(only("kill", "halves"), 2, watch=watch)
    assert outcome.violations == []


def test_who_says_what_the_older_side_does_not_know_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mesh.roster.ROSTER_WIRE", 1)

    def watch(world: World) -> None:
        world.hosts["replica-2"].wire = 1

    outcome = simulate(only(), 1, watch=watch)
    assert outcome.violations[0].invariant == "NothingRefused"
    assert "does not know it" in outcome.violations[0].message


async def test_an_older_program_passes_over_what_it_does_not_know_and_that_is_told() -> None:
    network = MemoryNetwork()
    told: list[dict[str, object]] = []
    links: list[Link] = []

    async def accept(link: Link) -> None:
        links.append(link)
        await link.send(encode(RosterVersion(1, ())))
        await link.send(encode(Hello(1, 3, b"m" * 16, "b", 7, b"certificate", ())))

    newer = network.transport("b")
    await newer.listen(accept)
    older = speaking(1, network.transport("a"), lambda *_, **what: told.append(what))
    link = await older.dial("b")
    hello = decode(await link.receive())
    assert (hello.oldest, hello.newest, hello.replica) == (1, 1, "b")
    await link.send(encode(WantRest(1, 1, 1)))
    await link.send(encode(dataclasses.replace(hello, newest=3)))
    assert decode(await links[0].receive()).newest == 1
    assert [(one["way"], one["wire"]) for one in told] == [("heard", 1), ("said", 1)]
    await older.close()
    await newer.close()


# ---------------------------------------------------------------------- equivocation


def test_who_signs_two_frames_under_one_name_is_noticed_and_all_agree() -> None:
    alarms: Counter[str] = Counter()
    for outcome in with_faults(only("equivocation"), 12):
        assert outcome.violations == []
        lied, noticed = outcome.counts["equivocated"], outcome.counts["frame.forked"]
        assert noticed > 0 or not lied, "somebody had both in front of him"
        alarms += outcome.counts
    assert alarms["equivocated"] > 0
    assert all(alarms[one] > 0 for one in ("frame.forked", "lattice.conflict", "digest.mismatch"))


def test_a_twin_is_a_valid_frame_of_the_same_name_and_always_the_same() -> None:
    twins: dict[bytes, bytes] = {}

    def watch(world: World) -> None:
        def lie() -> None:
            run = world.hosts["replica-1"].run
            assert run is not None
            assert run.liar is not None
            run.liar.begin(["replica-2"])

        def look() -> None:
            run = world.hosts["replica-1"].run
            assert run is not None
            assert run.liar is not None
            opener = run.replica._started().core.opener
            for raw, twin in run.liar._twins.items():
                told, lied = opener.unseal(raw).header, opener.unseal(twin).header
                assert twin != raw
                assert (told.session, told.first, told.last) == (
                    lied.session,
                    lied.first,
                    lied.last,
                )
                assert run.liar._as_told(raw) == twin
            twins.update(run.liar._twins)

        world.hosts["replica-1"].lies = True
        world.loop.call_at(2.0, lie)
        world.loop.call_at(10.0, look)

    busy = dataclasses.replace(only(), swarm=False, load=Load(edits=4.0))
    simulate(busy, 1, watch=watch)
    assert len(twins) > 1


# ---------------------------------------------------------------------- all of them


KINDS = ("clone", "flip", "torn", "upgrade", "equivocation")


@pytest.mark.parametrize("kind", KINDS)
def test_such_a_fault_repeats_exactly_prints_and_can_be_left_out(kind: str) -> None:
    first = with_faults(only(kind), 1)[0]
    again = simulate(
        only(kind), first.seed, part=Part(hosts=(1, 2, 3, 4, 5), writers=(1, 2, 3, 4, 5))
    )
    assert again.trace_hash == first.trace_hash
    fault = next(iter(first.plan.values()))
    assert f"{kind}: {' '.join(fault.targets)}" in str(fault)
    assert Fault(**fault.plain()) == fault
    assert simulate(only(kind), first.seed, part=Part(faults=())).plan == {}
