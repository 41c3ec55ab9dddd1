"""The whole demo on a small tree, through the real command line: processes, Temporal, faults."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from crdt.access import ShardView
from crdt.ids import shard_of
from mesh.replica import Replica
from mesh.settings import PeersSettings, Settings
from persistence.identity import provision
from persistence.inspect import load_folder
from simulations.checkers import Acknowledged
from simulations.rehearsal.audit import AUDIT, Fleet
from simulations.rehearsal.heartbeat import STEPS
from simulations.rehearsal.keep import MARKER
from simulations.rehearsal.roles import ROLES
from simulations.rehearsal.verdict import Verdict, judge, tasks_in
from workflows.state import AgentState, WorkflowState, steps_completed

MODULES = 25
KEYS = [
    "files", "agents", "updates", "findings", "acknowledged", "lost", "double_claims", "converged",
    "wall_seconds", "partition", "lost_service", "recovered", "rebuilt", "services",
]  # fmt: skip


def command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("mesh")), "demo", *arguments]


def make_tree(root: Path) -> Path:
    """A package of `MODULES` modules that has something for every role to find."""
    package = root / "pkg"
    (package / "tests").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "broken.py").write_text("def f(:\n")
    (package / "circle.py").symlink_to(package / "circle.py")  # unreadable, for root too
    (package / "tests" / "test_pkg.py").write_text("from pkg.m1 import f1\n")
    for number in range(1, MODULES - 2):
        grave = "return eval(x)" if number % 4 == 0 else "return x"
        (package / f"m{number}.py").write_text(
            f"import os\nfrom pkg import m{number % 22 + 1}\n\n\n"
            f"def f{number}(x, items=[]):\n    try:\n        {grave}\n"
            "    except:\n        pass\n\n\n"
            f"class C{number}:\n    def go(self, size=1): ...\n"
        )
    return root


@dataclass(frozen=True)
class Run:
    """A finished demo."""

    code: int
    outcome: dict[str, Any]
    lines: str
    folder: Path
    tree: Path

    @property
    def agents(self) -> list[Path]:
        return sorted((self.folder / "agents").iterdir())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One demo for all tests that only look at what it left."""
    place = tmp_path_factory.mktemp("demo")
    tree = make_tree(place / "tree")
    done = subprocess.run(
        command(
            "--tree", str(tree), "--agents", "5", "--seed", "3", "--json",
            "--keep", str(place / "kept"), "--partition-seconds", "2",
        ),
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return Run(done.returncode, json.loads(done.stdout), done.stderr, place / "kept", tree)


def test_the_fleet_agrees_and_nothing_is_lost(run: Run) -> None:
    outcome = run.outcome
    assert run.code == 0, run.lines
    assert list(outcome) == KEYS
    assert outcome["converged"] is True
    assert (outcome["lost"], outcome["double_claims"]) == (0, 0)
    assert (outcome["files"], outcome["agents"]) == (MODULES, 5)
    assert outcome["updates"] >= outcome["acknowledged"] > MODULES
    assert list(outcome["services"]) == ["temporal", "sqlite"]
    assert (outcome["lost_service"], outcome["rebuilt"]) == (None, None)


def test_both_faults_happened(run: Run) -> None:
    partition, recovered = run.outcome["partition"], run.outcome["recovered"]
    assert partition["cut"] == ["peers"]
    assert partition["seconds"] >= 2
    assert partition["diverged_documents_max"] > 0
    assert partition["crossed"] == 0
    assert partition["heal_seconds"] > 0
    assert recovered["source"] == "peers"
    assert recovered["agent"] in {path.name for path in run.agents}
    for word in ("PARTITION", "HEALED", "CRASH", "RECOVERED"):
        assert word in run.lines
    meanwhile = run.lines.split("the sides made ")[1].split(" updates")[0]
    assert all(int(count) > 0 for count in meanwhile.split(" and "))


def test_the_recovered_agent_wrote_under_two_sessions(run: Run) -> None:
    victim = run.outcome["recovered"]["agent"]
    folder = load_folder(run.folder / "agents" / victim)
    sessions = {one for frontier in folder.frontier().values() for one in frontier}
    assert sum(folder.author(session) == victim for session in sessions) == 2


def test_all_folders_show_the_same_documents(run: Run) -> None:
    folders = [load_folder(path) for path in run.agents]
    assert len(folders) == 5
    for folder in folders[1:]:
        assert folder.digest() == folders[0].digest()
        assert folder.frontier() == folders[0].frontier()
    tasks = tasks_in(folders[0])
    assert len(tasks) == MODULES
    assert {str(task.machine.value["state"]) for task in tasks.values() if task.machine.value} == {
        "accepted", "rework",
    }  # fmt: skip


def test_agents_and_workflow_say_that_they_are_done(run: Run) -> None:
    folder = load_folder(run.agents[0])
    documents = {
        document: ShardView(shard)
        for shard in folder.shards.values()
        for document in shard.documents()
    }
    for path in run.agents:
        name = f"AgentState/{path.name}"
        agent = AgentState.bind(documents[name], name)
        assert (agent.status, agent.progress) == ("completed", 1.0)
    name = f"WorkflowState/{AUDIT}"
    workflow = WorkflowState.bind(documents[name], name)
    assert workflow.status == "completed"
    assert steps_completed(workflow) == list(STEPS)
    name = f"Fleet/{AUDIT}"
    fleet = Fleet.bind(documents[name], name)
    assert set(fleet.parts) == set(ROLES)


def test_a_broken_and_an_unreadable_file_are_one_finding_each(run: Run) -> None:
    tasks = tasks_in(load_folder(run.agents[0]))
    for name, rule in (("pkg/broken.py", "syntax-error"), ("pkg/circle.py", "unreadable")):
        (finding,) = tasks[name].findings.values()
        assert finding["rule"] == rule


def test_the_report_and_the_stubs_are_there(run: Run) -> None:
    text = (run.folder / "report.md").read_text()
    assert f"{MODULES} modules" in text
    assert "`pkg/m4.py:7` eval() runs computed text as code (security-analyst)" in text
    assert "pkg/tests" not in text
    assert f"Audit of {MODULES} modules, as it went on:" in text
    stub = (run.folder / "stubs" / "pkg" / "m1.pyi").read_text()
    assert "def go(self, size: int = ...)" in stub
    assert (run.folder / MARKER).exists()


def judged(run: Run, tmp_path: Path, **changes: Any) -> Verdict:
    facts: dict[str, Any] = {
        "promises": [], "marks": [], "modules": ["pkg/m1.py"], "report_into": tmp_path,
    }  # fmt: skip
    return asyncio.run(judge(run.agents, **{**facts, **changes}))


def test_the_verdict_on_real_folders_catches_planted_faults(run: Run, tmp_path: Path) -> None:
    frontier = load_folder(run.agents[0]).frontier()
    shard = shard_of("Task/pkg/m1.py", len(frontier))
    session, seq = max(frontier[shard].items(), key=lambda pair: pair[1])
    honest = [Acknowledged(session, shard, seq)]
    good = judged(run, tmp_path / "a", promises=honest)
    assert good.good
    bad = judged(
        run,
        tmp_path / "b",
        promises=[*honest, Acknowledged(session, shard, seq + 2)],
        marks=[("pkg/m1.py", "invented:1:0")],
        modules=["pkg/m1.py", "pkg/never_seen.py"],
    )
    assert bad.lost == 5 * 2 + 5
    assert bad.converged
    assert any("which is not final" in problem for problem in bad.problems)


def test_a_damaged_folder_is_a_problem_not_a_crash(run: Run, tmp_path: Path) -> None:
    damaged = tmp_path / run.agents[0].name
    shutil.copytree(run.agents[0], damaged)
    (damaged / "journal.sqlite").write_bytes(b"\0" * 4096)
    folders = [*run.agents[1:], damaged]
    verdict = asyncio.run(judge(folders, [], [], ["pkg/m1.py"], tmp_path / "report"))
    assert not verdict.converged
    assert verdict.problems[0].startswith(f"{damaged.name}: its folder cannot be read: ")


def test_what_was_rebuilt_has_to_be_what_the_agents_have(run: Run, tmp_path: Path) -> None:
    same, other = tmp_path / "same", tmp_path / "other"
    shutil.copytree(run.agents[-1], same)
    assert judged(run, tmp_path / "a").rebuilt is None
    equal = judged(run, tmp_path / "b", rebuilt=same)
    assert (equal.rebuilt, equal.good) == (True, True)
    asyncio.run(empty_replica(run.folder / "mesh", other))
    lacking = judged(run, tmp_path / "c", rebuilt=other)
    assert (lacking.rebuilt, lacking.converged, lacking.good) == (False, True, False)
    assert lacking.problems[0].startswith("rebuilt from log and checkpoints: shard ")
    shutil.copy(run.folder / MARKER, same / "journal.sqlite")
    unreadable = judged(run, tmp_path / "d", rebuilt=same)
    assert (unreadable.rebuilt, unreadable.good) == (False, False)


async def empty_replica(authority: Path, folder: Path) -> None:
    provision(authority, folder, "rebuilt")
    settings = Settings(peers=PeersSettings(listen=""))
    async with Replica.open(folder, settings=settings):
        pass


def test_what_went_wrong_on_the_way_counts(run: Run, tmp_path: Path) -> None:
    verdict = judged(run, tmp_path / "a", problems=["no update was made"])
    assert (verdict.good, verdict.converged) == (False, True)
    assert verdict.problems == ("no update was made",)


async def test_no_reader_outlives_an_interrupted_verdict(run: Run, tmp_path: Path) -> None:
    """One that did would write the report into a folder that is being cleared away."""
    judging = asyncio.create_task(judge(run.agents, [], [], [], tmp_path))
    while not multiprocessing.active_children():  # noqa: ASYNC110 - nothing tells of a start
        await asyncio.sleep(0)
    judging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await judging
    assert multiprocessing.active_children() == []


# ------------------------------------------------------------------ ends before the end


@contextlib.contextmanager
def running(
    tree: Path, keep: Path, *more: str, agents: int = 3
) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A demo that has come as far as having agents; and the process ids of all it started."""
    process = subprocess.Popen(
        command("--tree", str(tree), "--agents", str(agents), "--keep", str(keep), *more),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "all agents are up" in line:
                break
        yield process, descendants(process.pid)
    finally:
        process.kill()
        process.communicate()


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.extend(below)
        waiting.extend(below)
    return found


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def assert_ends(pid: int, seconds: float) -> None:
    """Wait until a process that is not our child is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        readable, _, _ = select.select([descriptor], [], [], seconds)
        assert readable, f"process {pid} still runs"
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process_and_no_folder(
    tmp_path: Path, how: signal.Signals
) -> None:
    tree = make_tree(tmp_path / "tree")
    with running(tree, tmp_path / "kept") as (process, children):
        assert len(children) >= 5  # three agents, a worker, Temporal
        process.send_signal(how)
        process.send_signal(signal.SIGINT)  # an impatient second one changes nothing
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 130, output
        for child in children:
            assert_ends(child, 10)
    assert "interrupted" in output
    assert "Traceback" not in output
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_a_killed_demo_leaves_no_process(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    with running(tree, tmp_path / "kept") as (process, children):
        process.kill()
        process.communicate(timeout=60)
        for child in children:
            assert_ends(child, 20)
    assert not (tmp_path / "kept").exists()


def test_a_file_added_while_the_fleet_works_is_not_audited(tmp_path: Path) -> None:
    """Least of all by the agent that comes back after it was added: the others don't know it.

    Of two agents the one that is killed is the one that makes the tasks.
    """
    tree = make_tree(tmp_path / "tree")
    with running(tree, tmp_path / "kept", agents=2) as (process, _):
        (tree / "added.py").write_text("def f(x): pass\n")
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert "CRASH: requirements-analyst" in output
    assert "added.py" not in tasks_in(
        load_folder(tmp_path / "kept" / "agents" / "requirements-analyst")
    )


def test_without_temporal_the_fleet_goes_on_until_only_decisions_are_missing(
    tmp_path: Path,
) -> None:
    tree = make_tree(tmp_path / "tree")
    with running(tree, tmp_path / "kept") as (process, children):
        (temporal,) = (pid for pid in children if b"start-dev" in command_line(pid))
        os.kill(temporal, signal.SIGKILL)
        output, _ = process.communicate(timeout=100)
        assert process.returncode == 1, output
    assert "Temporal has ended: agents go on with all that commutes" in output
    assert f" of {MODULES} modules final; logs: " in output.splitlines()[-1]
    shutil.rmtree(Path(output.rpartition("logs: ")[2].strip()).parent)
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_what_the_system_refuses_is_one_line(tmp_path: Path) -> None:
    """A process that may open few files: nothing can be started."""
    tree = make_tree(tmp_path / "tree")
    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 40; exec "$@"', "sh", *command("--tree", str(tree))],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: [Errno 24] Too many open files")
    assert len(done.stderr.strip().splitlines()) == 1
    if "logs: " in done.stderr:
        shutil.rmtree(Path(done.stderr.rpartition("logs: ")[2].strip()).parent)
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--agents", "0"], "--agents 0: a fleet has 2 to"),
        (["--agents", "-3"], "--agents -3"),
        (["--tree", "nowhere"], "there is no such folder"),
        (["--tree", "empty"], "no Python file"),
        (["--keep", "taken"], "not a demo's"),
        (["--keep", "no/such/place"], "there is no folder"),
        (["--keep", "a" * 250], "File name too long"),
        (["--tree", "a" * 300], "File name too long"),
        (["--stack", "--lose", "rabbit"], "choose one of redis, kafka, postgres, temporal"),
        (["--lose", "rabbit"], "choose one of redis, kafka, postgres, temporal"),
        (["--lose", "temporal"], "--lose temporal needs --stack"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_changes_nothing(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("x")
    done = subprocess.run(
        command(*arguments), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "taken"]
    assert list((tmp_path / "taken").iterdir()) == [tmp_path / "taken" / "file"]
