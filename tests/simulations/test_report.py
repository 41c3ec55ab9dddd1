"""The page about one run: watching changes nothing, its numbers are the run's, and a browser shows
them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mesh.cli import run
from mesh.replica import Replica
from persistence.base import FrameRecord
from simulations.batch import Task, perform_one
from simulations.planted.plants import planted
from simulations.report.page import figures, write_report
from simulations.report.recording import (
    BUCKETS,
    CUT,
    DOWN,
    LINES,
    PARTLY,
    PAUSED,
    UP,
    Recording,
    watch,
)
from simulations.run import START_S, Outcome, simulate
from simulations.scenarios.ready import SCENARIOS, Scenario
from simulations.world import Host, World
from tests.simulations.browser import show

COMMAND = "mesh simulate swarm --seed 1 & <more>"
SWARM = dataclasses.replace(SCENARIOS["swarm"], kinds=("pause", "power", "halves", "isolate"))


@pytest.fixture(scope="module")
def task() -> Task:
    """A seed in which all these kinds of faults happen."""
    for seed in range(50):
        kinds = {one.kind for one in simulate(SWARM, seed).plan.values()}
        if len(kinds) == len(SWARM.kinds):
            return Task(SWARM, seed)
    raise AssertionError("no such seed")


@pytest.fixture(scope="module")
def outcome(task: Task) -> Outcome:
    return perform_one(task)


@pytest.fixture(scope="module")
def seen(task: Task, outcome: Outcome) -> Recording:
    return watch(task, outcome)


def embedded(page: Path) -> dict[str, Any]:
    text = page.read_text("utf-8").partition('id="data">')[2].partition("</script>")[0]
    found: dict[str, Any] = json.loads(text)
    return found


# ---------------------------------------------------------------------- watching


@pytest.mark.parametrize("scenario", ["partition", "swarm"])
def test_watching_changes_nothing(scenario: str) -> None:
    for seed in (1, 2):
        outcome = simulate(SCENARIOS[scenario], seed)
        seen = watch(Task(SCENARIOS[scenario], seed), outcome)
        assert seen.trace_hash == outcome.trace_hash


def test_what_is_counted_is_what_happened(task: Task, outcome: Outcome, seen: Recording) -> None:
    worlds: list[World] = []
    own: list[FrameRecord] = []
    sent: list[tuple[int, int]] = []

    def attach(world: World) -> None:
        worlds.append(world)
        world.watchers.append(lambda _, frames: own.extend(one for one in frames if one.own))

    def count(world: World) -> None:
        sent.append((world.network.messages, world.network.bytes))

    simulate(dataclasses.replace(task.scenario, invariants=(count,)), task.seed, watch=attach)
    world = worlds[0]
    assert (seen.messages, seen.bytes) == sent[0]
    assert seen.messages > 100
    assert seen.events == world.trace.events > 0
    assert seen.frames == len(own) > 0
    assert list(seen.lanes) == world.names
    assert {one.number: one.fault for one in seen.bars} == outcome.plan
    for bar in seen.bars:
        assert bar.begin == pytest.approx(START_S + bar.fault.t, abs=1e-6)
        assert bar.end == pytest.approx(START_S + bar.fault.until, abs=1e-6)


def test_what_is_kept_is_bounded_however_long_the_run(seen: Recording) -> None:
    short = Task(dataclasses.replace(SWARM, fault_s=2.0, quiet_s=0.5, replicas=2), 1)
    for one in (seen, watch(short, simulate(short.scenario, 1))):
        for values in (one.flying, one.held, one.different, one.apart):
            assert len(values) == BUCKETS
        for lane in one.lanes.values():
            assert len(lane.states) == len(lane.lag) == BUCKETS


def test_lanes_say_who_was_down_paused_and_cut_off(seen: Recording) -> None:
    shown = {state for lane in seen.lanes.values() for state, _ in lane.states}
    assert {UP, CUT, PAUSED, DOWN} <= shown
    for bar in seen.bars:
        first = int(bar.begin / seen.width_s) + 1
        last = int(bar.end / seen.width_s) - 1
        if first >= last:
            continue
        for name in bar.fault.targets if bar.fault.kind == "power" else ():
            # A later fault may start it, or pause it, earlier.
            assert DOWN in [state for state, _ in seen.lanes[name].states[first : last + 1]]
    for lane in seen.lanes.values():
        assert lane.states[-1] == (UP, "")
        # Who is not up is not behind: nobody asks it.
        asked = zip(lane.states, lane.lag, strict=True)
        assert not {state for (state, _), lag in asked if lag is None} & {UP, PARTLY, CUT}


def test_a_cut_off_replica_names_those_it_does_not_reach_and_falls_behind() -> None:
    scenario = dataclasses.replace(SCENARIOS["partition"], kinds=("isolate",))
    outcome = simulate(scenario, 3)
    seen = watch(Task(scenario, 3), outcome)
    bar = max(seen.bars, key=lambda one: one.end - one.begin)
    (alone,) = set.intersection(*(set(way.split(">")) for way in bar.fault.targets))
    middle = int((bar.begin + bar.end) / 2 / seen.width_s)
    others = ", ".join(name for name in seen.lanes if name != alone)
    assert seen.lanes[alone].states[middle] == (CUT, others)
    assert max(lag or 0 for lag in seen.lanes[alone].lag) > 0
    assert max(seen.held) > 0
    assert max(seen.flying) > 0
    assert max(seen.different) > 1
    assert max(seen.apart) >= max(lag or 0 for lane in seen.lanes.values() for lag in lane.lag)


def test_in_the_end_all_agree_and_nothing_is_held(seen: Recording) -> None:
    assert seen.different[-1] == 1
    assert seen.apart[-1] == seen.held[-1] == seen.flying[-1] == 0
    assert {lane.lag[-1] for lane in seen.lanes.values()} == {0}


def test_what_came_before_a_violation_is_kept() -> None:
    with planted("lost-remove"):
        runs = (simulate(SCENARIOS["swarm"], seed) for seed in range(20))
        outcome = next(one for one in runs if one.violations)
    seen = watch(Task(SCENARIOS["swarm"], outcome.seed, plant="lost-remove"), outcome)
    assert seen.trace_hash == outcome.trace_hash
    assert len(seen.before) == len(outcome.violations) > 0
    for violation, lines in zip(outcome.violations, seen.before, strict=True):
        assert 0 < len(lines) <= LINES
        times = [float(line.split()[0]) for line in lines]
        assert times == sorted(times)
        assert times[-1] <= violation.at + 1e-6  # as they are rounded
    refused = next(
        index for index, one in enumerate(outcome.violations) if one.invariant == "NothingRefused"
    )
    assert any("digest.mismatch" in line for line in seen.before[refused])


# ---------------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def page(task: Task, outcome: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "r.html"
    write_report(path, task, outcome, COMMAND)
    return path


def test_the_numbers_in_the_page_are_the_runs(
    page: Path, task: Task, outcome: Outcome, seen: Recording
) -> None:
    data = embedded(page)
    assert data == json.loads(json.dumps(figures(task, outcome, seen, COMMAND)))
    assert data["seconds"] == pytest.approx(outcome.seconds, abs=0.001)
    assert data["healed"] == outcome.healed_s
    assert data["trace_hash"] == outcome.trace_hash
    assert data["same"]
    assert {kind: times for kind, times, _ in data["counts"]} == dict(outcome.counts)
    for name, lane in data["lanes"].items():
        starts = [*lane["states"], [BUCKETS, 0, ""]]
        spread = [
            (state, whom)
            for (begin, state, whom), (end, _, _) in pairwise(starts)
            for _ in range(begin, end)
        ]
        assert spread == seen.lanes[name].states


def test_a_browser_shows_the_numbers_of_the_run(
    page: Path, outcome: Outcome, seen: Recording, tmp_path: Path
) -> None:
    shown = show(page, tmp_path)
    assert shown.number("replicas") == len(seen.lanes)
    assert shown.number("faultcount") == len(outcome.plan)
    assert shown.number("frames") == seen.frames
    assert shown.number("messages") == seen.messages
    assert shown.number("eventcount") == seen.events
    assert shown.number("seconds") == pytest.approx(outcome.seconds, abs=0.001)
    assert shown.number("healed") == pytest.approx(outcome.healed_s, abs=0.06)
    assert shown.text["verdict"] == "held"
    (warning,) = [one for one in shown.elements if one.get("id") == "differs"]
    assert "hidden" in warning
    assert shown.text["title"] == f"swarm, seed {outcome.seed}"
    assert shown.text["command"] == COMMAND
    assert "violated" not in {one.get("class") for one in shown.elements}
    numbers = {int(one["data-fault"]) for one in shown.of_class("fault")}
    assert numbers == set(outcome.plan)
    assert [one["data-name"] for one in shown.of_class("lane")] == list(seen.lanes)
    assert all(name in shown.text["chart"] for name in seen.lanes)
    for fault in outcome.plan.values():
        assert fault.kind in shown.text["faults"]
    for kind in outcome.counts:
        assert kind in shown.text["events"]


def test_a_browser_says_what_is_under_the_pointer_and_zooms(page: Path, tmp_path: Path) -> None:
    number = embedded(page)["faults"][0]["number"]
    script = f"""<script>{{
    const point = (kind, x, y, on) => on.dispatchEvent(new PointerEvent(kind, {{
        clientX: x, clientY: y, bubbles: true, button: 0}}));
    const bar = document.querySelector('[data-fault="{number}"]');
    const box = bar.getBoundingClientRect();
    point("pointermove", box.x + 1, box.y + 1, bar);
    const told = document.createElement("p");
    told.id = "told";
    told.textContent = document.getElementById("tip").textContent;
    document.body.append(told);
    const plot = document.getElementById("chart"), left = plot.getBoundingClientRect().left;
    point("pointerdown", left + 200, box.y, plot);
    point("pointermove", left + 700, box.y, plot);
    point("pointerup", left + 700, box.y, plot);
    }}</script>"""
    touched = tmp_path / "touched.html"
    touched.write_text(page.read_text("utf-8").replace("</body>", script + "</body>"), "utf-8")
    shown = show(touched, tmp_path / "profile")
    fault = embedded(page)["faults"][0]
    assert f"#{number} {fault['kind']}" in shown.text["told"]
    assert fault["meaning"] in shown.text["told"]
    (whole,) = [one for one in shown.elements if one.get("id") == "whole"]
    assert "hidden" not in whole


def test_a_browser_marks_what_did_not_hold(tmp_path: Path) -> None:
    tasks = (Task(SCENARIOS["swarm"], seed, plant="lost-remove") for seed in range(20))
    outcomes = ((task, perform_one(task)) for task in tasks)
    task, outcome = next(found for found in outcomes if found[1].violations)
    page = tmp_path / "r.html"
    write_report(page, task, outcome, COMMAND)
    shown = show(page, tmp_path / "profile")
    assert shown.text["verdict"] == "not held"
    for violation in outcome.violations:
        assert violation.message in shown.text["violations"]
    assert outcome.violations[0].message in shown.text["first"]
    assert outcome.violations[0].invariant in shown.text["chart"]
    assert len(shown.of_class("violated")) == len({one.at for one in outcome.violations})


def test_words_of_the_run_are_no_part_of_the_page(page: Path) -> None:
    """What an agent's exception says may be anything; the page stays what it is."""
    text = page.read_text("utf-8")
    assert "<more>" not in text
    assert text.count("</script>") == 2
    assert text.count("http") == text.count("http-equiv")
    assert "default-src 'none'" in text


def test_a_run_that_ends_early_is_drawn_as_far_as_it_came(tmp_path: Path) -> None:
    async def escapes(host: Host, replica: Replica) -> None:
        del host, replica
        await asyncio.sleep(1.5)
        await asyncio.open_connection("127.0.0.1", 9)

    scenario = Scenario("escape", "</script>", replicas=2, fault_s=4.0, agents=(escapes,))
    task = Task(scenario, 1)
    outcome = perform_one(task)
    assert [one.invariant for one in outcome.violations] == ["Escaped"]
    write_report(tmp_path / "r.html", task, outcome, COMMAND)
    shown = show(tmp_path / "r.html", tmp_path / "profile")
    assert shown.text["healed"] == "never"
    assert shown.text["meaning"] == "</script>"
    assert shown.number("seconds") == pytest.approx(outcome.seconds, abs=0.001)
    assert "Escaped" in shown.text["chart"]


def test_a_seed_that_differs_from_itself_is_not_passed_off_as_the_one_judged(
    tmp_path: Path,
) -> None:
    draws = iter(range(100))

    async def unsteady(host: Host, replica: Replica) -> None:
        del replica
        await asyncio.sleep(1 + next(draws) / 100)
        host.tell("replica.closed")

    task = Task(Scenario("unsteady", "", replicas=2, fault_s=3.0, agents=(unsteady,)), 1)
    write_report(tmp_path / "r.html", task, perform_one(task), COMMAND)
    shown = show(tmp_path / "r.html", tmp_path / "profile")
    (warning,) = [one for one in shown.elements if one.get("id") == "differs"]
    assert "hidden" not in warning


def test_a_browser_that_is_missing_fails_the_test_and_names_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.fail.Exception, match="make system"):
        show(tmp_path / "r.html", tmp_path)


# ---------------------------------------------------------------------- the command


def hash_of(out: str) -> str:
    found: str = json.loads(out.splitlines()[-1])["trace_hash"]
    return found


def test_the_command_draws_the_last_seed_and_the_run_is_the_same(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "r.html"
    arguments = ["simulate", "calm", "--replicas", "2", "--jobs", "1", "--json"]
    assert run([*arguments, "--seeds", "3:5", "--report", str(page)]) == 0
    with_report = hash_of(capfd.readouterr().out)
    assert run([*arguments, "--seeds", "3:5"]) == 0
    assert hash_of(capfd.readouterr().out) == with_report
    assert run([*arguments, "--seed", "4"]) == 0
    data = embedded(page)
    assert data["trace_hash"] == hash_of(capfd.readouterr().out)
    assert (data["scenario"], data["seed"], data["verdict"]) == ("calm", 4, "held")
    assert data["command"] == "mesh simulate calm --replicas 2 --seed 4"


def test_the_command_draws_the_first_failing_seed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "r.html"
    arguments = ["simulate", "swarm", "--plant", "lost-remove", "--jobs", "1"]
    assert run([*arguments, "--seeds", "0:3", "--report", str(page), "--json"]) == 1
    ended = capfd.readouterr()
    first = json.loads(ended.out)["violations"][0]
    data = embedded(page)
    assert data["verdict"] == "not held"
    assert data["seed"] == first["seed"]
    assert data["command"] == first["command"] == ended.err.splitlines()[-1]
    assert data["violations"][0]["message"] == first["message"]


@pytest.mark.parametrize(
    ("place", "reason"), [("none/r.html", "no such file or directory"), (".", "is a directory")]
)
def test_a_place_that_cannot_be_written_is_named_before_any_seed_runs(
    place: str, reason: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / place
    assert run(["simulate", "calm", "--seeds", "0:100000", "--report", str(path)]) == 2
    assert f"--report {path}: {reason}; name a file" in capfd.readouterr().err
