"""The demo over the full stack, on a small tree: four real servers, one of them lost on the way."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from persistence.inspect import load_folder
from simulations.rehearsal.fleet import total, union

from .test_demo import MODULES, Run, assert_ends, command, command_line, make_tree, running

AGENTS = 3
# Where the servers' programs are fetched for the first time, that takes its time.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One demo for all tests that only look at what it left."""
    place = tmp_path_factory.mktemp("demo-stack")
    tree = make_tree(place / "tree")
    done = subprocess.run(
        command(
            "--stack", "--lose", "redis", "--tree", str(tree), "--agents", str(AGENTS), "--json",
            "--seed", "3", "--keep", str(place / "kept"), "--partition-seconds", "2",
        ),
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return Run(done.returncode, json.loads(done.stdout), done.stderr, place / "kept", tree)


def test_the_fleet_agrees_and_nothing_is_lost(run: Run) -> None:
    outcome = run.outcome
    assert run.code == 0, run.lines
    assert outcome["converged"] is True
    assert (outcome["lost"], outcome["double_claims"]) == (0, 0)
    assert (outcome["files"], outcome["agents"]) == (MODULES, AGENTS)


def test_every_service_tells_its_version(run: Run) -> None:
    services = run.outcome["services"]
    assert list(services) == ["redis", "kafka", "postgres", "temporal", "sqlite"]
    for name, product in (
        ("redis", "Valkey|Redis"), ("kafka", "Apache Kafka"), ("postgres", "PostgreSQL"),
    ):  # fmt: skip
        assert re.fullmatch(rf"({product}) \d+(\.\d+)+", services[name])
    assert re.fullmatch(r"\d+(\.\d+)+", services["temporal"])


def test_the_partition_cuts_the_way_over_the_services_too(run: Run) -> None:
    partition = run.outcome["partition"]
    assert partition["cut"] == ["peers", "redis", "kafka", "postgres"]
    assert partition["diverged_documents_max"] > 0
    assert partition["crossed"] == 0


def test_the_lost_service_was_noticed_stopped_nobody_and_came_back(run: Run) -> None:
    lost = run.outcome["lost_service"]
    assert list(lost) == ["name", "seconds", "noticed_by", "updates_meanwhile", "back_seconds"]
    assert (lost["name"], lost["noticed_by"]) == ("redis", AGENTS)
    assert lost["seconds"] >= 10
    assert lost["updates_meanwhile"] > 0
    assert lost["back_seconds"] > 0
    order = [run.lines.index(word) for word in ("HEALED", "LOST: redis", "BACK: redis", "CRASH")]
    assert order == sorted(order)


def test_it_says_where_the_lost_agents_state_came_from(run: Run) -> None:
    sources = run.outcome["recovered"]["source"].split(" + ")
    assert len(set(sources)) == len(sources)
    assert {*sources} <= {"peers", "bus", "log", "checkpoints"}


def test_log_and_checkpoints_alone_give_all_there_is(run: Run) -> None:
    rebuilt = run.outcome["rebuilt"]
    assert rebuilt["equal"] is True
    # Of all agents together: who leaves last signs off where the first no longer listens.
    assert rebuilt["operations"] == total(
        union([load_folder(path).frontier() for path in run.agents])
    )
    assert {*rebuilt["source"].split(" + ")} <= {"log", "checkpoints"}


def test_of_the_servers_only_their_logs_stay(run: Run) -> None:
    names = {path.name for path in run.folder.iterdir()}
    assert not {"stack", "rebuilt"} & names
    logs = {path.name for path in (run.folder / "logs").iterdir()}
    assert {"redis.log", "kafka.log", "postgres.log", "temporal.log", "worker.log"} <= logs
    assert len({tuple(load_folder(path).digest().items()) for path in run.agents}) == 1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_however_the_demo_is_ended_no_server_outlives_it(
    tmp_path: Path, how: signal.Signals
) -> None:
    tree = make_tree(tmp_path / "tree")
    with running(tree, tmp_path / "kept", "--stack", agents=2) as (process, children):
        assert len(children) >= 7  # two agents, a worker, four servers
        process.send_signal(how)
        output, _ = process.communicate(timeout=90)
        assert process.returncode == (130 if how == signal.SIGINT else -how), output
        for child in children:
            assert_ends(child, 20)
    assert "Traceback" not in output
    if how == signal.SIGINT:
        assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_a_server_that_dies_by_itself_ends_the_run_with_one_line(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    with running(tree, tmp_path / "kept", "--stack", agents=2) as (process, children):
        (redis,) = (
            pid for pid in children if re.search(rb"valkey|redis-server", command_line(pid))
        )
        os.kill(redis, signal.SIGKILL)
        output, _ = process.communicate(timeout=90)
        assert process.returncode == 1, output
        for child in children:
            assert_ends(child, 20)
    last = output.splitlines()[-1]
    assert last.startswith("error: redis ended by itself (")
    assert "Traceback" not in output
    logs = Path(last.rpartition("logs: ")[2])
    assert (logs / "redis.log").exists()
    shutil.rmtree(logs.parent)
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]
