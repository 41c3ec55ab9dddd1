"""`mesh rehearse`: real replicas in real processes are killed, cut off, stopped and damaged, and
lose nothing that was acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from crdt.errors import CallerError, MeshError
from simulations.rehearsal.interrupt import Interrupt
from simulations.rehearsal.rehearsal import Outcome, Script, perform
from simulations.rehearsal.trials import TRIALS

_INTERRUPTED = 130
_SHOWN = 20


def rehearse(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(TRIALS)}.")],
    rounds: Annotated[int, typer.Option(help="How often.", min=1, max=100_000)] = 20,
    agents: Annotated[int, typer.Option(help="Processes that write.", min=2, max=16)] = 3,
    seed: Annotated[int, typer.Option(help="Decides who is hit, how and when.")] = 1,
    seconds: Annotated[
        float | None, typer.Option(help="How long a fault lasts.", min=0.1, max=600)
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object last, the rest to stderr.")
    ] = False,
    keep: Annotated[
        Path | None, typer.Option(help="Folder for all data, new or empty; kept in any case.")
    ] = None,
) -> None:
    """Let writers work through faults, and prove after each that nothing acknowledged was lost.

    kill9: one is killed, at random or at a named point of its own course. storm: all are, at once.
    slow: one is stopped for 20 s. partition: links are cut. disk: a folder is deleted, torn or
    changed. redis: the bus is killed, flushed, emptied, paused.

    Exit code 0: everybody agrees, nothing was lost and nothing deleted came back; 1: not so, and
    the folders are kept; 2: bad input.

    Example: mesh rehearse kill9 --rounds 100 --json
    """
    try:
        folder = _folder(name, keep)
    except CallerError as error:
        _fail(str(error), 2)
    script = Script(name, rounds, agents, seed, seconds=seconds)
    try:
        with Interrupt() as interrupt:
            outcome = asyncio.run(_watched(script, folder, interrupt))
    except asyncio.CancelledError:
        _fail(f"interrupted: everything was stopped; data: {folder}", _INTERRUPTED)
    except (MeshError, OSError) as error:
        _fail(f"{error}; seed {seed}; data and logs: {folder}", 1)
    for problem in outcome.problems[:_SHOWN]:
        typer.echo(f"  {problem}", err=True)
    if not outcome.good:
        typer.echo(f"NOT HELD, with --seed {seed}; data and logs: {folder}", err=True)
    elif keep is None:
        shutil.rmtree(folder)
    plain = outcome.plain(script)
    words = ", ".join(f"{key} {value}" for key, value in plain.items())
    sys.stdout.write((json.dumps(plain) if as_json else words) + "\n")
    sys.stdout.flush()
    raise typer.Exit(0 if outcome.good else 1)


async def _watched(script: Script, folder: Path, interrupt: Interrupt) -> Outcome:
    interrupt.watch()
    outcome = await perform(script, folder, lambda line: typer.echo(line, err=True))
    interrupt.unwatch()
    return outcome


def _folder(name: str, keep: Path | None) -> Path:
    if name not in TRIALS:
        raise CallerError(f"{name!r} is no rehearsal; there are {', '.join(TRIALS)}")
    if keep is None:
        return Path(tempfile.mkdtemp(prefix=f"mesh-{name}-"))
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise CallerError(f"--keep {keep} is there and not an empty folder; name a new one")
    keep.mkdir(parents=True, exist_ok=True)
    return keep.resolve()


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    typer.run(rehearse)
