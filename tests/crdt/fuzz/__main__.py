"""`python -m tests.crdt.fuzz`: hostile bytes by the hundred thousand."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from tests.crdt.fuzz.cases import case_of, check
from tests.crdt.fuzz.driver import HANG_S, Plan, fuzz

TELL_S: Final = 5.0
_INTERRUPTED: Final = 130


class _Teller:
    """Progress on standard error: one line that changes on a terminal, else one every few
    seconds."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._told = time.monotonic()

    def __call__(self, line: str) -> None:
        if self._live:
            sys.stderr.write(f"\r\x1b[K{line}")
        elif time.monotonic() - self._told >= TELL_S or "kept in" in line:
            self._told = time.monotonic()
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Leave the last line standing."""
        if self._live:
            sys.stderr.write("\n")


def command(
    cases: Annotated[int, typer.Option(help="How many.", min=1)] = 20_000,
    seed: Annotated[int, typer.Option(help="Another seed, other cases.", min=0)] = 1,
    first: Annotated[int, typer.Option(help="Number of the first case.", min=0)] = 0,
    processes: Annotated[int, typer.Option(help="Children at a time.", min=1, max=64)] = 2,
    hang_s: Annotated[float, typer.Option(help="Seconds without progress: a hang.")] = HANG_S,
    case: Annotated[int | None, typer.Option(help="Run this one again, right here.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Folder for cases that went wrong.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Feed hostile bytes to everything that reads bytes. Exit code 0: nothing was wrong.

    Example: python -m tests.crdt.fuzz --cases 300000 --json
    """
    if case is not None:
        found = case_of(seed, case)
        typer.echo(f"{found.target}, {found.context!r}\n{found.data.hex()}")
        typer.echo(check(found).name.lower())
        return
    teller = _Teller()
    try:
        result = fuzz(Plan(cases, seed, first, processes, hang_s, keep), teller)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        raise typer.Exit(_INTERRUPTED) from None
    finally:
        teller.end()
    if as_json:
        typer.echo(json.dumps(result))
    else:
        typer.echo(json.dumps(result, indent=1))
    wrong = result["crashes"] + result["hangs"] + result["accepted_invalid"]
    raise typer.Exit(1 if wrong else 0)


def main() -> None:
    """The program."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    app(prog_name="python -m tests.crdt.fuzz")


if __name__ == "__main__":
    main()
