"""`python -m benchmarks NAME`: measure, and say whether what we aim for is reached."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.console import Console

from benchmarks import report
from benchmarks.harness import ROUNDS, BenchmarkError, Run, succeeded, summary
from crdt.errors import MeshError
from simulations.rehearsal.interrupt import Interrupt

BENCHMARKS: Final[Mapping[str, str]] = {
    "crdt": "State in memory alone, beside pycrdt doing the same: edits, reads, joins, snapshots",
    "dissemination": "200 replicas in one process: how often each frame is sent until all have it",
    "gossip": "replicas that share Redis as a bus: updates to one and to fifty, idling among fifty",
    "peers": "two replicas with a TLS link between them: updates, and what a cut kept apart",
    "presence": "replicas that say something new of themselves once a second: CPU of each",
    "replica": "one replica at its limits: edits, operations received, opening, catching up",
    "services": "Kafka and PostgreSQL as a replica uses them, beside their bare drivers",
    "types": "what each type of crdt/ costs: bytes in a frame, a snapshot and memory, and time",
}
"""Modules of this package, and what each measures."""

BUSY: Final = 1.0
"""Load average from which the user is told that the machine has something else to do."""
_INTERRUPTED: Final = 130


def command(
    name: Annotated[str, typer.Argument(help="Which benchmark; none: list them.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    rounds: Annotated[
        int | None, typer.Option(help=f"Rounds after the warm-up; default {ROUNDS}.", min=1, max=99)
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One short round: shows that it works, not how fast.")
    ] = False,
    entries: Annotated[
        int, typer.Option(help="replica: entries to catch up with; 0: 1,000,000.", min=0)
    ] = 0,
    read: Annotated[
        Path | None, typer.Option(help="Show this result of --json instead of measuring.")
    ] = None,
) -> None:
    """Measure; where servers are needed, with real ones, started for this alone, on loopback.

    Exit code 0: every figure with an aim reached it; 1: not so; 2: bad input.

    Example: python -m benchmarks services --json > services.json
    """
    if name not in BENCHMARKS:
        known = "".join(f"\n  {each:<14} {what}" for each, what in BENCHMARKS.items())
        _fail(f"{f'{name!r} is no benchmark' if name else 'name a benchmark'}; there are{known}", 2)
    if as_json and as_markdown:
        _fail("--json and --markdown exclude each other; --read turns the one into the other", 2)
    if read is not None:
        result = _read(read, name)
    else:
        result = _measure(name, rounds or (1 if quick else ROUNDS), entries, quick=quick)
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
    elif as_markdown:
        sys.stdout.write(report.markdown(result))
    else:
        report.show(result, Console())
    sys.stdout.flush()
    raise typer.Exit(0 if succeeded(result) else 1)


def _measure(name: str, rounds: int, entries: int, *, quick: bool) -> dict[str, Any]:
    """Run it; whatever ends it, its servers, children and files are gone."""
    progress = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(line: str) -> None:
        progress.print(f"{name}: {line}", markup=False)

    if (load := os.getloadavg()[0]) > BUSY:
        say(f"the machine is busy (load average {load:.1f}): these figures will mean little")
    with Interrupt() as interrupt, tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        run = Run(Path(folder), rounds, quick, say, entries)
        try:
            asyncio.run(_carry_out(name, run, interrupt))
        except asyncio.CancelledError:
            _fail("interrupted: everything was stopped, nothing was kept", _INTERRUPTED)
        except (BenchmarkError, MeshError, OSError) as error:
            _fail(str(error), 1)
    return summary(name, run.rows)


async def _carry_out(name: str, run: Run, interrupt: Interrupt) -> None:
    interrupt.watch()
    module = importlib.import_module(f"benchmarks.{name}")
    await module.measure(run)
    interrupt.unwatch()


def _read(path: Path, name: str) -> dict[str, Any]:
    """A result that was kept. Exits where it is none, or another benchmark's."""
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = result["name"]
        complete = all(row.keys() >= set(report.COLUMNS) for row in result["rows"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        found, complete = "", False
    if not complete or found != name:
        _fail(f"{path} holds no result of {name!r}; make one with --json > {path}", 2)
    return result


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"benchmarks: {message}\n")
    raise typer.Exit(code)


def make_app() -> typer.Typer:
    """The program."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    return app


if __name__ == "__main__":
    make_app()(prog_name="python -m benchmarks")
