"""Partition tests as a user has them: the tutorial's, in a project of its own."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crdt.errors import CallerError
from mesh.replica import Replica
from simulations import walls
from simulations.agents.writers import Sheet
from simulations.faults.kinds import NETWORK
from simulations.run import simulate
from simulations.scenario import scenario
from simulations.scenarios.ready import Scenario
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


def simulated(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("mesh")), "simulate", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip


def test_the_command_runs_a_scenario_of_a_module_and_makes_its_failure_small(
    tmp_path: Path,
) -> None:
    (tmp_path / "test_votes.py").write_text(programs()[0])
    arguments = ["test_votes:test_voting", "--seeds", "0:3", "--jobs", "2", "--shrink"]
    failed = simulated(tmp_path, *arguments, "--save", "found.toml")
    assert failed.returncode == 1, failed.stderr
    assert "every_vote_counts" in failed.stderr
    again = failed.stderr.splitlines()[-1]
    part = "--only-faults 0 --only-hosts 1,2,3 --only-writers 1,2,3"
    assert again == f"mesh simulate test_votes:test_voting --seed 0 {part}"
    assert simulated(tmp_path, *again.split()[2:]).returncode == 1
    kept = simulated(tmp_path, "found.toml")
    assert kept.returncode == 1, kept.stderr
    assert "every_vote_counts" in kept.stderr
    (tmp_path / "test_votes.py").write_text(programs()[1])
    assert simulated(tmp_path, "found.toml").returncode == 0
    assert simulated(tmp_path, "test_votes:test_voting", "--seeds", "0:3").returncode == 0


def test_a_module_that_fails_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "test_votes.py").write_text("import json\n\njson.votes()\n")
    failed = simulated(tmp_path, "test_votes:test_voting")
    assert failed.returncode == 2
    assert "test_votes can't be imported: AttributeError" in failed.stderr
    assert "test_votes.py:3" in failed.stderr


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("__import__('time').time()", "time.time"),
        ("__import__('socket').socket()", "a socket"),
        ("__import__('threading').Thread().start()", "threading.Thread.start"),
        ("__import__('random').random()", "random.random"),
    ],
)
def test_an_agent_that_escapes_is_named_with_its_own_line(
    line: str, what: str, tmp_path: Path
) -> None:
    program = programs()[1].replace("    with replica.edit", f"    {line}\n    with replica.edit")
    failed = run_pytest(tmp_path, program, "test_votes.py")
    number = program.splitlines().index(f"    {line}") + 1
    assert f"test_votes.py:{number} in test_voting used {what}" in failed.stdout


def test_an_agent_whose_replica_is_closed_by_a_fault_ends_with_it() -> None:
    runs: list[str] = []

    async def counts(replica: Replica) -> None:
        runs.append(replica.name)
        while True:
            with replica.edit(Sheet, "one") as sheet:
                sheet.effort += 1
            await asyncio.sleep(0.2)

    counting = scenario(counts, faults="stop", seconds=12.0)
    outcomes = [simulate(counting, seed) for seed in range(3)]
    assert [one.violations for one in outcomes] == [[], [], []]
    assert sum(len(one.plan) for one in outcomes) >= 2
    assert len(runs) > 3 * counting.replicas


def test_groups_of_faults_have_names() -> None:
    assert scenario(faults="network, kill, halves").kinds == (*NETWORK, "kill")
    assert scenario(faults="none").kinds == ()


def test_a_scenario_says_what_there_is_not() -> None:
    with pytest.raises(CallerError, match="'redis' is no service; there are bus, log, checkpoints"):
        scenario(services=["redis"])
    with pytest.raises(CallerError, match="'fault' is no option; there are replicas, faults, "):
        scenario(fault="kill")  # type: ignore[call-arg]
    with pytest.raises(CallerError, match=r"did you mean replica\.flush_interval_ms"):
        scenario(settings={"replica__flush_intervall_ms": 3})
    with pytest.raises(CallerError, match="log-down hits the service 'log', and this world has no"):
        scenario(services=["bus"], faults="halves,log-down")


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

    spinning = Scenario("spins", "", replicas=2, load=None, fault_s=2.0, agents=(spins,))
    outcome = simulate(spinning, 1)
    assert "Livelock" in {one.invariant for one in outcome.violations}
    assert "replica-" in outcome.violations[0].message


def test_a_fault_that_there_is_not_is_named() -> None:
    with pytest.raises(CallerError, match="'fire' is no fault; there are"):
        partition_test(faults="fire")
