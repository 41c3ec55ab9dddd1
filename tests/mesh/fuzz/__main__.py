"""`python -m tests.mesh.fuzz`: hostile peers by the hundred thousand."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tests.mesh.fuzz.driver import Plan, fuzz, passed


def command(
    cases: Annotated[int, typer.Option(help="How many.", min=1)] = 20_000,
    seed: Annotated[int, typer.Option(help="Another seed, other cases.", min=0)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Attack a live replica. Exit code 0: nothing got in, and honest traffic went on.

    Example: python -m tests.mesh.fuzz --cases 200000 --json
    """
    result = fuzz(Plan(cases, seed))
    typer.echo(json.dumps(result) if as_json else json.dumps(result, indent=1))
    raise typer.Exit(0 if passed(result) else 1)


def main() -> None:
    """The program."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    app(prog_name="python -m tests.mesh.fuzz")


if __name__ == "__main__":
    main()
