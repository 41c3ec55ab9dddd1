"""The command line: what it shows, that it changes nothing, and how it fails."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from crdt import Counter, Document, Register, Set, Text
from mesh.cli import plain_json, run
from mesh.compose import open_replica
from mesh.durability import Durability

SCRIPT = "from mesh.cli import main; main()"


class Task(Document):
    """A document with values that JSON lacks."""

    title: Register[Any]
    effort: Counter
    labels: Set[str]
    notes: Text


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("STATEMESH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STATEMESH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
async def folder(home: Path) -> Path:
    """What a replica left: two documents."""
    async with open_replica("agent-a") as replica:
        with replica.edit(Task, "1") as task:
            task.title = {"raw": b"\x00\xff", "at": datetime(2027, 1, 2, tzinfo=UTC)}
            task.effort += 5
            task.labels |= {"b", "a"}
            task.notes.append("line [bold] one")
        with replica.edit(Task, "2") as task:
            task.title = "second"
        await replica.flush(Durability.JOURNAL, timeout=20)
    return home / "agent-a"


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(list(arguments)) == 0
    return capsys.readouterr().out


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(list(arguments)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1, "one line"
    return shown.err


def test_dump_shows_every_document(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(folder)
    dumped = json.loads(output(capsys, "dump", str(folder), "--json"))
    assert dumped["replica"] == "agent-a"
    assert dumped["documents"] == {
        "Task/1": {
            "title": {"raw": {"$bytes": "AP8="}, "at": "2027-01-02T00:00:00+00:00"},
            "effort": 5,
            "labels": ["a", "b"],
            "notes": "line [bold] one",
        },
        "Task/2": {"title": "second"},
    }
    text = output(capsys, "dump", str(folder))
    assert "Task/1" in text
    assert '  notes: "line [bold] one"' in text, "markup in values is text"
    assert contents(folder) == before


def test_dump_of_one_document(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dumped = json.loads(output(capsys, "dump", str(folder), "--document", "Task/2", "--json"))
    assert dumped["documents"] == {"Task/2": {"title": "second"}}
    assert "no document 'Task/3'" in failure(capsys, "dump", str(folder), "-d", "Task/3")
    assert "Task" in failure(capsys, "dump", str(folder), "-d", "Task")


def test_digest_counts_and_is_the_replicas(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(folder)
    shown = json.loads(output(capsys, "digest", str(folder), "--json"))
    shards = shown["shards"]
    assert len(shards) == 16
    assert sum(shard["documents"] for shard in shards.values()) == 2
    written = [shard for shard in shards.values() if shard["frontier"]]
    assert all(len(shard["digest"]) == 32 for shard in shards.values())
    assert written
    table = output(capsys, "digest", str(folder))
    assert all(shard["digest"] in table for shard in written)
    assert contents(folder) == before


async def test_digest_is_what_the_replica_says(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_replica(folder) as replica:
        said = replica.digest()
    shown = json.loads(output(capsys, "digest", str(folder), "--json"))["shards"]
    assert {int(number): shard["digest"] for number, shard in shown.items()} == said


async def test_a_folder_in_use_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_replica(folder):
        assert "is open in process" in failure(capsys, "dump", str(folder))


def test_mistakes_are_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "holds no identity" in failure(capsys, "dump", str(home))
    assert "DIR" in failure(capsys, "dump")
    assert "bogus" in failure(capsys, "bogus")
    assert "--bogus" in failure(capsys, "digest", "--bogus", "x")
    monkeypatch.setenv("STATEMESH_PEERS__LISTN", "x")
    assert "did you mean STATEMESH_PEERS__LISTEN?" in failure(capsys, "settings")


def test_settings_shows_what_counts(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "mesh.toml").write_text('[peers]\nlisten = "127.0.0.1:7400"\n')
    monkeypatch.setenv("STATEMESH_TEMPORAL__NAMESPACE", "agents")
    table = output(capsys, "settings")
    assert "| `peers.listen` | `STATEMESH_PEERS__LISTEN` | `127.0.0.1:7400` |" in table
    shown = json.loads(output(capsys, "settings", "--json"))
    assert shown["temporal"]["namespace"] == "agents"


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, "--version") == f"mesh {importlib.metadata.version('statemesh')}\n"
    overview = output(capsys)
    assert overview == output(capsys, "--help")
    for command in ("digest", "dump", "settings"):
        assert command in overview
        assert "Example: " in output(capsys, command, "--help")


def test_commands_of_other_packages_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    overview = output(capsys, "--help")
    for point in importlib.metadata.entry_points(group="statemesh.commands"):
        assert point.name in overview


def test_output_fits_a_terminal_that_knows_only_ascii(home: Path) -> None:
    async def write() -> None:
        async with open_replica("agent-a") as replica:
            with replica.edit(Task, "1") as task:
                task.title = "…\U0001f600"
            await replica.flush(Durability.JOURNAL, timeout=20)

    asyncio.run(write())
    for arguments, expected in (
        (["--json"], r'"title": "\u2026\ud83d\ude00"'),
        ([], r'title: "\u2026\U0001f600"'),
    ):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, "dump", "agent-a", *arguments],
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


def test_the_environment_in_the_guide_is_understood(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "embedding.md").read_text()
    shown = dict(re.findall(r"`(STATEMESH_[A-Z_]+)=(\S+?)`", guide))
    assert set(shown) == {"STATEMESH_PEERS__LISTEN", "STATEMESH_PEERS__SEEDS"}
    for name, value in shown.items():
        monkeypatch.setenv(name, shlex.split(value)[0])
    peers = json.loads(output(capsys, "settings", "--json"))["peers"]
    assert peers["seeds"] == ["127.0.0.1:7402", "127.0.0.1:7403"]


def test_plain_json_has_a_form_for_everything() -> None:
    assert plain_json({1: float("nan"), b"k": (b"", True, None, 2**70)}) == {
        "1": {"$float": "nan"},
        "$bytes:aw==": [{"$bytes": ""}, True, None, 2**70],
    }


def test_interrupted_is_130_without_a_traceback(home: Path) -> None:
    """A FIFO as settings file: the command waits for somebody to write, and gets Ctrl-C instead."""
    fifo = home / "settings.toml"
    os.mkfifo(fifo)
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "settings", "--file", str(fifo)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell's background jobs ignore Ctrl-C, and what they start inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:  # fmt: skip
        try:
            # Opening for writing returns once the command has opened it for reading: in the middle.
            with fifo.open("w"):
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors
