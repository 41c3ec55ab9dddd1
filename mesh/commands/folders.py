"""`mesh check | repair`: a replica's data folder while no replica runs in it.

Each is a few lines over `persistence.inspect` or `persistence.salvage`.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from persistence.inspect import FolderReport, check_folder
from persistence.salvage import rebuild

__all__ = ("add_folder_commands",)

UNSOUND = 1
Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="A replica's data folder; no replica may run in it.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")]


def add_folder_commands(app: typer.Typer) -> None:
    """Add them to the program."""
    app.command("check", epilog="Example: mesh check agent-a --json")(check)
    app.command("repair", epilog="Example: mesh repair agent-a")(repair)


def check(folder: Folder, as_json: AsJson = False) -> None:
    """Prove a data folder: every checksum, signature, chain and digest. Nothing is changed.

    Exit code 0 if it is sound, 1 if not; then what is wrong where is said, and what to do.
    """
    report = check_folder(folder)
    if as_json:
        _print(report.plain())
    else:
        _tell(report)
    if not report.sound:
        raise typer.Exit(UNSOUND)


def repair(folder: Folder, as_json: AsJson = False) -> None:
    """Build a damaged journal anew from what of it can be read, so that its replica can start.

    Every readable frame of the replica's own is kept and stays owed; the rest comes from the
    others. The damaged files stay, as journal.damaged-N.*. A sound folder is left as it is.
    """
    report = check_folder(folder)
    if not report.repairable:
        if as_json:
            _print({**report.plain(), "repaired": False})
        else:
            typer.echo(f"a replica can start from {folder}; nothing was changed")
        return
    salvage = asyncio.run(rebuild(folder, report.repairable[0].problem))
    if as_json:
        _print({**salvage.plain(), "repaired": True})
    else:
        typer.echo(f"{folder}: {salvage.sentence()}; the damaged journal is {salvage.damaged}")


def _tell(report: FolderReport) -> None:
    for finding in report.findings:
        typer.echo(f"{finding.file}: {finding.problem}")
        typer.echo(f"  {finding.cure}")
    verdict = "sound" if report.sound else f"{len(report.findings)} findings"
    typer.echo(
        f"{report.path} ({report.replica or 'no identity'}): {report.frames} frames, "
        f"{report.snapshots} snapshots, {verdict}"
    )


def _print(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=2))
