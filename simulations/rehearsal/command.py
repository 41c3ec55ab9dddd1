"""`mesh demo`: a fleet audits a code base through one mesh, is disturbed, proves that it agrees."""

from __future__ import annotations

import asyncio
import json
import platform
import shutil
import sqlite3
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from crdt.errors import CallerError, MeshError
from simulations.rehearsal import plan, rebuild
from simulations.rehearsal.course import Course, CourseResult
from simulations.rehearsal.fleet import Fleet, open_fleet, total, union
from simulations.rehearsal.interrupt import Interrupt
from simulations.rehearsal.keep import KeepFolder
from simulations.rehearsal.rebuild import Rebuilt
from simulations.rehearsal.screen import Board, Screen
from simulations.rehearsal.source import SourceTree, discover, standard_library
from simulations.rehearsal.verdict import Verdict, judge

_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for, checked."""

    tree: SourceTree
    source: str
    players: plan.Cast
    faults: plan.FaultPlan
    stack: bool


def demo(
    tree: Annotated[
        Path | None,
        typer.Option(help="Python source tree to audit; default: this Python's standard library."),
    ] = None,
    agents: Annotated[int, typer.Option(help="Agent processes; seven play one role each.")] = 7,
    seed: Annotated[int, typer.Option(help="Decides who is cut off from whom, and who dies.")] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object last, the rest to stderr.")
    ] = False,
    keep: Annotated[
        Path, typer.Option(help="Folder for report, stubs and the agents' data; replaced.")
    ] = Path("mesh-demo"),
    partition_seconds: Annotated[
        float, typer.Option(help="How long the fleet is cut in two.", min=0.1, max=600)
    ] = 6.0,
    stack: Annotated[
        bool,
        typer.Option("--stack", help="Run on real Redis, Kafka, PostgreSQL and Temporal servers."),
    ] = False,
    lose: Annotated[
        str,
        typer.Option(
            metavar="redis|kafka|postgres|temporal",
            help="With --stack: kill that server in the middle, start it again after 10 s.",
        ),
    ] = "",
) -> None:
    """Audit a code base with a fleet of agents on one mesh, through a partition and a crash.

    Alone, the fleet's only server is Temporal, in memory. With --stack agents also share a Redis, a
    Kafka and a PostgreSQL of their own, which go with their data when the run ends; the partition
    then cuts its first side off from these three as well, and in the end a replica without peers is
    rebuilt from log and checkpoints alone, to compare it.

    Exit code 0: every replica agrees, the rebuilt one too, and nothing acknowledged was lost; 1:
    not so; 2: bad input.

    Example: mesh demo --tree src --agents 12 --json

    Example: mesh demo --stack --lose kafka --seed 7
    """
    console = Console(stderr=as_json)
    try:
        lost = plan.check_lost(lose, stack=stack)
        players = plan.cast(agents)
        options = Options(
            discover(tree or standard_library()),
            str(tree or f"the standard library of Python {platform.python_version()}"),
            players,
            plan.draw(players, seed, partition_seconds, lost),
            stack,
        )
        with Interrupt() as interrupt:
            folder = KeepFolder.open(keep)
            outcome, verdict = _carry_out(options, folder, console, interrupt)
            folder.complete()
    except CallerError as error:
        _fail(str(error), 2)
    _show(console, outcome, verdict, folder.target)
    if as_json:
        sys.stdout.write(json.dumps(outcome) + "\n")
        sys.stdout.flush()
    raise typer.Exit(0 if verdict.good else 1)


def _carry_out(
    options: Options, folder: KeepFolder, console: Console, interrupt: Interrupt
) -> tuple[dict[str, Any], Verdict]:
    """Run; if that does not come to a verdict, leave nothing behind and exit."""
    try:
        return asyncio.run(_run(options, folder, console, interrupt))
    except asyncio.CancelledError:
        folder.discard()
        _fail("interrupted: everything was stopped, nothing was kept", _INTERRUPTED)
    except (MeshError, OSError) as error:  # OSError: a full disk, no more processes or files
        logs = folder.rescue_logs()
        folder.discard()
        _fail(f"{error}; logs: {logs}" if logs else str(error), 1)
    except BaseException:
        folder.discard()
        raise


async def _run(
    options: Options, folder: KeepFolder, console: Console, interrupt: Interrupt
) -> tuple[dict[str, Any], Verdict]:
    """The whole run: fleet, course, verdict. No process is left when it returns."""
    interrupt.watch()
    began = time.monotonic()
    board, modules = Board(), options.tree.modules
    with Screen(console) as screen:
        screen.say(
            f"{len(modules)} modules of {options.source}, {len(options.players)} agents; starting "
            f"{'the stack' if options.stack else 'Temporal'}, a worker and the fleet"
        )
        async with open_fleet(
            folder.work, options.tree, options.players, stack=options.stack, say=screen.say
        ) as fleet:
            course = Course(fleet, options.faults, len(modules), board, screen)
            screen.say(f"all agents are up, {fleet.servers.title}")
            measured = await course.run()
            rebuilt = await _end(fleet, board, screen, folder.work / rebuild.NAME)
            services = {**fleet.servers.versions, "sqlite": sqlite3.sqlite_version}
            promises = fleet.promises
            folders = [fleet.agent_folder(name) for name in fleet.names]
        verdict = await judge(
            folders, promises.all(), promises.marks, modules, folder.work,
            rebuilt=rebuilt.folder if rebuilt else None, problems=measured.problems,
        )  # fmt: skip
    if rebuilt is not None and verdict.rebuilt:  # else somebody will want to look into it
        await asyncio.to_thread(shutil.rmtree, rebuilt.folder)
    interrupt.unwatch()
    outcome = {
        "files": len(modules),
        "agents": len(options.players),
        "updates": verdict.updates,
        "findings": verdict.findings,
        "acknowledged": promises.count,
        "lost": verdict.lost,
        "double_claims": verdict.double_claims,
        "converged": verdict.converged,
        "wall_seconds": round(time.monotonic() - began, 2),
        **_measured(measured),
        "rebuilt": _rebuilt(rebuilt, verdict),
        "services": services,
    }
    return outcome, verdict


async def _end(fleet: Fleet, board: Board, screen: Screen, place: Path) -> Rebuilt | None:
    """Stop everybody in order; then, on a stack, rebuild in `place` all that they had."""
    target = union(list((await fleet.frontiers()).values()))
    board.phase = "verdict"
    screen.say("all agents stop; the verdict is read from their journals")
    for complaint in await fleet.stop():
        screen.say(complaint, "bold red")
    await fleet.stop_worker()
    shared = fleet.servers.shared
    if not shared:
        return None
    rebuilt = await rebuild.rebuild(fleet.authority, place, shared, target)
    whole = "all" if rebuilt.complete else f"only {rebuilt.operations} of"
    screen.say(
        f"a replica without peers got {whole} {total(target)} operations from {rebuilt.source}, "
        f"in {rebuilt.seconds:.2f} s",
        "green" if rebuilt.complete else "bold red",
    )
    return rebuilt


def _measured(course: CourseResult) -> dict[str, Any]:
    partition, outage = course.partition, course.outage
    return {
        "partition": {
            "cut": list(partition.cut),
            "seconds": round(partition.seconds, 2),
            "diverged_documents_max": partition.diverged_documents_max,
            "crossed": partition.crossed,
            "heal_seconds": round(partition.heal_seconds, 3),
        },
        "lost_service": None if outage is None else _rounded(asdict(outage)),
        "recovered": _rounded(asdict(course.recovered)),
    }


def _rebuilt(rebuilt: Rebuilt | None, verdict: Verdict) -> dict[str, Any] | None:
    if rebuilt is None:
        return None
    return {
        "source": rebuilt.source,
        "seconds": round(rebuilt.seconds, 3),
        "operations": rebuilt.operations,
        "equal": verdict.rebuilt,
    }


def _rounded(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: round(value, 3) if isinstance(value, float) else value
        for name, value in fields.items()
    }


def _show(console: Console, outcome: dict[str, Any], verdict: Verdict, folder: Path) -> None:
    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    say(
        f"{outcome['files']} modules, {outcome['findings']} findings, {outcome['updates']} updates "
        f"by {outcome['agents']} agents in {outcome['wall_seconds']} s"
    )
    say(
        f"converged: {str(outcome['converged']).lower()} · lost: {outcome['lost']} of "
        f"{outcome['acknowledged']} acknowledged · double claims: {outcome['double_claims']}",
        "bold green" if verdict.good else "bold red",
    )
    for problem in verdict.problems:
        say(f"  {problem}", "red")
    say(f"report, stubs and the agents' data: {folder}")


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)
