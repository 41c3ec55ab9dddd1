"""`mesh simulate`: the production replica in simulated worlds, one for each seed."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from crdt.errors import CallerError
from mesh.cli import INTERRUPTED
from persistence.system import SystemClock, SystemEntropy
from simulations.batch import TWICE_EVERY, Task, perform
from simulations.faults.kinds import KINDS
from simulations.planted.plants import PLANTS, planted
from simulations.ports.services import SERVICES
from simulations.report.page import check_place, write_report
from simulations.run import Outcome, Part
from simulations.scenario import GROUPS, faults_of, imported
from simulations.scenarios.files import ScenarioFile, load, saved
from simulations.scenarios.ready import MARKS, SCENARIOS, Scenario, scenario_named
from simulations.shrinking import shrink

__all__ = ("simulate_command",)

_SHOWN = 10
SOAK = "soak"
_CLOCK = SystemClock()


@dataclass(slots=True)
class _Tally:
    """What came of all seeds so far."""

    command: str
    part: Part
    seeds: int = 0
    last: Outcome | None = None
    simulated_s: float = 0.0
    violations: list[dict[str, Any]] = field(default_factory=list)
    failed: list[Outcome] = field(default_factory=list)
    marks: Counter[str] = field(default_factory=Counter)
    hashes: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """One more seed."""
        self.seeds += 1
        self.last = outcome
        self.simulated_s += outcome.seconds
        self.hashes.append(outcome.trace_hash)
        self.marks.update(outcome.marks)
        if outcome.violations:
            self.failed.append(outcome)
        for one in outcome.violations:
            self.violations.append(
                {
                    "seed": outcome.seed,
                    "invariant": one.invariant,
                    "message": one.message,
                    "command": self.replay(outcome),
                }
            )

    def replay(self, outcome: Outcome) -> str:
        """The command that runs this seed again."""
        words = [f"{self.command} --seed {outcome.seed}"]
        words += [
            f"--only-{name} {','.join(map(str, numbers)) or 0}"
            for name, numbers in dataclasses.asdict(self.part).items()
            if numbers is not None
        ]
        return " ".join(words)

    def shrink(self, like: Task) -> None:
        """Make the first that failed smaller."""
        failed = self.failed[0]
        _err(f"seed {failed.seed} is made smaller:")
        task, smaller = shrink(dataclasses.replace(like, seed=failed.seed), failed, _err)
        self.part, self.failed[0] = task.part, smaller
        self.show(smaller)

    def show(self, outcome: Outcome) -> None:
        """What did not hold in a seed, what went wrong in it, and how to run it again."""
        _err(f"seed {outcome.seed}:")
        for violation in outcome.violations[:_SHOWN]:
            _err(f"  {violation}")
        for number, fault in outcome.plan.items():
            _err(f"    fault {number}: {fault}")
        _err(f"  again: {self.replay(outcome)}")

    @property
    def missed(self) -> list[str]:
        """The rare paths that were never taken."""
        return [name for name in MARKS if not self.marks[name]]

    @property
    def trace_hash(self) -> str:
        """Of one seed its own; of several, of all of theirs."""
        if len(self.hashes) == 1:
            return self.hashes[0]
        return blake2b("".join(self.hashes).encode(), digest_size=16).hexdigest()


def simulate_command(
    scenario: Annotated[
        str, typer.Argument(help="One of --list, soak, a file FILE.toml, or MODULE:NAME.")
    ] = "swarm",
    seed: Annotated[int | None, typer.Option(help="Run this seed alone.", min=0)] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="A:B", help="Run seeds A to B-1; 0:20 if not given.")
    ] = None,
    replicas: Annotated[int | None, typer.Option(help="How many replicas.", min=2, max=100)] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Draw fresh seeds for so long.", min=0.01, max=100_000)
    ] = None,
    faults: Annotated[
        str, typer.Option(help="all, none, network, crashes, or kinds of --list, with commas.")
    ] = "all",
    only_faults: Annotated[
        str, typer.Option(metavar="N,N", help="Of the faults drawn only these, by number.")
    ] = "",
    only_hosts: Annotated[
        str, typer.Option(metavar="N,N", help="Of the hosts only these, by number.")
    ] = "",
    only_writers: Annotated[
        str, typer.Option(metavar="N,N", help="Only these hosts write, by number.")
    ] = "",
    plant: Annotated[str, typer.Option(metavar="BUG", help="With a planted bug of --list.")] = "",
    jobs: Annotated[
        int | None, typer.Option(help="Processes; all cores if not given.", min=1, max=256)
    ] = None,
    shrinking: Annotated[
        bool, typer.Option("--shrink", help="Make the first failing seed smaller.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the first failing seed, or else the last one."),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml", help="Save the first failing seed, or else the last, as data."
        ),
    ] = None,
    list_all: Annotated[
        bool, typer.Option("--list", help="Show scenarios and kinds of faults, and end.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object last, the rest to stderr.")
    ] = False,
) -> None:
    """Run replicas in simulated worlds, where everything that can go wrong does, and judge them.

    A world has virtual time, and everything in it comes from its seed: the same seed is the same
    run, event by event. Exit code 0: all invariants held; 1: not so, and the last line is the
    command that runs such a seed again; 2: bad input.

    Example: mesh simulate partition --seeds 0:500
    """
    if list_all:
        _list()
        return
    try:
        given = _given(scenario, minutes)
        part = _part(given, only_faults, only_hosts, only_writers)
        like = Task(_adapted(given.scenario, replicas, faults), 0, part, plant=plant or given.plant)
        first, end = _bounds(seed if seed is not None or seeds else given.seed, seeds or "0:20")
        _check(like.plant, report, save)
    except CallerError as error:
        _fail(str(error))
    tally = _Tally(_command(like.scenario.name, replicas, faults, like.plant), part)
    wanted = range(first, end) if minutes is None else _fresh_seeds(minutes)
    _carry_out(like, tally, wanted, jobs, (report, save), shrinking=shrinking, as_json=as_json)


def _carry_out(
    like: Task,
    tally: _Tally,
    seeds: Iterable[int],
    jobs: int | None,
    files: tuple[Path | None, Path | None],
    *,
    shrinking: bool,
    as_json: bool,
) -> None:
    """Run the seeds and say how it went; `files`: for the report, and for the scenario."""
    began = _CLOCK.monotonic()
    stopped = _run_all(like, seeds, tally, jobs)
    seconds = _CLOCK.monotonic() - began
    if not stopped:
        _shrink_and_keep(like, tally, *files, shrinking=shrinking)
    _conclude(like.scenario, tally, seconds, as_json=as_json, stopped=stopped)


def _part(given: ScenarioFile, faults: str, hosts: str, writers: str) -> Part:
    """Which part of a seed: as given here, or else in the file."""
    whole = given.part
    return Part(
        _numbers(faults) or whole.faults,
        _numbers(hosts) or whole.hosts,
        _numbers(writers) or whole.writers,
    )


def _check(plant: str, report: Path | None, save: Path | None) -> None:
    """Raise CallerError if there is no such planted bug, or no such place for a file."""
    with planted(plant):
        pass
    for file in (report, save):
        check_place(file)


def _run_all(like: Task, seeds: Iterable[int], tally: _Tally, jobs: int | None) -> bool:
    """Run them; whether somebody stopped it."""
    count = len(seeds) if isinstance(seeds, range) else None
    workers = min(jobs or os.cpu_count() or 1, count or 256)
    with _progress(like.scenario, count) as tell:
        try:
            with contextlib.closing(perform(_tasks(like, seeds), workers)) as outcomes:
                for outcome in outcomes:
                    tally.add(outcome)
                    if outcome.violations and len(tally.failed) <= _SHOWN:
                        tally.show(outcome)
                    tell(tally)
        except KeyboardInterrupt:
            return True
    return False


def _tasks(like: Task, seeds: Iterable[int]) -> Iterator[Task]:
    for number, seed in enumerate(seeds):
        yield dataclasses.replace(like, seed=seed, twice=number % TWICE_EVERY == 0)


def _shrink_and_keep(
    like: Task, tally: _Tally, report: Path | None, save: Path | None, *, shrinking: bool
) -> None:
    if shrinking and tally.failed:
        tally.shrink(like)
    shown = tally.failed[0] if tally.failed else tally.last
    if shown is None:
        return
    task = dataclasses.replace(like, seed=shown.seed, part=tally.part)
    if report is not None:
        write_report(report, task, shown, tally.replay(shown))
        _err(f"seed {shown.seed} is drawn in {report}")
    if save is not None:
        save.write_text(saved(task, shown), encoding="utf-8")
        _err(f"seed {shown.seed} is saved in {save}; run it by mesh simulate {save}")


def _conclude(
    scenario: Scenario, tally: _Tally, seconds: float, *, as_json: bool, stopped: bool
) -> NoReturn:
    plain: dict[str, Any] = {
        "scenario": scenario.name,
        "seeds": tally.seeds,
        "violations": tally.violations,
        "seconds": round(seconds, 3),
        "seeds_per_second": round(tally.seeds / seconds, 3),
        "simulated_seconds_per_second": round(tally.simulated_s / seconds, 1),
        "trace_hash": tally.trace_hash,
        "marks_missed": tally.missed,
    }
    if as_json:
        sys.stdout.write(json.dumps(plain) + "\n")
    else:
        plain["violations"] = len(tally.violations)
        plain["marks_missed"] = len(tally.missed)
        sys.stdout.write(", ".join(f"{key} {value}" for key, value in plain.items()) + "\n")
    sys.stdout.flush()
    if scenario.swarm:
        _err(_paths(tally))
    if stopped:
        _err(f"stopped after {tally.seeds} seeds")
    if tally.failed:
        _err(f"NOT HELD: {len(tally.failed)} of {tally.seeds} seeds; again:")
        _err(tally.replay(tally.failed[0]))
    short = scenario.name == SOAK and tally.missed
    raise typer.Exit(INTERRUPTED if stopped else 1 if tally.failed or short else 0)


def _paths(tally: _Tally) -> str:
    if not tally.missed:
        return f"all {len(MARKS)} rare paths were taken"
    return f"never taken in {tally.seeds} seeds: {', '.join(tally.missed)}; run more of them"


# ---------------------------------------------------------------------- what was asked for


def _given(scenario: str, minutes: float | None) -> ScenarioFile:
    """What is run: one of ours, one in a file, or one in a module."""
    if scenario.endswith(".toml"):
        return load(Path(scenario))
    if ":" in scenario:
        chosen = imported(scenario)
    elif scenario != SOAK:
        chosen = scenario_named(scenario)
    elif minutes is None:
        raise CallerError("soak draws fresh seeds until its time is up: give --minutes")
    else:
        chosen = dataclasses.replace(scenario_named("swarm"), name=SOAK)
    return ScenarioFile(chosen)


def _adapted(scenario: Scenario, replicas: int | None, faults: str) -> Scenario:
    if faults != "all":
        there = SERVICES if scenario.swarm else scenario.services
        scenario = dataclasses.replace(scenario, kinds=faults_of(faults, there), plan=None)
    return scenario if replicas is None else dataclasses.replace(scenario, replicas=replicas)


def _command(scenario: str, replicas: int | None, faults: str, plant: str) -> str:
    # A soak's seeds are the swarm's.
    words = ["mesh simulate", "swarm" if scenario == SOAK else scenario]
    if replicas is not None:
        words.append(f"--replicas {replicas}")
    if faults != "all":
        words.append(f"--faults {faults}")
    if plant:
        words.append(f"--plant {plant}")
    return " ".join(words)


def _bounds(seed: int | None, seeds: str) -> tuple[int, int]:
    if seed is not None:
        return seed, seed + 1
    first, colon, end = seeds.partition(":")
    try:
        bounds = int(first), int(end)
    except ValueError:
        bounds = 0, 0
    if not colon or not 0 <= bounds[0] < bounds[1]:
        raise CallerError(f"--seeds {seeds!r} is no range; write A:B with A below B, as in 0:500")
    return bounds


def _fresh_seeds(minutes: float) -> Iterator[int]:
    end = _CLOCK.monotonic() + minutes * 60
    for seed in itertools.count(int.from_bytes(SystemEntropy().token(5), "big")):
        yield seed
        if _CLOCK.monotonic() >= end:
            return


def _numbers(text: str) -> tuple[int, ...] | None:
    if not text:
        return None
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise CallerError(f"{text!r} are no numbers; write them with commas, as in 2,5") from None


# ---------------------------------------------------------------------- what is shown


@contextlib.contextmanager
def _progress(scenario: Scenario, count: int | None) -> Iterator[Any]:
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f} seeds"),
        TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )  # fmt: skip
    began = _CLOCK.monotonic()
    with bar:
        task: TaskID = bar.add_task(scenario.name, total=count, rate="")

        def tell(tally: _Tally) -> None:
            passed = max(_CLOCK.monotonic() - began, 1e-9)
            rate = f"{tally.seeds / passed:.1f} seeds/s, {tally.simulated_s / passed:.0f} sim s/s"
            if tally.failed:
                rate += f", {len(tally.failed)} FAILED"
            bar.update(task, advance=1, rate=rate)

        yield tell


def _list() -> None:
    typer.echo("scenarios:")
    for scenario in SCENARIOS.values():
        typer.echo(f"  {scenario.name:18} {scenario.meaning}")
    typer.echo(f"  {SOAK:18} swarm, with fresh seeds, for --minutes.")
    typer.echo("faults:")
    for name, kind in KINDS.items():
        typer.echo(f"  {name:18} {kind.meaning}")
    for name, kinds in GROUPS.items():
        typer.echo(f"  {name:18} All of {', '.join(kinds)}.")
    typer.echo("planted bugs:")
    for name, bug in PLANTS.items():
        where = "" if bug.scenario == "swarm" else f" ({bug.scenario})"
        typer.echo(f"  {name:25} {bug.meaning}{where}")


def _err(line: str) -> None:
    typer.echo(line, err=True)


def _fail(message: str) -> NoReturn:
    _err(f"error: {' '.join(message.split())}")
    raise typer.Exit(2)
