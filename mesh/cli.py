"""The command line: `mesh digest`, `dump`, `settings`, `stack`, and what other packages plug in.

A package adds a command with an entry point in the group `statemesh.commands`: its name is the
command's, its object a function with typer's annotations, or a typer app. So nothing above this
layer is named here.

Exit codes: 0 done; 2 the command could not do it, one line on stderr says why; 130 interrupted.
"""

from __future__ import annotations

import base64
import importlib.metadata
import io
import json
import math
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.exceptions import TyperException

from crdt.errors import MeshError
from crdt.ids import check_document_id, shard_of
from crdt.plain import plain_document, plain_documents
from mesh.commands.folders import add_folder_commands
from mesh.commands.identity import add_identity_commands
from mesh.commands.run import run_replica
from mesh.settings import load_settings, settings_table
from mesh.stack.command import stack_app
from persistence.inspect import LoadedFolder, load_folder

__all__ = ("main", "make_app")

COMMANDS = "statemesh.commands"
FAILED, INTERRUPTED = 2, 130

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="A replica's data folder; no replica may run in it.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")]


def make_app() -> typer.Typer:
    """The whole program, with the commands that are installed."""
    app = typer.Typer(
        name="mesh",
        help="A live local copy of the state a fleet of agents shares.",
        epilog="Example: mesh dump agent-a --document Task/42 --json",
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    app.command("digest", epilog="Example: mesh digest agent-a --json")(digest)
    app.command("dump", epilog="Example: mesh dump agent-a --document Task/42")(dump)
    app.command("settings", epilog="Example: STATEMESH_PEERS__LISTEN=127.0.0.1:7400 mesh settings")(
        settings
    )
    add_identity_commands(app)
    app.command("run", epilog="Example: mesh run keeper --seed 127.0.0.1:7400")(run_replica)
    add_folder_commands(app)
    app.add_typer(stack_app, name="stack")
    for point in sorted(importlib.metadata.entry_points(group=COMMANDS), key=lambda p: p.name):
        _plug_in(app, point)
    return app


def main() -> None:
    """The entry point of `mesh`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an old terminal's encoding is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; returns the exit code."""
    try:
        command = typer.main.get_command(make_app())
        result = command.main(arguments or ["--help"], prog_name="mesh", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except typer.Exit as end:
        return end.exit_code
    except MeshError as error:
        return _fail(str(error))
    except TyperException as error:
        return _fail(f"{error.format_message()} See mesh --help.")
    return result if isinstance(result, int) else 0


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    return FAILED


def digest(folder: Folder, as_json: AsJson = False) -> None:
    """Show per shard how far it is and the digest of its state.

    Two replicas with equal frontiers have equal digests. The folder is not changed.
    """
    loaded = load_folder(folder)
    counts = {number: sum(1 for _ in s.documents()) for number, s in loaded.shards.items()}
    digests, frontiers = loaded.digest(), loaded.frontier()
    if as_json:
        shards = {
            str(number): {
                "digest": digests[number],
                "documents": counts[number],
                "frontier": {str(one): seq for one, seq in sorted(frontiers[number].items())},
            }
            for number in sorted(loaded.shards)
        }
        _print_json({**_head(loaded), "shards": shards})
        return
    table = Table("shard", "documents", "sessions", "operations", "digest", title=_title(loaded))
    for number in sorted(loaded.shards):
        frontier = frontiers[number]
        row = (number, counts[number], len(frontier), sum(frontier.values()), digests[number])
        table.add_row(*map(str, row))
    _console().print(table)


def dump(
    folder: Folder,
    document: Annotated[
        str, typer.Option("--document", "-d", metavar="TYPE/NAME", help="Only this document.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Show documents as plain data, read without the classes they were declared by.

    Bytes appear as {"$bytes": base64}, times in ISO 8601. The folder is not changed.
    """
    loaded = load_folder(folder)
    if document:
        shard = loaded.shards[shard_of(check_document_id(document), loaded.mesh.shards)]
        found = {document: plain_document(shard, document)}
    else:
        found = {
            name: fields
            for number in sorted(loaded.shards)
            for name, fields in plain_documents(loaded.shards[number])
        }
    if as_json:
        _print_json({**_head(loaded), "documents": {name: found[name] for name in sorted(found)}})
        return
    console = _console()
    for name in sorted(found):
        console.print(name, style="bold", highlight=False, markup=False)
        for field, value in sorted(found[name].items()):
            text = json.dumps(plain_json(value), ensure_ascii=False)
            console.print(f"  {field}: {text}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{len(found)} documents of {_title(loaded)}", style="dim", markup=False)


def settings(
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Settings file instead of ./mesh.toml.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show every setting with the value that environment and file give it, as a Markdown table."""
    chosen = load_settings(file)
    if as_json:
        _print_json(chosen.model_dump(mode="json"))
        return
    print(settings_table(chosen), end="")  # noqa: T201 - Markdown, to be piped: never wrapped


def plain_json(value: Any) -> Any:
    """Plain data with what JSON lacks put into words: bytes, times, nan, keys of other types."""
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if isinstance(value, dict):
        return {_json_key(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    return value


def _json_key(key: Any) -> str:
    if isinstance(key, bytes):
        return f"$bytes:{base64.b64encode(key).decode()}"
    return str(key)


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", is_eager=True, callback=_show_version
        ),
    ] = False,
) -> None:
    """Nothing: the option's callback does it."""
    del version


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"mesh {importlib.metadata.version('statemesh')}")  # noqa: T201
        raise typer.Exit


def _plug_in(app: typer.Typer, point: importlib.metadata.EntryPoint) -> None:
    """Add another package's command; one that cannot be loaded says so when it is called."""
    try:
        loaded = point.load()
    except ImportError as error:
        reason = f"{point.name} is not usable here: {error}"

        def unusable() -> None:
            raise MeshError(reason)

        app.command(point.name, help="(not usable here)")(unusable)
        return
    if isinstance(loaded, typer.Typer):
        app.add_typer(loaded, name=point.name)
    else:
        app.command(point.name)(loaded)


def _head(loaded: LoadedFolder) -> dict[str, Any]:
    return {"replica": loaded.replica, "mesh": loaded.mesh.name, "mesh_id": loaded.mesh.id.hex()}


def _title(loaded: LoadedFolder) -> str:
    return f"{loaded.replica} in mesh {loaded.mesh.name}"


def _print_json(value: Any) -> None:
    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    text = json.dumps(plain_json(value), ensure_ascii=plain, indent=2, allow_nan=False)
    print(text)  # noqa: T201 - plain, for other programs


def _console() -> Console:
    return Console(soft_wrap=not sys.stdout.isatty())
