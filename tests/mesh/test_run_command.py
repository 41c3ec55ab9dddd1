"""`mesh run`: a replica without an agent, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mesh import Durability, SyncReplica
from tests.mesh.world import Note


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATEMESH_HOME", str(tmp_path / "home"))


@contextmanager
def keeper(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`mesh run …` as a process, killed if it is still there at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", "from mesh.cli import main; main()", "run", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ),
    ) as child:  # fmt: skip
        try:
            yield child
        finally:
            child.kill()


def line(child: subprocess.Popen[str]) -> dict[str, Any]:
    assert child.stdout is not None
    text = child.stdout.readline()
    assert text, child.stderr.read() if child.stderr else ""
    parsed: dict[str, Any] = json.loads(text)
    return parsed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_keeps_the_state_serves_others_and_ends_in_order(
    tmp_path: Path, number: signal.Signals
) -> None:
    with keeper(str(tmp_path / "keeper"), "--json", "--every", "0.2") as child:
        first = line(child)
        assert (first["state"], first["replica"]) == ("running", "keeper")
        with SyncReplica.open(tmp_path / "a", peers__seeds=(first["address"],)) as a:
            with a.edit(Note, "1") as note:
                note.text = "kept"
            assert a.flush(Durability.PEERS(1), timeout=20).replicas == ("keeper",)
            while (now := line(child))["peers"] != ["a"] or now["documents"] != 1:
                assert now["state"] == "running"
            assert now["health"]["peers"]["state"] == "ok"
        child.send_signal(number)
        out, errors = child.communicate(timeout=30)
        assert (child.returncode, errors) == (0, "")
        assert json.loads(out.splitlines()[-1])["state"] == "closed"
        with (
            keeper(str(tmp_path / "keeper"), "--listen", "127.0.0.1:0", "--json") as again,
            SyncReplica.open(tmp_path / "b", peers__seeds=(line(again)["address"],)) as b,
        ):
            changes = b.watch(Note)
            while not b.exists(Note, "1"):
                changes.next(timeout=1)
            document = b.get(Note, "1")
            assert document == {"text": "kept"}


def test_for_people_it_is_one_line_and_a_bad_seed_is_an_error(tmp_path: Path) -> None:
    with keeper(str(tmp_path / "keeper")) as child:
        assert child.stdout is not None
        text = child.stdout.readline()
        assert text.startswith("keeper running at 127.0.0.1:")
        assert "0 documents, 0 peers; journal ok" in text
        child.send_signal(signal.SIGTERM)
        out, _ = child.communicate(timeout=30)
        assert out.splitlines()[-1].startswith("keeper closed")
    with keeper(str(tmp_path / "keeper"), "--seed", "nowhere") as child:
        _, errors = child.communicate(timeout=30)
        assert child.returncode == 2
        assert "nowhere" in errors
