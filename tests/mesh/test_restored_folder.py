"""A folder put back from an old copy, or rebuilt after damage: nothing is lost, nothing comes back
from the dead, no dot is used twice.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from pathlib import Path

import pytest

from crdt import Counter, Document, Register
from mesh.compose import open_replica
from mesh.durability import Durability
from mesh.health import DEGRADED, JOURNAL
from mesh.instrumentation import CountingProbe
from mesh.replica import Replica
from persistence.base import JournalDamaged
from persistence.identity import create_genesis, provision
from tests.mesh.world import eventually


class Job(Document):
    """What these tests write."""

    title: Register[str]
    effort: Counter


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A mesh with two replicas."""
    create_genesis(tmp_path / "authority", "fleet", 4)
    for name in ("a", "b"):
        provision(tmp_path / "authority", tmp_path / name, name)
    return tmp_path


async def add(replica: Replica, *names: str) -> None:
    for name in names:
        with replica.edit(Job, name) as job:
            job.title = name
            job.effort += 1
        await replica.flush()


def jobs(replica: Replica) -> dict[str, tuple[str, int]]:
    return {
        job.id: (str(job.title), int(job.effort)) for job in replica.documents(Job)
    }  # fmt: skip


async def converged(a: Replica, b: Replica) -> None:
    await eventually(lambda: a.digest() == b.digest(), "equal")


async def test_an_old_copy_gets_back_what_it_lacks(place: Path) -> None:
    async with open_replica(place / "b") as b:
        async with open_replica(place / "a", peers__seeds=(b.address,)) as a:
            await add(a, "one", "gone")
            await a.flush(Durability.PEERS(1), timeout=10)
        await asyncio.to_thread(shutil.copytree, place / "a", place / "old")
        async with open_replica(place / "a", peers__seeds=(b.address,)) as a:
            await add(a, "two")
            a.delete(Job, "gone")
            second = a.session
            await a.flush(Durability.PEERS(1), timeout=10)
        before = jobs(b)
        assert set(before) == {"Job/one", "Job/two"}
        await asyncio.to_thread(shutil.rmtree, place / "a")
        (place / "old").rename(place / "a")
        async with open_replica(place / "a", peers__seeds=(b.address,)) as a:
            assert a.session != second
            assert "Job/gone" in jobs(a), "as it was then"
            with a.edit(Job, "one") as job:
                job.effort += 1
            await converged(a, b)
            assert jobs(a) == {"Job/one": ("one", 2), "Job/two": ("two", 1)}
            sessions = [one for shard in a.frontier().values() for one in shard]
            assert sessions.count(second) == sum(second in s for s in b.frontier().values())
            assert b.status()["refused"] == {}
            assert a.status()["refused"] == {}


def spoil(folder: Path) -> None:
    """Every fifth frame of the replica's becomes unreadable."""
    with sqlite3.connect(folder / "journal.sqlite") as database:
        database.execute("UPDATE frames SET crc = crc + 1 WHERE position % 5 = 0")
    database.close()


async def crashed(place: Path, *names: str) -> None:
    """A replica without peers writes, and its files are copied as a kill would leave them."""
    async with open_replica(place / "a") as a:
        await add(a, *names)
        await asyncio.to_thread(shutil.copytree, place / "a", place / "killed")
    await asyncio.to_thread(shutil.rmtree, place / "a")
    (place / "killed").rename(place / "a")


async def test_damage_is_refused_by_default_with_file_and_cure(place: Path) -> None:
    await crashed(place, *map(str, range(20)))
    spoil(place / "a")
    with pytest.raises(JournalDamaged, match=r"journal.sqlite.*position 5.*mesh repair"):
        async with open_replica(place / "a"):
            pass
    assert not list((place / "a").glob("journal.damaged-*")), "nothing was changed"


async def test_a_rebuilt_replica_keeps_its_own_unsent_frames(place: Path) -> None:
    await crashed(place, *map(str, range(20)))
    spoil(place / "a")
    probe = CountingProbe()
    async with (
        open_replica(place / "b") as b,
        open_replica(
            place / "a", probe=probe, replica__on_damage="rebuild", peers__seeds=(b.address,)
        ) as a,
    ):
        told = probe.latest["journal.rebuilt"]
        assert int(str(told["own"])) + int(str(told["waiting"])) == 16
        assert told["missing"]
        health = a.health()[JOURNAL]
        assert health.state == DEGRADED
        assert "rebuilt after damage" in health.reason
        await add(a, "new")
        await converged(a, b)
        assert "Job/new" in jobs(b)
        assert len(jobs(b)) == int(str(told["own"])) + 1
        assert a.health()[JOURNAL].state == DEGRADED, "until the damaged files are deleted"


async def test_others_bring_what_was_unreadable(place: Path) -> None:
    """Then what waited for it is applied as well."""
    probe = CountingProbe()
    names = [str(at) for at in range(20)]
    async with open_replica(place / "b") as b:
        async with open_replica(place / "a", peers__seeds=(b.address,)) as a:
            await add(a, *names)
            await a.flush(Durability.PEERS(1), timeout=10)
            await asyncio.to_thread(shutil.copytree, place / "a", place / "killed")
        await asyncio.to_thread(shutil.rmtree, place / "a")
        (place / "killed").rename(place / "a")
        spoil(place / "a")
        async with open_replica(
            place / "a", probe=probe, replica__on_damage="rebuild", peers__seeds=(b.address,)
        ) as a:
            assert probe.counts["journal.rebuilt"] == 1
            await converged(a, b)
            assert set(jobs(a)) == {f"Job/{name}" for name in names}


async def test_salvaged_frames_go_out_once_the_hole_is_filled(place: Path) -> None:
    """One half is with a peer, the other nowhere else and lacks what came before it."""
    async with open_replica(place / "b") as b:
        async with open_replica(place / "a", peers__seeds=(b.address,)) as a:
            await add(a, *(f"{{x}}/{at}" for at in range(6)))
            await a.flush(Durability.PEERS(1), timeout=10)
            address = b.address
        assert address
    async with open_replica(place / "a") as a:
        await add(a, *(f"{{x}}/{at}" for at in range(6, 12)))
        await asyncio.to_thread(shutil.copytree, place / "a", place / "killed")
    await asyncio.to_thread(shutil.rmtree, place / "a")
    (place / "killed").rename(place / "a")
    with sqlite3.connect(place / "a" / "journal.sqlite") as database:
        database.execute("UPDATE snapshots SET crc = crc + 1")
    database.close()
    async with (
        open_replica(place / "b") as b,
        open_replica(place / "a", replica__on_damage="rebuild", peers__seeds=(b.address,)) as a,
    ):
        await eventually(lambda: len(jobs(b)) == 12, "all of it, at both")
        await converged(a, b)
