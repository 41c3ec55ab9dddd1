"""Simulated worlds: the same seed is the same run, what breaks an invariant is found, and the
command says so.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from mesh.cli import run
from mesh.replica import Replica
from simulations.agents.writers import Load, Sheet
from simulations.batch import Task, perform, perform_one
from simulations.faults.kinds import KINDS
from simulations.faults.plan import Fault, chosen_kinds, draw
from simulations.ports.services import SERVICES
from simulations.run import Part, simulate
from simulations.scenarios.ready import MARKS, SCENARIOS, Scenario
from simulations.trace import first_difference
from simulations.world import Host, World

SHORT = dataclasses.replace(SCENARIOS["swarm"], fault_s=8.0, quiet_s=1.0)


def command(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("mesh")), "simulate", *arguments],
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip


# ---------------------------------------------------------------------- determinism


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_same_seed_is_the_same_run(seed: int) -> None:
    runs = [simulate(SHORT, seed, keep_trace=True) for _ in range(2)]
    lines = [one.lines or [] for one in runs]
    assert first_difference(lines[0], lines[1]) == ""
    assert runs[0].trace_hash == runs[1].trace_hash
    assert len(lines[0]) > 500


def test_other_seeds_are_other_runs() -> None:
    assert len({simulate(SHORT, seed).trace_hash for seed in range(4)}) == 4


def test_the_same_seed_is_the_same_run_in_another_process_under_another_hash_seed() -> None:
    found = []
    for hash_seed in ("1", "2"):
        ended = command("swarm", "--seed", "7", "--json", hash_seed=hash_seed)
        assert ended.returncode == 0, ended.stderr
        found.append(json.loads(ended.stdout.splitlines()[-1])["trace_hash"])
    assert found[0] == found[1]
    assert found[0] == simulate(SCENARIOS["swarm"], 7).trace_hash


def test_a_run_that_differs_from_itself_is_a_violation_that_names_the_event() -> None:
    draws = iter(range(100))

    async def unsteady(host: Host, replica: Replica) -> None:
        await asyncio.sleep(1 + next(draws) / 100)
        with replica.edit(Sheet, "unsteady") as sheet:
            sheet.effort += 1

    scenario = Scenario("unsteady", "", replicas=2, load=None, fault_s=3.0, agents=(unsteady,))
    outcome = perform_one(Task(scenario, 1, twice=True))
    assert [one.invariant for one in outcome.violations] == ["Deterministic"]
    assert "event" in outcome.violations[0].message


# ---------------------------------------------------------------------- plans


def test_plans_hold_every_kind_and_end_in_time() -> None:
    world = World(1)
    seen: set[str] = set()
    for seed in range(300):
        plan = draw(world.chance("plan", seed), world.names, tuple(KINDS), 30.0, SERVICES)
        assert all(0 < fault.t < fault.until <= 30.0 for fault in plan)
        assert sum(KINDS[fault.kind].scarce for fault in plan) <= 1
        seen.update(fault.kind for fault in plan)
    assert seen == set(KINDS)
    world.loop.close()


@pytest.mark.parametrize("kind", list(KINDS))
def test_each_kind_of_fault_alone_leaves_a_mesh_that_heals(kind: str) -> None:
    service = KINDS[kind].service
    services = (service,) if service else ()
    scenario = dataclasses.replace(SHORT, kinds=(kind,), swarm=False, services=services)
    outcome = simulate(scenario, 5)
    assert outcome.violations == []
    assert {fault.kind for fault in outcome.plan.values()} <= {kind}
    assert outcome.healed_s is not None


def test_only_the_faults_that_are_kept_happen() -> None:
    whole = next(one for one in map(partial(simulate, SHORT), range(50)) if len(one.plan) >= 2)
    part = simulate(SHORT, whole.seed, part=Part(faults=(2,)))
    assert part.plan == {2: whole.plan[2]}
    fault = part.plan[2]
    assert str(fault).startswith(f"{fault.t:.3f}")
    assert Fault(**fault.plain()) == fault
    assert simulate(SHORT, whole.seed, part=Part(faults=())).plan == {}


def test_fewer_hosts_have_fewer_faults_and_fewer_writers_write_less() -> None:
    whole = simulate(SHORT, 2)
    part = simulate(SHORT, 2, part=Part(hosts=(1, 3), writers=(3,)))
    assert part.violations == []
    assert set(part.plan) <= set(whole.plan)
    touched = {end for one in part.plan.values() for way in one.targets for end in way.split(">")}
    assert touched <= {"replica-1", "replica-3", *SERVICES}
    assert 0 < part.counts["edits"] < whole.counts["edits"]


def test_faults_are_chosen_by_name() -> None:
    allowed = ("halves", "kill")
    assert chosen_kinds("all", allowed) == allowed
    assert chosen_kinds("none", allowed) == ()
    assert chosen_kinds("kill, reset", allowed) == ("kill", "reset")


# ---------------------------------------------------------------------- users' agents


def test_an_agent_that_leaves_the_world_is_named() -> None:
    async def escapes(host: Host, replica: Replica) -> None:
        del host, replica
        await asyncio.open_connection("127.0.0.1", 9)

    scenario = Scenario("escape", "", replicas=2, fault_s=2.0, agents=(escapes,))
    outcome = simulate(scenario, 1)
    assert [one.invariant for one in outcome.violations] == ["Escaped"]
    assert "test_simulate.py" in outcome.violations[0].message


def test_an_agent_that_fails_is_a_violation() -> None:
    async def fails(host: Host, replica: Replica) -> None:
        raise KeyError(host.name)

    scenario = Scenario("fails", "", replicas=2, fault_s=2.0, load=None, agents=(fails,))
    outcome = simulate(scenario, 1)
    assert {one.invariant for one in outcome.violations} == {"NothingUnhandled"}
    assert "KeyError" in outcome.violations[0].message


def test_an_invariant_that_raises_is_a_violation_and_no_crash() -> None:
    def effort_is_even(world: World) -> None:
        for replica in world.replicas():
            sheet = replica.get(Sheet, "one")
            assert sheet is not None
            assert int(sheet.effort) % 2 == 0, f"{replica.name} counts {int(sheet.effort)}"

    async def counts(host: Host, replica: Replica) -> None:
        with replica.edit(Sheet, "one") as sheet:
            sheet.effort += 1

    odd = Scenario(
        "odd", "", replicas=3, fault_s=2.0, load=None, agents=(counts,),
        invariants=(effort_is_even,),
    )  # fmt: skip
    outcome = simulate(odd, 1)
    assert [one.invariant for one in outcome.violations] == ["effort_is_even"]
    assert "counts 3" in outcome.violations[0].message
    assert simulate(dataclasses.replace(odd, replicas=4), 1).violations == []


def test_lag_is_not_taken_for_agreement() -> None:
    """Writes that never reach others are found: the judge does not only look at silence."""

    async def mute(host: Host, replica: Replica) -> None:
        await asyncio.sleep(1)
        if host.name == "replica-1":
            host._world.heal = lambda: None  # type: ignore[method-assign]
            host._world.network.cut(
                [("replica-1", other) for other in host._world.names if other != "replica-1"]
            )
        with replica.edit(Sheet, host.name) as sheet:
            sheet.effort += 1

    scenario = Scenario("mute", "", replicas=3, fault_s=3.0, heal_s=5.0, load=None, agents=(mute,))
    outcome = simulate(scenario, 1)
    assert outcome.healed_s is None
    assert {one.invariant for one in outcome.violations} == {"Converged"}


def test_many_replicas_and_few() -> None:
    for replicas in (2, 9):
        scenario = dataclasses.replace(SHORT, replicas=replicas, load=Load(edits=0.5))
        assert simulate(scenario, 4).violations == []


# ---------------------------------------------------------------------- many at once


def test_processes_of_their_own_give_the_same_results_in_order() -> None:
    short = dataclasses.replace(SHORT, fault_s=2.0)
    tasks = [Task(short, seed) for seed in range(4)]
    alone = [one.trace_hash for one in perform(tasks, jobs=1)]
    assert [one.trace_hash for one in perform(tasks, jobs=2)] == alone


# ---------------------------------------------------------------------- the command


def test_the_command_prints_one_object(capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        run(["simulate", "calm", "--seeds", "3:5", "--replicas", "2", "--jobs", "1", "--json"]) == 0
    )
    out = capfd.readouterr().out.splitlines()
    assert len(out) == 1
    found = json.loads(out[0])
    assert set(found) == {
        "scenario", "seeds", "violations", "seconds", "seeds_per_second",
        "simulated_seconds_per_second", "trace_hash", "marks_missed",
    }  # fmt: skip
    assert found["scenario"] == "calm"
    assert found["seeds"] == 2
    assert found["violations"] == []
    assert found["simulated_seconds_per_second"] > 1


def test_the_command_lists(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--list"]) == 0
    out = capfd.readouterr().out
    assert all(name in out for name in (*SCENARIOS, *KINDS, "soak"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "'nonsense' is no scenario; there are calm, partition"),
        (["calm", "--faults", "fire"], "'fire' is no fault; there are all, none, halves"),
        (["calm", "--seeds", "5"], "is no range; write A:B"),
        (["calm", "--seeds", "5:5"], "is no range; write A:B"),
        (["calm", "--only-faults", "x"], "'x' are no numbers"),
        (["calm", "--plant", "weeds"], "'weeds' is no planted bug; there are ack-before-fsync"),
        (["soak"], "give --minutes"),
    ],
)
def test_bad_input_is_named(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["simulate", *arguments]) == 2
    assert message in capfd.readouterr().err


def test_a_soak_ends_in_time_and_says_which_rare_paths_it_never_took(
    capfd: pytest.CaptureFixture[str],
) -> None:
    arguments = ["simulate", "soak", "--minutes", "0.01", "--replicas", "2", "--jobs", "1"]
    assert run([*arguments, "--faults", "none", "--json"]) == 1
    ended = capfd.readouterr()
    found = json.loads(ended.out)
    assert found["seeds"] >= 1
    assert found["violations"] == []
    assert "never taken" in ended.err
    assert MARKS[0] in ended.err


def test_the_rare_paths_are_those_of_the_production_code() -> None:
    files = [*Path("mesh").rglob("*.py"), *Path("persistence").rglob("*.py")]
    found = [
        mark for file in files for mark in re.findall(r'\.sometimes\("(.+)"\)', file.read_text())
    ]
    assert sorted(found) == sorted(MARKS)
