"""Partition tests as a user has them: the tutorial's, in a project of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crdt.errors import CallerError
from mesh.replica import Replica
from simulations import walls
from simulations.run import simulate
from simulations.scenarios import Scenario
from simulations.testing import partition_test
from simulations.world import Host

PAGE = Path(__file__).resolve().parents[2] / "docs" / "simulation.md"


def programs() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def run_pytest(folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_votes.py").write_text(program)
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=folder, env=env, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip


def test_the_tutorial_finds_its_mistake_and_repeats_it(tmp_path: Path) -> None:
    failed = run_pytest(tmp_path, programs()[0], "test_votes.py")
    assert failed.returncode == 1, failed.stdout
    assert "every_vote_counts" in failed.stdout
    command = re.search(
        r"pytest '(test_votes\.py::test_voting)' --simulation-seed (\d+)", failed.stdout
    )
    assert command is not None, failed.stdout
    again = run_pytest(tmp_path, programs()[0], command[1], "--simulation-seed", command[2])
    assert again.returncode == 1, again.stdout
    assert f"seed {command[2]}:" in again.stdout


def test_the_tutorial_s_remedy_holds(tmp_path: Path) -> None:
    passed = run_pytest(tmp_path, programs()[1], "test_votes.py")
    assert passed.returncode == 0, passed.stdout
    assert "1 passed" in passed.stdout


def test_an_agent_that_escapes_is_named_with_its_own_line(tmp_path: Path) -> None:
    program = programs()[1].replace(
        "    with replica.edit", "    import time\n    time.time()\n    with replica.edit"
    )
    failed = run_pytest(tmp_path, program, "test_votes.py")
    line = program.splitlines().index("    time.time()") + 1
    assert f"test_votes.py:{line} in test_voting used time.time" in failed.stdout


def test_an_agent_that_never_waits_is_stopped(tmp_path: Path) -> None:
    program = "import asyncio\n" + programs()[1].replace(
        "    with replica.edit",
        "    while True:\n        await asyncio.sleep(0)\n    with replica.edit",
    )
    failed = run_pytest(tmp_path, program, "test_votes.py")
    assert "Livelock" in failed.stdout
    assert "agent 0" in failed.stdout


def test_an_agent_that_never_awaits_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walls, "STEP_S", 0.2)

    async def spins(host: Host, replica: Replica) -> None:
        del host, replica
        while True:
            pass

    scenario = Scenario("spins", "", replicas=2, load=None, fault_s=2.0, agents=(spins,))
    outcome = simulate(scenario, 1)
    assert "Livelock" in {one.invariant for one in outcome.violations}
    assert "replica-" in outcome.violations[0].message


def test_a_fault_that_there_is_not_is_named() -> None:
    with pytest.raises(CallerError, match="'fire' is no fault; there are"):
        partition_test(faults="fire")
