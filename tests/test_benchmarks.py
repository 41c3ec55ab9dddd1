"""The benchmarks' harness, with benchmarks that measure nothing; and one real run, a short one."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import benchmarks.__main__ as program
from benchmarks import harness, report
from benchmarks.harness import (
    Aim,
    BenchmarkError,
    Figure,
    Run,
    latencies,
    latency_figures,
    percentile,
    succeeded,
    summary,
)
from benchmarks.pace import UPDATE_BYTES, age, paced, stamped
from crdt.paths import TypeCode

ROOT = Path(__file__).resolve().parent.parent
QUICK_S = 90
NAMES = {
    TypeCode.BOUNDED: "BoundedCounter",
    TypeCode.MAP: "Map of Registers",
    TypeCode.MULTIVALUE: "MultiValue",
}
ROW = {"figure", "unit", "ours", "bare", "peer", "ratio", "aim", "met"}


def side(name: str, turns: list[str], *values: float, figure: str = "x") -> harness.Side:
    """A side that notes its turns and gives these values, round by round."""
    left = list(values)

    async def one_round() -> Mapping[str, float]:
        turns.append(name)
        return {figure: left.pop(0)}

    return one_round


def constant(**values: float) -> harness.Side:
    async def one_round() -> Mapping[str, float]:
        return values

    return one_round


def new_run(folder: Path, rounds: int = 3, *, quick: bool = False) -> Run:
    return Run(folder, rounds, quick)


# ------------------------------------------------------------------------------------ comparing


async def test_sides_take_turns_in_alternating_order(tmp_path: Path) -> None:
    turns: list[str] = []
    run = new_run(tmp_path)
    await run.compare(
        [Figure("x", "s")],
        ours=side("A", turns, 1, 1, 1, 1), bare=side("B", turns, 1, 1, 1, 1),
    )  # fmt: skip
    assert "".join(turns) == "ABBAABBA", "a warm-up and three rounds"


async def test_rows_are_medians_without_the_warm_up(tmp_path: Path) -> None:
    run, turns = new_run(tmp_path), list[str]()
    await run.compare(
        [Figure("x", "s")],
        ours=side("A", turns, 1e9, 9, 3, 1), bare=side("B", turns, 1e9, 2, 5, 1),
        peer=side("C", turns, 1e9, 7, 7, 8),
    )  # fmt: skip
    (row,) = run.rows
    assert (row.figure, row.unit) == ("x", "s")
    assert (row.ours, row.bare, row.peer) == (3, 2, 7)
    assert (row.ratio, row.aim, row.met) == (1.5, None, None), "the ratio is that to the driver"


async def test_what_there_is_none_of_is_none(tmp_path: Path) -> None:
    run = new_run(tmp_path, 1)
    figures = [Figure("x", "s"), Figure("y", "s")]
    await run.compare(figures, ours=constant(x=1, y=2), peer=constant(y=4))
    x, y = run.rows
    assert (x.bare, x.peer, x.ratio) == (None, None, None)
    assert (y.bare, y.peer, y.ratio) == (None, 4, 0.5), "without a driver the ratio is to the peer"


@pytest.mark.parametrize(
    ("aim", "text", "met"),
    [
        (Aim("ours", "<", 3), "< 3", False),
        (Aim("ours", "<=", 3), "<= 3", True),
        (Aim("ours", ">=", 50_000), ">= 50000", False),
        (Aim("ratio", "<=", 1.5), "ratio <= 1.5", True),
        (Aim("ratio", ">", 1.5), "ratio > 1.5", False),
    ],
)
async def test_an_aim_is_met_or_not(tmp_path: Path, aim: Aim, text: str, met: bool) -> None:
    run = new_run(tmp_path, 1)
    await run.compare([Figure("x", "s", aim)], ours=constant(x=3), bare=constant(x=2))
    (row,) = run.rows
    assert (row.aim, row.met) == (text, met)
    assert succeeded(summary("fake", run.rows)) is met


async def test_an_aim_that_cannot_be_judged_is_not_met(tmp_path: Path) -> None:
    run = new_run(tmp_path, 1)
    await run.compare([Figure("x", "s", Aim("ratio", "<=", 2))], ours=constant(x=3))
    assert run.rows[0].met is False


@pytest.mark.parametrize(("bound", "met"), [(1.5, True), (1.6, False)])
async def test_a_row_may_have_two_aims(tmp_path: Path, bound: float, met: bool) -> None:
    run = new_run(tmp_path, 1)
    figure = Figure("x", "/s", Aim("ours", ">=", 3), Aim("ratio", ">=", bound))
    await run.compare([figure], ours=constant(x=3), peer=constant(x=2))
    assert (run.rows[0].aim, run.rows[0].met) == (f">= 3, ratio >= {bound}", met)


async def test_a_round_that_hangs_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "ROUND_S", 0.01)

    async def hang() -> Mapping[str, float]:
        await asyncio.Event().wait()
        return {}

    with pytest.raises(BenchmarkError, match="bare of 'x' took more than"):
        await new_run(tmp_path).compare([Figure("x", "s")], ours=constant(x=1), bare=hang)


async def test_figures_are_those_announced(tmp_path: Path) -> None:
    run, figures = new_run(tmp_path, 1), [Figure("x", "s")]
    with pytest.raises(BenchmarkError, match=r"\['z'\], which is no figure"):
        await run.compare(figures, ours=constant(x=1, z=1))
    with pytest.raises(BenchmarkError, match="'x' was announced and not measured"):
        await run.compare(figures, ours=constant(), bare=constant(x=1))
    assert not run.rows


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert percentile([7.0], 0.99) == percentile([7.0], 0.0) == 7.0
    measured = latencies("ping", [value / 1_000 for value in values])
    assert measured == {"ping, p50": 50.0, "ping, p99": 99.0}
    assert [figure.name for figure in latency_figures("ping")] == list(measured)


async def test_sending_keeps_its_pace() -> None:
    sent: list[tuple[int, float]] = []
    loop = asyncio.get_running_loop()

    async def send(number: int) -> None:
        sent.append((number, loop.time()))

    await paced(20, 200, send)
    assert [number for number, _ in sent] == list(range(20))
    assert sent[-1][1] - sent[0][1] >= 19 / 200 - 0.01, "not all at once"


def test_an_update_tells_its_age() -> None:
    update = stamped()
    assert len(update) == UPDATE_BYTES
    first, second = age(update), age(update.encode())
    assert 0 <= first <= second < 10, "time goes on, in seconds"


# ------------------------------------------------------------------------------------ the program


Measure = Callable[[Run], Awaitable[None]]


@pytest.fixture
def benchmark_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Measure], None]:
    """Makes a coroutine the benchmark `fake`."""

    def install(measure: Measure) -> None:
        module = ModuleType("benchmarks.fake")
        module.__dict__["measure"] = measure
        monkeypatch.setitem(sys.modules, "benchmarks.fake", module)
        monkeypatch.setattr(program, "BENCHMARKS", {"fake": "measures nothing"})
        monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))

    return install


def call(*arguments: str) -> Result:
    return CliRunner().invoke(program.make_app(), arguments)


def measuring(aim: Aim | None, seen: list[Run] | None = None) -> Measure:
    async def measure(run: Run) -> None:
        if seen is not None:
            seen.append(run)
        await run.compare([Figure("x", "s", aim)], ours=constant(x=2), bare=constant(x=1))

    return measure


def test_json_is_one_object(benchmark_of: Callable[[Measure], None]) -> None:
    benchmark_of(measuring(None))
    result = call("fake", "--json")
    assert result.exit_code == 0
    found: dict[str, Any] = json.loads(result.stdout)
    assert list(found) == ["name", "machine", "rows"]
    assert found["name"] == "fake"
    assert list(found["machine"]) == ["cpu", "cores", "python", "os"]
    assert all(found["machine"].values())
    assert [set(row) for row in found["rows"]] == [ROW]
    assert found["rows"][0] == {
        "figure": "x", "unit": "s", "ours": 2, "bare": 1, "peer": None, "ratio": 2,
        "aim": None, "met": None,
    }  # fmt: skip
    assert "round 5 of 5: ours 2; bare 1" in result.stderr, "progress does not mix with the result"


@pytest.mark.parametrize(("bound", "code"), [(2, 0), (1.9, 1)])
def test_the_exit_code_says_whether_aims_are_met(
    benchmark_of: Callable[[Measure], None], bound: float, code: int
) -> None:
    benchmark_of(measuring(Aim("ratio", "<=", bound)))
    assert call("fake").exit_code == code


@pytest.mark.parametrize("name", ["", "nonsense"])
def test_an_unknown_name_lists_those_there_are(name: str) -> None:
    result = call(*([name] if name else []))
    assert result.exit_code == 2
    assert name in result.stderr
    assert "services" in result.stderr


def test_rounds_and_quick_reach_the_benchmark(benchmark_of: Callable[[Measure], None]) -> None:
    seen: list[Run] = []
    benchmark_of(measuring(None, seen))
    call("fake")
    call("fake", "--quick")
    call("fake", "--quick", "--rounds", "2")
    call("fake", "--entries", "7")
    assert [run.entries for run in seen] == [0, 0, 0, 7]
    assert [(run.rounds, run.quick, run.size(100, 1)) for run in seen[:3]] == [
        (5, False, 100), (1, True, 1), (2, True, 1),
    ]  # fmt: skip
    assert not any(run.folder.exists() for run in seen), "its folder goes with it"
    assert call("fake", "--rounds", "0").exit_code == 2


def test_a_failure_is_one_line(benchmark_of: Callable[[Measure], None]) -> None:
    async def fail(run: Run) -> None:
        raise BenchmarkError("no luck today")

    benchmark_of(fail)
    result = call("fake", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "benchmarks: no luck today\n"


def test_a_busy_machine_is_told_of(
    benchmark_of: Callable[[Measure], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark_of(measuring(None))
    assert "busy" not in call("fake").stderr
    monkeypatch.setattr("os.getloadavg", lambda: (7.5, 0.0, 0.0))
    result = call("fake")
    assert result.exit_code == 0
    assert "busy (load average 7.5)" in result.stderr


def test_an_interrupt_ends_it_in_order(benchmark_of: Callable[[Measure], None]) -> None:
    seen: list[Run] = []
    cleaned: list[bool] = []

    async def wait(run: Run) -> None:
        seen.append(run)
        try:
            signal.raise_signal(signal.SIGINT)
            await asyncio.Event().wait()
        finally:
            cleaned.append(run.folder.exists())

    benchmark_of(wait)
    result = call("fake")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert cleaned == [True]
    assert not seen[0].folder.exists()


def test_a_result_can_be_shown_again(
    benchmark_of: Callable[[Measure], None], tmp_path: Path
) -> None:
    benchmark_of(measuring(Aim("ours", "<", 1)))
    kept = tmp_path / "fake.json"
    kept.write_text(call("fake", "--json").stdout)
    again = call("fake", "--read", str(kept), "--json")
    assert (again.exit_code, again.stdout) == (1, kept.read_text()), "the verdict is kept as well"
    table = call("fake", "--read", str(kept), "--markdown").stdout.splitlines()
    assert table[:3] == [
        "| figure | unit | ours | bare | ratio | aim | met |",
        "| --- | --- | --: | --: | --: | --- | --- |",
        "| x | s | 2.00 | 1.00 | 2.00 | < 1 | no |",
    ]
    assert "x" in call("fake", "--read", str(kept)).stdout
    for text in ("", "[]", '{"name": "other", "rows": []}', '{"name": "fake", "rows": [{}]}'):
        kept.write_text(text)
        refused = call("fake", "--read", str(kept))
        assert (refused.exit_code, refused.stdout) == (2, ""), text
    assert call("fake", "--json", "--markdown").exit_code == 2


def test_figures_that_stand_alone_are_crossed() -> None:
    rows = [
        {"figure": figure, "unit": unit, "ours": value}
        for figure, unit, value in (
            ("A: size", "bytes", 7),
            ("A: time", "µs", 250),
            ("B: size", "bytes", 8),
        )
    ]
    blank = dict.fromkeys(("bare", "peer", "ratio", "aim", "met"))
    kept = {"name": "fake", "machine": harness.machine(), "rows": [row | blank for row in rows]}
    assert report.markdown(kept).splitlines()[:4] == [
        "| figure | size, bytes | time, µs |",
        "| --- | --: | --: |",
        "| A | 7.00 | 250 |",
        "| B | 8.00 | — |",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.00"), (0.0042, "0.0042"), (0.25, "0.25"), (12.34, "12.3"), (1234567, "1,234,567")],
)
def test_numbers_are_written_for_people(value: float, text: str) -> None:
    assert report.number(value) == text


# ------------------------------------------------------------------------------------ for real


def test_services_can_be_measured() -> None:
    """All of it against real servers, as briefly as it goes; what it measures means nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "services", "--quick", "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=QUICK_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert all(set(row) == ROW and row["ours"] > 0 for row in rows)
    parts = ("frame acknowledged", "flush(LOG)", "checkpoint", "rebuild")
    for part in parts:
        assert any(part in row["figure"] for row in rows), part
    bare = {row["figure"] for row in rows if row["bare"]}
    assert {row["figure"] for row in rows if "rebuild" not in row["figure"]} == bare


def test_a_replica_can_be_measured() -> None:
    """At its limits, as briefly as it goes; whether aims are met says nothing here."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "replica", "--quick", "--entries", "3000", "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=QUICK_S, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert all(set(row) == ROW and row["ours"] > 0 for row in rows)
    for part in ("edits, until journaled", "operations received", "opened with", "hot shard",
                 "caught up with 3,000 entries", "loop was blocked"):  # fmt: skip
        assert any(part in row["figure"] and row["aim"] for row in rows), part


def test_gossip_can_be_measured() -> None:
    """Redis, six processes and an idle mesh, as briefly as it goes; whether aims are met says
    nothing.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "gossip", "--quick", "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=QUICK_S, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert all(set(row) == ROW and row["ours"] > 0 for row in rows)
    for part in ("update over Redis", "to 10 replicas in 5 processes", "idle replica"):
        assert any(part in row["figure"] for row in rows), part
    assert all(row["bare"] > 0 for row in rows if "idle" not in row["figure"])


def test_peers_can_be_measured() -> None:
    """Two processes and their link, as briefly as it goes; whether aims are met says nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "peers", "--quick", "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=QUICK_S, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert all(set(row) == ROW and row["ours"] > 0 for row in rows)
    assert {row["figure"].split(" ")[0] for row in rows if row["aim"]} == {"update", "heal"}
    assert all(row["bare"] > 0 for row in rows if "update" in row["figure"])


def test_dissemination_can_be_measured() -> None:
    """A few replicas in one process, once: later frames cross few links twice."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "dissemination", "--quick", "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=QUICK_S, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert all(set(row) == ROW and row["ours"] > 0 for row in rows)
    sends = {row["figure"]: row["ours"] for row in rows if "sends" in row["figure"]}
    assert min(sends.values()) >= 0.9, "each frame has to reach each replica"
    assert [row["met"] for row in rows if row["aim"]] == [True]


def test_state_can_be_measured() -> None:
    """All of it, as briefly as it goes; whether aims are met says nothing here."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "crdt", "--quick", "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=QUICK_S, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert all(set(row) == ROW for row in rows)
    parts = ("registers written", "applied", "read", "typed", "join", "digests", "encoded",
             "decoded", "taken", "memory of a register", "overwrites")  # fmt: skip
    for part in parts:
        found = [row for row in rows if part in row["figure"]]
        assert found, part
        assert all(row["ours"] > 0 for row in found if "added" not in row["figure"]), part


def test_types_can_be_measured() -> None:
    """Every type, as briefly as it goes: only the bytes mean anything then."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "types", "--quick", "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=QUICK_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["figure"]: row["ours"] for row in json.loads(done.stdout)["rows"]}
    for code in TypeCode:
        subject = NAMES.get(code, code.name.capitalize())
        assert rows[f"{subject}: in a frame"] > 10, "a document, a path, a payload and labels"
        assert rows[f"{subject}: in a snapshot"] > 10
        assert rows[f"{subject}: edit"] > 0
        assert rows[f"{subject}: read"] > 0
        assert f"{subject}: in memory" in rows
