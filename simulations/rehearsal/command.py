"""`mesh demo`: a fleet audits a code base through one mesh, is disturbed, proves that it agrees."""

from __future__ import annotations

import asyncio
import json
import platform
import sqlite3
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from crdt.errors import CallerError, MeshError
from simulations.rehearsal import plan
from simulations.rehearsal.course import Course, CourseResult
from simulations.rehearsal.fleet import open_fleet
from simulations.rehearsal.interrupt import Interrupt
from simulations.rehearsal.keep import KeepFolder
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
) -> None:
    """Audit a code base with a fleet of agents on one mesh, through a partition and a crash.

    Exit code 0: every replica agrees and nothing acknowledged was lost; 1: not so; 2: bad input.

    Example: mesh demo --tree src --agents 12 --json
    """
    console = Console(stderr=as_json)
    try:
        players = plan.cast(agents)
        options = Options(
            discover(tree or standard_library()),
            str(tree or f"the standard library of Python {platform.python_version()}"),
            players,
            plan.draw(players, seed, partition_seconds),
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
            f"{len(modules)} modules of {options.source}, {len(options.players)} agents; "
            "starting Temporal, a worker and the fleet"
        )
        async with open_fleet(folder.work, options.tree, options.players) as fleet:
            course = Course(fleet, options.faults, len(modules), board, screen)
            screen.say(f"all agents are up, Temporal {fleet.temporal.version}")
            measured = await course.run()
            board.phase = "verdict"
            screen.say("all agents stop; the verdict is read from their journals")
            for complaint in await fleet.stop():
                screen.say(complaint, "bold red")
            await fleet.stop_worker()
            services = {"temporal": fleet.temporal.version, "sqlite": sqlite3.sqlite_version}
            promises = fleet.promises
            folders = [fleet.agent_folder(name) for name in fleet.names]
        verdict = await judge(folders, promises.all(), promises.marks, modules, folder.work)
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
        "services": services,
    }
    return outcome, verdict


def _measured(course: CourseResult) -> dict[str, Any]:
    partition = course.partition
    return {
        "partition": {
            "seconds": round(partition.seconds, 2),
            "diverged_documents_max": partition.diverged_documents_max,
            "heal_seconds": round(partition.heal_seconds, 3),
        },
        "recovered": {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in asdict(course.recovered).items()
        },
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
