"""`mesh stack up | down | status | env`: real servers on this machine.

Progress goes to stderr; what a program might read goes to stdout.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import time
from collections.abc import Coroutine, Iterable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer

from crdt.errors import CallerError
from mesh.settings import load_settings
from mesh.stack import standing
from mesh.stack.stack import SERVICES, VARIABLES
from mesh.stack.standing import DEFAULT_FOLDER, Standing, command_line

UNWELL: Final = 1
SETTLE_S, SETTLE_POLL_S = 2.0, 0.001
Result = TypeVar("Result")

stack_app = typer.Typer(
    help="Start, find and stop Redis, Kafka, PostgreSQL and Temporal on this machine.",
    no_args_is_help=True,
    epilog='Example: mesh stack up && eval "$(mesh stack env)"',
)

Only = Annotated[
    str | None,
    typer.Option("--only", metavar="NAMES", help=f"Of {','.join(SERVICES)}; default: all."),
]
Folder = Annotated[
    Path, typer.Option("--dir", metavar="DIR", help="Where the servers keep data and logs.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")]


@stack_app.command(epilog="Example: mesh stack up --only redis,postgres --port redis=6379")
def up(
    only: Only = None,
    folder: Folder = DEFAULT_FOLDER,
    port: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PORT", help="A port of its own for a service; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start what does not run yet, and wait until each service answers.

    The servers stay when this command ends; a second one finds them. They listen on the loopback,
    without a password, on free ports that stay theirs. A server that the settings name is used as
    it is, and never stopped.
    """
    found = _run(standing.up(folder, _names(only), _ports(port or []), load_settings(), _say))
    if as_json:
        own = {VARIABLES[one.name]: one.address for one in found if one.source == "stack"}
        _print_json({**_report(folder, found), "environment": own})
        return
    _print_services(found)
    if any(one.source == "stack" for one in found):
        _say(f'to use them here: eval "$({command_line("env", folder)})"')


@stack_app.command(epilog="Example: mesh stack down --only kafka")
def down(only: Only = None, folder: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> None:
    """Stop what `mesh stack up` started in this folder, and nothing else. Data stays."""
    say = _say if as_json else _print
    stopped = _run(standing.down(folder, _names(only), say))
    if as_json:
        _print_json({"folder": str(folder.absolute()), "stopped": stopped})


@stack_app.command(epilog="Example: mesh stack status --json")
def status(only: Only = None, folder: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> None:
    """Ask each service how it is. Exit code 0 if all of them answer, 1 if any does not."""
    found = _run(standing.status(folder, _names(only), load_settings()))
    if as_json:
        _print_json(_report(folder, found))
    else:
        _print_services(found)
    if not all(one.well for one in found):
        raise typer.Exit(UNWELL)


@stack_app.command(epilog='Example: eval "$(mesh stack env)"')
def env(only: Only = None, folder: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> None:
    """Print what to export so that every `mesh` command and replica uses these servers."""
    variables = standing.environment(folder, _names(only), _say)
    if as_json:
        _print_json(variables)
        return
    for name, value in variables.items():
        _print(f"export {name}={shlex.quote(value)}")


def _run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run it, and wait until its drivers' threads have left Python.

    Temporal's SDK hands over an answer from a thread of its own. Should Python end while that one
    is on its way back, it aborts the process.
    """
    try:
        return asyncio.run(main)
    finally:
        deadline = time.monotonic() + SETTLE_S
        while len(sys._current_frames()) > 1 and time.monotonic() < deadline:
            time.sleep(SETTLE_POLL_S)


def _names(only: str | None) -> tuple[str, ...] | None:
    """What `--only` lists; None where it is not given."""
    if only is None:
        return None
    return tuple(name.strip() for name in only.split(",") if name.strip())


def _ports(options: Iterable[str]) -> dict[str, int]:
    ports: dict[str, int] = {}
    for option in options:
        name, _, number = option.partition("=")
        if not number.isascii() or not number.isdigit():
            raise CallerError(f"--port {option}: write NAME=PORT, such as redis=6379")
        if name in ports:
            raise CallerError(f"--port {option}: {name} is given a port twice; give it one")
        ports[name] = int(number)
    return ports


def _report(folder: Path, found: Iterable[Standing]) -> dict[str, Any]:
    services = {one.name: {**asdict(one), "well": one.well} for one in found}
    for one in services.values():
        del one["name"]
    well = all(one["well"] for one in services.values())
    return {"folder": str(folder.absolute()), "well": well, "services": services}


def _print_services(found: Iterable[Standing]) -> None:
    """A line for each, never cut: addresses are to be copied."""
    for one in found:
        words = [one.version or "version unknown", f"at {one.address}" if one.address else ""]
        if one.source == "settings":
            words.append("as the settings say")
        if one.pid is not None and one.uptime_s is not None:
            words.append(f"pid {one.pid}, up {timedelta(seconds=int(one.uptime_s))}")
        health = one.trouble or "well"
        _print(f"{one.name:9} {', '.join(filter(None, words))}: {health}")


def _print_json(value: Any) -> None:
    _print(json.dumps(value, indent=2))


def _print(line: str) -> None:
    print(line)  # noqa: T201


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201
