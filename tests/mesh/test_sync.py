"""The facade for threads: nothing lost, nothing half done, nobody left waiting."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mesh import (
    Durability,
    EditMisuse,
    FlushTimeout,
    FolderError,
    ReplicaClosed,
    SyncReplica,
)
from mesh.instrumentation import CountingProbe
from mesh.watch import Change
from tests.mesh.world import Note, Task, World, running

THREADS = 10


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATEMESH_HOME", str(tmp_path / "home"))


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[SyncReplica]:
    with SyncReplica.open(tmp_path / "a", peers__listen="", edit_s=0.5) as opened:
        yield opened
    assert not [one for one in threading.enumerate() if one.name.startswith("replica in")]


def in_threads(*works: Callable[[], object]) -> list[object]:
    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result(60) for future in [pool.submit(work) for work in works]]


def until(condition: Callable[[], bool]) -> None:
    for _ in range(4_000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("not within 20 s")


def test_ten_threads_lose_no_update(replica: SyncReplica) -> None:
    each = 100

    def work() -> None:
        for _ in range(each):
            with replica.edit(Task, "1") as task:
                # Read-modify-write on a register: only safe because a body runs alone.
                task.title = str(int(task.title or "0") + 1)
                task.effort += 1

    in_threads(*[work] * THREADS)
    document = replica.get(Task, "1")
    assert document is not None
    assert document["effort"] == THREADS * each
    assert document["title"] == str(THREADS * each)
    result = replica.flush(timeout=10)
    assert sum(result.written.values()) == 2 * THREADS * each


def test_everything_at_once_from_ten_threads(replica: SyncReplica) -> None:
    def write(at: int) -> None:
        for n in range(20):
            with replica.transaction(type="note.pair") as tx:
                tx.edit(Note, f"{{{at}}}/{n}/a").text = str(n)
                tx.edit(Note, f"{{{at}}}/{n}/b").text = str(n)
            assert replica.exists(Note, f"{{{at}}}/{n}/a")
        replica.flush(timeout=10)

    def read() -> None:
        for _ in range(40):
            found = replica.documents(Note)
            pairs = {name.rpartition("/")[0] for name in found}
            assert len(found) == 2 * len(pairs), "both of a transaction, or none"
            replica.health(), replica.frontier(), replica.digest(), replica.status()

    in_threads(*[lambda at=at: write(at) for at in range(6)], *[read] * 4)
    assert len(replica.documents(Note)) == 240
    assert len(replica.documents(Note, lambda note: note.text == "7")) == 12


def test_a_body_that_raises_writes_nothing_and_its_error_comes_out(replica: SyncReplica) -> None:
    with pytest.raises(ZeroDivisionError), replica.edit(Task, "1") as task:
        task.title = str(1 / 0)
    assert not replica.exists(Task, "1")
    with pytest.raises(TypeError), replica.edit(Task, "1") as task:
        task.effort += "a"  # type: ignore[operator]
    with replica.edit(Task, "1") as task:
        task.title = "still works"


def test_a_body_that_takes_too_long_loses_its_edit_and_nobody_else_does(
    replica: SyncReplica,
) -> None:
    with (
        pytest.raises(EditMisuse, match=r"more than 0.5 s.*nothing was written"),
        replica.edit(Task, "1") as task,
    ):
        until(lambda: task._access.closed)  # type: ignore[attr-defined]
    assert not replica.exists(Task, "1")
    assert replica.create(Task, "1")


def test_inside_a_body_reads_work_and_what_would_wait_is_refused(replica: SyncReplica) -> None:
    replica.create(Note, "1")
    with replica.edit(Task, "1") as task:
        task.title = str(replica.exists(Note, "1"))
        for use in (
            lambda: replica.create(Note, "2"),
            lambda: replica.edit(Note, "2").__enter__(),
            replica.flush,
        ):
            with pytest.raises(EditMisuse, match="an edit is open in this thread"):
                use()
    with replica.read(Task, "1") as view:
        assert view is not None
        assert view.title == "True"
    with replica.read(Task, "none") as nothing:
        assert nothing is None
    assert replica.delete(Task, "1")
    assert replica.get(Task, "1") is None


def test_errors_are_those_of_the_replica(replica: SyncReplica, tmp_path: Path) -> None:
    replica.create(Note, "1")
    with pytest.raises(FlushTimeout, match=r"PEERS\(1\)"):
        replica.flush(Durability.PEERS(1), timeout=0.05)
    with pytest.raises(FolderError):
        SyncReplica.open(tmp_path / "a", peers__listen="")
    assert replica.exists(Note, "1")


def test_a_watch_blocks_times_out_and_ends(replica: SyncReplica) -> None:
    watcher = replica.watch(Note)
    assert watcher.next(timeout=0.01) is None
    seen: list[Change] = []
    reader = threading.Thread(target=lambda: seen.extend(watcher))
    reader.start()
    with replica.edit(Note, "1", type="note.said") as note:
        note.text = "hello"
    until(lambda: bool(seen))
    assert (seen[0].document, seen[0].type, seen[0].mine) == ("Note/1", "note.said", True)
    watcher.close()
    watcher.close()
    reader.join(10)
    assert not reader.is_alive()
    # One that nobody holds costs nothing any more.
    replica.watch(Note)
    until(lambda: replica.status()["watchers"] == 0)


def test_closing_answers_all_who_wait(tmp_path: Path) -> None:
    replica = SyncReplica.open(tmp_path / "a", peers__listen="")
    replica.create(Note, "1")
    started = threading.Barrier(4)

    def wait_for(what: Callable[[], object]) -> str:
        started.wait()
        try:
            return repr(what())
        except ReplicaClosed:
            return "closed"

    def edits() -> object:
        while True:
            with replica.edit(Note, "1") as note:
                note.text = "again"

    watcher = replica.watch()
    with ThreadPoolExecutor(3) as pool:
        waiting = [
            pool.submit(wait_for, lambda: replica.flush(Durability.PEERS(1))),
            pool.submit(wait_for, edits),
            pool.submit(wait_for, lambda: list(watcher)[-1].document),
        ]
        started.wait()
        until(lambda: replica.frontier() != {})
        replica.close()
        replica.close()
        assert [future.result(20) for future in waiting] == ["closed", "closed", "'Note/1'"]
    with pytest.raises(ReplicaClosed):
        replica.get(Note, "1")
    with pytest.raises(ReplicaClosed):
        replica.flush()
    with SyncReplica.open(tmp_path / "a", peers__listen="") as again:
        assert again.exists(Note, "1")


async def test_the_facade_of_a_running_replica() -> None:
    world = World()
    a = world.replica("a")
    with pytest.raises(ReplicaClosed):
        _ = a.sync
    async with running(a):
        facade = a.sync

        def work() -> None:
            with facade.edit(Task, "1") as task:
                task.effort += 1

        with pytest.raises(EditMisuse, match="use the replica itself"):
            work()
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(None, work) for _ in range(THREADS)))
        view = a.get(Task, "1")
        assert view is not None
        assert view.effort == THREADS
    with pytest.raises(ReplicaClosed):
        await asyncio.to_thread(work)
    await world.close()


async def test_a_body_that_overran_is_an_event() -> None:
    world = World()
    a = world.replica("a")
    async with running(a):
        facade = SyncReplica(a, asyncio.get_running_loop(), edit_s=0.01)

        def work() -> None:
            with facade.edit(Task, "1") as task:
                until(lambda: task._access.closed)  # type: ignore[attr-defined]

        with pytest.raises(EditMisuse):
            await asyncio.to_thread(work)
        probe = world.probes["a"]
        assert isinstance(probe, CountingProbe)
        assert probe.latest["edit.overran"] == {"seconds": 0.01}
    await world.close()


PROGRAM = """
import sys
from crdt import Counter, Document
from mesh import Durability, SyncReplica
class Task(Document):
    effort: Counter
replica = SyncReplica.open(sys.argv[1], peers__listen="")
with replica.edit(Task, "1") as task:
    task.effort += 1
try:
    print("ready", flush=True)
    if sys.argv[2] == "wait":
        with replica:
            replica.flush(Durability.PEERS(1))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("how", ["wait", "forget"])
def test_an_interrupt_and_a_program_that_never_closes_end_in_order(
    tmp_path: Path, how: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "a"), how],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline() == "ready\n"
        if how == "wait":
            child.send_signal(signal.SIGINT)
        out, errors = child.communicate(timeout=30)
    assert child.returncode == 0, errors
    assert out == ("interrupted\n" if how == "wait" else "")
    with SyncReplica.open(tmp_path / "a", peers__listen="") as replica:
        document = replica.get(Task, "1")
        assert document is not None
        assert document["effort"] == 1
        core = replica.replica._started().core
        assert len(core.closed) == 1, "the session before signed its end"
