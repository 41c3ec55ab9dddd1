"""`mesh stack`: every command a fresh process, the servers real and outliving each of them."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from mesh.stack import Stack
from mesh.stack.process import free_port
from tests.mesh.stack_world import alive, gone, is_empty, mesh

QUICK = ("--only", "redis,temporal")
ONE = ("--only", "redis")


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Path]:
    """A current folder whose stack is stopped in the end, whatever the test did to its record."""
    yield tmp_path
    if (tmp_path / "mesh-stack").is_dir():
        await mesh("stack", "down", cwd=tmp_path)


async def up(place: Path, *words: str, **environment: str) -> dict[str, Any]:
    outcome = await mesh("stack", "up", "--json", *words, cwd=place, environment=environment)
    return outcome.json


async def status(place: Path, *words: str, code: int = 0) -> dict[str, Any]:
    outcome = await mesh("stack", "status", "--json", *words, cwd=place, code=code)
    services: dict[str, Any] = outcome.json["services"]
    return services


async def test_up_status_env_down(place: Path) -> None:
    outcome = await mesh("stack", "up", "--only", "redis,postgres,temporal", cwd=place)
    for product in ("redis: ", "postgres: PostgreSQL ", "temporal: Temporal Server "):
        assert product in outcome.err, "progress"
    services = await status(place)
    assert list(services) == ["redis", "postgres", "temporal"]
    for name, one in services.items():
        assert one["well"], one
        assert alive(one["pid"])
        assert os.getsid(one["pid"]) == one["pid"], "no terminal's Ctrl-C reaches it"
        assert 0 <= one["uptime_s"] < 120
        assert f"{name}: {one['version']} answers at {one['address']}" in outcome.err
        assert one["address"] in outcome.out
    lines = (await mesh("stack", "env", cwd=place)).out.splitlines()
    exported = dict(shlex.split(line)[1].split("=", 1) for line in lines)
    assert all(line.startswith("export STATEMESH_") for line in lines)
    assert exported == (await mesh("stack", "env", "--json", cwd=place)).json
    assert exported["STATEMESH_POSTGRES__DSN"] == services["postgres"]["address"]
    settings = (await mesh("settings", "--json", cwd=place, environment=exported)).json
    assert settings["temporal"]["address"] == services["temporal"]["address"]
    down = (await mesh("stack", "down", cwd=place)).out
    for name, one in services.items():
        assert f"{name}: stopped {one['version']}, pid {one['pid']}" in down
        assert not alive(one["pid"])
    services = await status(place, code=1)
    assert all("stopped; start it by mesh stack up" in one["trouble"] for one in services.values())
    assert "nothing runs" in (await mesh("stack", "down", cwd=place)).out
    assert "nothing runs in" in (await mesh("stack", "env", cwd=place, code=2)).err


async def test_a_second_up_finds_what_runs_and_restarts_what_died(place: Path) -> None:
    first = (await up(place, *QUICK))["services"]
    second = (await up(place, *QUICK))["services"]
    assert {name: one["pid"] for name, one in second.items()} == {
        name: one["pid"] for name, one in first.items()
    }
    async with Redis.from_url(first["redis"]["address"]) as client:
        await client.set("kept", "yes")
        await client.waitaof(1, 0, 5_000)
    os.kill(first["redis"]["pid"], signal.SIGKILL)
    await gone(first["redis"]["pid"])
    services = await status(place, code=1)
    assert f"its process {first['redis']['pid']} has ended" in services["redis"]["trouble"]
    assert services["temporal"]["well"]
    third = (await up(place, *QUICK))["services"]
    assert third["redis"]["pid"] != first["redis"]["pid"]
    assert third["redis"]["address"] == first["redis"]["address"]
    assert third["temporal"]["pid"] == first["temporal"]["pid"]
    async with Redis.from_url(third["redis"]["address"]) as client:
        assert await client.get("kept") == b"yes"


async def test_ports_stay_over_down_and_exports_stay_good(place: Path) -> None:
    """Who has exported `mesh stack env` goes on with the stack's own servers, also after `down`."""
    first = await up(place, *ONE)
    exported = first["environment"]
    await mesh("stack", "down", cwd=place)
    second = await up(place, *ONE, **exported)
    assert second["services"]["redis"]["source"] == "stack"
    assert second["environment"] == exported
    down = await mesh("stack", "down", "--json", cwd=place, environment=exported)
    assert down.json["stopped"] == ["redis"]


async def test_down_never_touches_a_process_it_did_not_start(place: Path) -> None:
    """The record names a pid that is somebody else's by now."""
    mine = (await up(place, *ONE))["services"]["redis"]["pid"]
    os.kill(mine, signal.SIGKILL)
    await gone(mine)
    record = place / "mesh-stack" / "state.json"
    stranger = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    try:
        content = json.loads(record.read_text())
        content["services"]["redis"]["pid"] = stranger.pid
        content["services"]["redis"]["started"] -= 60
        record.write_text(json.dumps(content))
        services = await status(place, code=1)
        assert f"its process {stranger.pid} has ended" in services["redis"]["trouble"]
        outcome = await mesh("stack", "down", cwd=place)
        assert "redis: had ended by itself" in outcome.out
        assert alive(stranger.pid), "it goes on"
    finally:
        stranger.kill()
        await stranger.wait()


@pytest.mark.parametrize("record", ["of another start", "lost"])
async def test_a_server_that_the_record_does_not_tell_of_is_named(place: Path, record: str) -> None:
    """The clock was set, or `up` was killed before it could write: no second one on its data."""
    pid = (await up(place, *ONE))["services"]["redis"]["pid"]
    file = place / "mesh-stack" / "state.json"
    before = file.read_text()
    content = json.loads(before)
    content["services"]["redis"]["started"] -= 60
    file.unlink()
    if record == "of another start":
        file.write_text(json.dumps(content))
    for verb in ("up", "down"):
        outcome = await mesh("stack", verb, *ONE, cwd=place, code=2)
        assert f"redis: process {pid} still runs in {place}/mesh-stack/redis" in outcome.err
        assert f"end it: kill {pid}" in outcome.err
    assert f"kill {pid}" in (await status(place, *ONE, code=1))["redis"]["trouble"]
    assert alive(pid)
    file.write_text(before)


async def test_cures_are_about_the_folder_in_question(place: Path) -> None:
    at = ("--dir", "my stack")
    found = await mesh("stack", "status", *ONE, *at, cwd=place, code=1)
    assert f"mesh stack up --only redis --dir '{place}/my stack'" in found.out
    nothing = await mesh("stack", "env", *ONE, *at, cwd=place, code=2)
    assert nothing.err.startswith("error: redis: nothing runs in ")
    assert nothing.err.endswith("start it by mesh stack up --only redis --dir 'my stack'\n")


async def test_env_says_what_it_leaves_out(place: Path) -> None:
    services = (await up(place, *QUICK))["services"]
    os.kill(services["redis"]["pid"], signal.SIGKILL)
    await gone(services["redis"]["pid"])
    outcome = await mesh("stack", "env", "--json", cwd=place)
    assert list(outcome.json) == ["STATEMESH_TEMPORAL__ADDRESS"]
    assert outcome.err == "redis does not run; start it by mesh stack up --only redis\n"


async def test_told_ports(place: Path) -> None:
    port = free_port()
    services = (await up(place, *ONE, "--port", f"redis={port}"))["services"]
    assert services["redis"]["address"] == f"redis://127.0.0.1:{port}/0"
    again = await mesh("stack", "up", *ONE, "--port", f"redis={port}", cwd=place)
    assert "redis: runs already" in again.err
    other = await mesh("stack", "up", *ONE, "--port", "redis=7001", cwd=place, code=2)
    assert "it runs already, at redis://" in other.err
    await mesh("stack", "down", cwd=place)
    with socket.create_server(("127.0.0.1", port)):
        taken = await mesh("stack", "up", *ONE, "--port", f"redis={port}", cwd=place, code=2)
        assert f"error: redis: port {port} is in use; stop what listens there" in taken.err
        moved = (await up(place, *ONE))["services"]
        assert moved["redis"]["address"] != services["redis"]["address"], "not told: it may move"


async def test_two_ups_at_once_start_one_of_each(place: Path) -> None:
    outcomes = await asyncio.gather(*(up(place, *QUICK) for _ in range(3)))
    pids = [{name: one["pid"] for name, one in each["services"].items()} for each in outcomes]
    assert pids[0] == pids[1] == pids[2]
    assert all(alive(pid) for pid in pids[0].values())


async def test_a_server_of_the_settings_is_used_and_never_stopped(
    place: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("elsewhere")
    async with Stack.running(folder, only=("redis",)) as theirs:
        address = theirs.services["redis"].address
        secret = address.replace("redis://", "redis://ghost:hunter2@")
        told = {"STATEMESH_REDIS__URL": address}
        outcome = await mesh("stack", "up", *QUICK, cwd=place, environment=told)
        assert f"at {address} is used, as the settings name it" in outcome.err
        assert not (place / "mesh-stack" / "redis").exists()
        found = await mesh("stack", "status", "--json", cwd=place, environment=told)
        assert found.json["services"]["redis"]["source"] == "settings"
        assert found.json["services"]["temporal"]["source"] == "stack"
        variables = (await mesh("stack", "env", "--json", cwd=place, environment=told)).json
        assert list(variables) == ["STATEMESH_TEMPORAL__ADDRESS"], "what is set needs no export"
        both = await mesh(
            "stack", "up", *ONE, "--port", "redis=7001", cwd=place, environment=told, code=2
        )
        assert "unset STATEMESH_REDIS__URL, or leave the option out" in both.err
        await mesh("stack", "down", cwd=place, environment=told)
        assert theirs.services["redis"].running
        told["STATEMESH_REDIS__URL"] = secret
        refused = await mesh("stack", "up", *ONE, cwd=place, environment=told, code=2)
        assert "named in the settings, does not answer" in refused.err
        assert "hunter2" not in refused.err + refused.out


@pytest.mark.parametrize(
    ("variable", "value", "name"),
    [
        ("STATEMESH_REDIS__URL", "redis://127.0.0.1:{port}/0", "redis"),
        ("STATEMESH_POSTGRES__DSN", "postgresql://a:hunter2@127.0.0.1:{port}/b", "postgres"),
        ("STATEMESH_TEMPORAL__ADDRESS", "127.0.0.1:{port}", "temporal"),
    ],
)
@pytest.mark.parametrize("kind", ["silence", "stranger"])
async def test_a_server_of_the_settings_that_is_none(
    place: Path, variable: str, value: str, name: str, kind: str
) -> None:
    """Nobody listens at the address, or a server of another kind does."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    stranger = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = stranger.sockets[0].getsockname()[1]
    if kind == "silence":
        stranger.close()
        await stranger.wait_closed()
    told = {variable: value.format(port=port)}
    words = ("stack", "up", "--only", name)
    outcome = await mesh(*words, cwd=place, environment=told, code=2)
    stranger.close()
    assert "named in the settings, does not answer" in outcome.err
    assert f"correct {variable} (or the settings file), start that server, or take" in outcome.err
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert "hunter2" not in outcome.err
    assert not (place / "mesh-stack" / name).exists(), "nothing was started instead"


async def test_a_folder_that_cannot_be_used(place: Path) -> None:
    (place / "mesh-stack").mkdir()
    (place / "mesh-stack" / "redis").touch()
    outcome = await mesh("stack", "up", *QUICK, cwd=place, code=2)
    (error,) = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert error.startswith(f"error: redis can't use its folder {place}/mesh-stack/redis: ")
    assert "another --dir" in error
    assert (await status(place, "--only", "temporal"))["temporal"]["well"]
    (place / "mesh-stack" / "redis").unlink()


async def test_what_started_stays_when_another_fails(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ("stack", "up", *QUICK, "--port", f"temporal={port}")
        outcome = await mesh(*words, cwd=place, code=2)
    assert f"error: temporal: port {port} is in use" in outcome.err
    assert (await status(place, *ONE))["redis"]["well"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda how: how.name)
async def test_an_up_that_is_cut_short_leaves_nothing_unknown(
    place: Path, how: signal.Signals
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from mesh.cli import main; main()", "stack", "up", *QUICK,
        cwd=place, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    async with asyncio.timeout(60):
        await process.stderr.readline()  # one answers; the other may be on its way
    process.send_signal(how)
    assert await process.wait() in (-how, 130, 0)
    recorded = json.loads((place / "mesh-stack" / "state.json").read_text())["services"]
    services = (await up(place, *QUICK))["services"]
    for name, one in recorded.items():
        assert one["pid"] in (None, services[name]["pid"])
    await mesh("stack", "down", cwd=place)
    assert not any(alive(one["pid"]) for one in services.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("up", "--only", "redsi"), "'redsi' is no service; did you mean redis"),
        (("down", "--only", ""), "no service is named"),
        (("up", "--only", ","), "no service is named; there are redis, kafka, postgres, temporal"),
        (("up", "--port", "redis"), "--port redis: write NAME=PORT, such as redis=6379"),
        (("up", "--port", "redis=0"), "port 0 of redis is none; use one from 1 to 65535"),
        (("up", "--port", "redis=1", "--port", "redis=2"), "redis is given a port twice"),
        (("env",), "nothing runs in"),
        (("up", "--dir", "/dev/null/x"), "cannot make the folder /dev/null/x"),
    ],
)
async def test_wrong_words(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    outcome = await mesh("stack", *words, cwd=tmp_path, code=2)
    assert message in outcome.err
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert is_empty(tmp_path)


async def test_where_nothing_was_ever_started(tmp_path: Path) -> None:
    services = await status(tmp_path, code=1)
    assert list(services) == ["redis", "kafka", "postgres", "temporal"]
    assert all(one["trouble"].startswith("not started") for one in services.values())
    outcome = await mesh("stack", "down", cwd=tmp_path)
    assert "nothing was ever started in" in outcome.out
    assert is_empty(tmp_path)
