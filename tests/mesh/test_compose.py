"""The composition root: what a folder may be, and that whatever was opened is closed."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from crdt import CallerError, Counter, Document, Register
from mesh.compose import open_replica
from mesh.durability import Durability
from mesh.instrumentation import CountingProbe
from mesh.settings import Settings, SettingsError
from persistence.base import FolderError
from persistence.identity import create_genesis, default_authority, open_identity, provision
from persistence.sqlite import SqliteJournal, open_journal


class Task(Document):
    """A small document."""

    title: Register[str]
    effort: Counter


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user of its own, in an empty working directory."""
    monkeypatch.setenv("STATEMESH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder; the lock's content is only who was last in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


async def write(folder: str | Path, title: str, **overrides: Any) -> None:
    async with open_replica(folder, **overrides) as replica:
        with replica.edit(Task, "1") as task:
            task.title = title
            task.effort += 1
        await replica.flush(Durability.JOURNAL, timeout=20)


async def test_a_new_folder_needs_nothing_and_state_comes_back(home: Path) -> None:
    before = asyncio.all_tasks()
    await write("agent-a", "first")
    identity = open_identity(home / "agent-a")
    assert identity.replica == "agent-a"
    assert identity.mesh.id == open_identity(home / "agent-a").mesh.id
    async with open_replica("agent-a") as replica:
        task = replica.get(Task, "1")
        assert task is not None
        assert (task.title, task.effort) == ("first", 1)
    assert {task.get_name() for task in asyncio.all_tasks() - before} == set()


async def test_replicas_of_one_user_are_of_one_mesh_and_meet(home: Path) -> None:
    async with open_replica("a") as a:
        address = a.address
        async with open_replica("b", peers__seeds=[address]) as b:
            with a.edit(Task, "1") as task:
                task.title = "seen by both"
            await a.flush(Durability.PEERS(1), timeout=20)
            found = b.get(Task, "1")
            assert found is not None
            assert found.title == "seen by both"
            assert [peer.name for peer in a.peers()] == ["b"]
    assert open_identity(home / "a").mesh.id == open_identity(home / "b").mesh.id


async def test_settings_and_overrides_reach_the_replica(home: Path) -> None:
    probe = CountingProbe()
    settings = Settings(replica={"name": "chosen"})
    async with open_replica("folder", settings, probe=probe, peers__listen="") as replica:
        assert replica.name == "chosen"
    assert probe.counts["replica.closed"] == 1
    with pytest.raises(SettingsError, match=r"did you mean peers\.listen"):
        async with open_replica("other", peers__listn=""):
            pytest.fail("opened with a setting that does not exist")
    assert not (home / "other").exists()


async def test_a_provisioned_folder_keeps_its_own_mesh(home: Path) -> None:
    create_genesis(home / "authority", "fleet", shards=4)
    provision(home / "authority", home / "a", "agent-7")
    async with open_replica("a") as replica:
        assert (replica.name, replica.shards) == ("agent-7", 4)
    assert not (home / "home").exists(), "the user's own mesh was not needed"


async def test_the_folders_name_becomes_a_replica_name() -> None:
    async with open_replica("my agent (7)") as replica:
        assert replica.name == "my-agent-7"
    with pytest.raises(CallerError, match=r"set replica\.name"):
        async with open_replica("…"):
            pytest.fail("opened without a name")


async def test_a_folder_in_use_is_refused(home: Path) -> None:
    async with open_replica("a") as replica:
        with replica.edit(Task, "1") as task:
            task.title = "still mine"
        with pytest.raises(FolderError, match="is open in process"):
            async with open_replica("a"):
                pytest.fail("opened twice")
        script = (
            "import asyncio\nfrom mesh.compose import open_replica\n"
            "async def main():\n    async with open_replica('a'): pass\nasyncio.run(main())"
        )
        other = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", script], cwd=home, capture_output=True, text=True
        )
        assert other.returncode != 0
        assert "FolderError" in other.stderr
        await replica.flush(Durability.JOURNAL, timeout=20)
    await write("a", "free again")


async def test_giving_up_on_opening_leaves_the_folder_free(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*given: Any) -> SqliteJournal:
        journal = open_journal(*given)
        opened.set()
        assert given_up.wait(20)
        return journal

    opened, given_up = threading.Event(), threading.Event()
    monkeypatch.setattr("mesh.compose.open_journal", slow)
    opening = asyncio.create_task(write("agent-a", "never"))
    await asyncio.to_thread(opened.wait, 20)
    opening.cancel()
    asyncio.get_running_loop().call_soon(given_up.set)  # after the cancellation has arrived
    with pytest.raises(asyncio.CancelledError):
        await opening
    await write("agent-a", "first")


async def test_another_replicas_folder_is_refused(home: Path) -> None:
    await write("a", "mine")
    before = contents(home / "a")
    with pytest.raises(FolderError, match="belongs to replica 'a', not to 'b'"):
        async with open_replica("a", replica__name="b"):
            pytest.fail("opened another's folder")
    assert contents(home / "a") == before


async def test_another_meshs_journal_is_refused_and_untouched(home: Path) -> None:
    await write("a", "of the user's mesh")
    create_genesis(home / "authority", "fleet")
    shutil.rmtree(home / "a" / "identity")
    before = contents(home / "a")
    with pytest.raises(FolderError, match="a journal but no identity"):
        async with open_replica("a"):
            pytest.fail("opened without identity")
    assert contents(home / "a") == before
    provision(home / "authority", home / "a", "a")
    before = contents(home / "a")
    with pytest.raises(FolderError, match="belongs to mesh 'personal'"):
        async with open_replica("a"):
            pytest.fail("opened another mesh's journal")
    assert contents(home / "a") == before


async def test_a_newer_format_is_refused_and_untouched(home: Path) -> None:
    await write("a", "old")
    genesis = home / "a" / "identity" / "genesis.json"
    genesis.write_text(json.dumps({**json.loads(genesis.read_text()), "format": 99}))
    before = contents(home / "a")
    with pytest.raises(FolderError, match="install a newer statemesh"):
        async with open_replica("a"):
            pytest.fail("opened a newer format")
    assert contents(home / "a") == before


async def test_a_file_is_no_folder(home: Path) -> None:
    (home / "a").write_text("x")
    with pytest.raises(FolderError, match="is not a folder"):
        async with open_replica("a"):
            pytest.fail("opened a file")


async def test_a_personal_mesh_stays_on_this_machine(home: Path) -> None:
    with pytest.raises(CallerError, match=r"peers\.listen = '0\.0\.0\.0:0' leaves this machine"):
        async with open_replica("a", peers__listen="0.0.0.0:0"):
            pytest.fail("listened to the world")
    create_genesis(home / "authority", "personal")
    provision(home / "authority", home / "b", "b")
    assert default_authority().exists()
    async with open_replica("b", peers__listen="0.0.0.0:0") as replica:
        assert replica.address.startswith("0.0.0.0:")


async def test_a_port_in_use_closes_what_was_open(home: Path) -> None:
    async with open_replica("a") as a:
        with pytest.raises(CallerError, match="is in use; set peers"):
            async with open_replica("b", peers__listen=a.address):
                pytest.fail("listened on a port in use")
    await write("b", "its folder is free")


async def test_without_its_coordinator_a_replica_works_on() -> None:
    """Nobody listens at port 1: what the coordinator decides is unavailable, all else goes on."""
    async with open_replica("a", temporal__address="127.0.0.1:1", temporal__timeout_s=0.5) as a:
        with a.edit(Task, "1") as task:
            task.title = "written anyway"
        await a.flush(Durability.JOURNAL, timeout=20)
        assert a.environment.coordinator is not None
        assert a.health()["coordinator"].state not in ("ok", "off")
