"""From `mesh init` to two linked replicas and a revoked one, by the commands people type."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mesh.cli import run
from mesh.compose import open_replica
from persistence.identity import open_identity, provision
from tests.mesh.world import Note, eventually, same

SCRIPT = "from mesh.cli import main; main()"
COMMANDS = ("init", "invite", "authority", "join", "members", "revoke", "rotate", "publish")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("STATEMESH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STATEMESH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What a command says as JSON."""
    capsys.readouterr()
    assert run([*arguments, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Why a command could not do it: one line."""
    capsys.readouterr()
    assert run(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@contextmanager
def authority_running(folder: str, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`mesh authority` in a process of its own, and where it listens."""
    line = ["authority", folder, "--listen", "127.0.0.1:0", "--json", *options]
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first, process.stderr.read() if process.stderr else ""
        try:
            yield json.loads(first)["who"], process
        finally:
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
            assert process.returncode == 0, said


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    out = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert f"Example: mesh {command}" in out
    assert "--json" in out


def test_a_mesh_is_founded_with_a_protected_key(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "secret").write_text("correct horse\n")
    made = answer(capsys, "init", "auth", "--name", "fleet", "--passphrase-file", "secret")
    assert (made["mesh"], made["shards"], made["encrypted"]) == ("fleet", 16, True)
    key = home / "auth" / "authority.key"
    assert b"ENCRYPTED" in key.read_bytes()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert "not empty" in refusal(capsys, "init", "auth", "--name", "again")
    answer(capsys, "invite", "auth")  # signs nothing, so needs no passphrase
    assert "protected by a passphrase" in refusal(capsys, "rotate", "auth")
    (home / "wrong").write_text("horse")
    found = refusal(capsys, "rotate", "auth", "--passphrase-file", "wrong")
    assert "does not open" in found
    assert answer(capsys, "rotate", "auth", "--passphrase-file", "secret")["seals"] == 2
    monkeypatch.setenv("STATEMESH_PASSPHRASE", "correct horse")
    assert answer(capsys, "rotate", "auth")["seals"] == 3
    assert answer(capsys, "members", "auth")["keys"] == [1, 2, 3]


def test_an_invitation_can_be_withdrawn(capsys: pytest.CaptureFixture[str]) -> None:
    answer(capsys, "init", "auth", "--name", "fleet", "--shards", "4")
    made = answer(capsys, "invite", "auth", "--no-snapshots")["invitation"]
    (listed,) = answer(capsys, "members", "auth")["invitations"]
    assert (listed["id"], listed["uses_left"], listed["withdrawn"]) == (made, 1, False)
    assert not listed["snapshots"]
    assert answer(capsys, "invite", "auth", "--withdraw", made) == {"withdrawn": made}
    assert answer(capsys, "members", "auth")["invitations"][0]["withdrawn"]
    assert "no invitation" in refusal(capsys, "invite", "auth", "--withdraw", "beef")


async def test_a_running_authority_tells_members_of_every_change(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(capsys, "init", "auth", "--name", "fleet", "--shards", "4")
    provision(home / "auth", home / "agent-a", "agent-a")
    async with open_replica("agent-a") as a:
        with authority_running("auth", "--member", a.address) as (_, process):
            assert process.stdout is not None
            rotated = await asyncio.to_thread(mesh, "rotate", "auth")
            assert rotated["told"] == []
            roll = a._check().core.roll
            await eventually(lambda: roll.roster.seals == 2, "it is told by itself")
            await eventually(lambda: a._check().core.identity.mesh.key_id == 2, "with the key")
            told = json.loads(await asyncio.to_thread(process.stdout.readline))
            assert (told["event"], told["who"]) == ("told", "agent-a")


def test_bad_input_is_one_line_with_a_cure(capsys: pytest.CaptureFixture[str]) -> None:
    assert "mesh init nowhere" in refusal(capsys, "invite", "nowhere")
    answer(capsys, "init", "auth", "--name", "fleet", "--shards", "4")
    assert "8h" in refusal(capsys, "invite", "auth", "--ttl", "soon")
    assert "member or observer" in refusal(capsys, "invite", "auth", "--role", "authority")
    assert "1 to" in refusal(capsys, "invite", "auth", "--uses", "0")
    assert "host:port" in refusal(capsys, "invite", "auth", "--address", "here")
    assert "mesh invite" in refusal(capsys, "join", "garbage", "a")
    token = answer(capsys, "invite", "auth")["token"]
    assert "damaged" in refusal(capsys, "join", token[:-3], "a")
    assert "names no address" in refusal(capsys, "join", token, "a")
    token = answer(capsys, "invite", "auth", "--address", "127.0.0.1:1")["token"]
    assert "127.0.0.1:1" in refusal(capsys, "join", token, "a")
    assert "mesh members" in refusal(capsys, "revoke", "auth", "nobody")
    assert "nobody is revoked" in refusal(capsys, "publish", "auth", "127.0.0.1:1")


async def test_from_nothing_to_a_mesh_with_one_member_fewer(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(capsys, "init", "auth", "--name", "fleet", "--shards", "4")
    with authority_running("auth") as (address, _):
        token = mesh("invite", "auth", "--uses", "2", "--address", address)["token"]
        watching = mesh("invite", "auth", "--role", "observer", "--address", address)["token"]
        assert mesh("join", token, "agent-a")["role"] == "member"
        assert mesh("join", token, "agent-b")["fresh"]
        assert not mesh("join", token, "agent-b")["fresh"], "again is the same replica"
        assert mesh("join", watching, "eye")["role"] == "observer"
        failed = command("join", token, "agent-c")
        assert failed.returncode == 2
        assert "used up" in failed.stderr
    listed = mesh("members", "auth")["members"]
    assert [(one["name"], one["role"]) for one in listed] == [
        ("agent-a", "member"), ("agent-b", "member"), ("eye", "observer"),
    ]  # fmt: skip
    options: dict[str, Any] = {"replica__anti_entropy_interval_s": 0.1, "peers__redial_max_s": 0.2}
    async with open_replica("agent-a", **options) as a:
        seeds: dict[str, Any] = {"peers__seeds": [a.address], **options}
        async with open_replica("agent-b", **seeds) as b, open_replica("eye", **seeds) as eye:
            with a.edit(Note, "1") as note:
                note.text = "hello"
            await eventually(lambda: same(a, b, eye), "all have it")
            revoked = await asyncio.to_thread(mesh, "revoke", "auth", "agent-b", "--to", a.address)
            assert revoked["told"] == ["agent-a"]
            assert revoked["revoked"] == ["agent-b"]
            await eventually(lambda: "agent-b" not in _linked(a), "its links end")
            rotated = await asyncio.to_thread(mesh, "rotate", "auth", "--to", a.address)
            assert rotated["seals"] == 2
            with a.edit(Note, "1") as note:
                note.text = "not for agent-b"
            await eventually(lambda: same(a, eye), "honest traffic goes on")
            found = eye.get(Note, "1")
            assert found is not None
            assert found.text == "not for agent-b"
            assert not same(a, b)
    assert sorted(open_identity(home / "eye").mesh.keys) == [1, 2], "kept in the folder"
    assert sorted(open_identity(home / "agent-b").mesh.keys) == [1]
    async with open_replica("agent-a", **options) as a:
        found = a.get(Note, "1")
        assert found is not None
        assert found.text == "not for agent-b", "the journal opens with both keys"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def mesh(*arguments: str) -> Any:
    """What it says as JSON."""
    done = command(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _linked(replica: Any) -> set[str]:
    return set(replica._check().exchange.links)
