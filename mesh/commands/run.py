"""`mesh run DIR`: a replica without an agent. It keeps the state, serves others, says how it is."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.health import OFF
from mesh.replica import Replica

__all__ = ("run_replica",)

LOOK_S = 0.2
"""How often it looks for news."""


def run_replica(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The replica's data folder.")],
    seed: Annotated[
        list[str] | None,
        typer.Option("--seed", metavar="HOST:PORT", help="A replica to dial; may be repeated."),
    ] = None,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where to accept peers.")
    ] = "",
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=0.05, help="Between two lines.")
    ] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Run a replica until SIGTERM or an interrupt: it keeps the state and serves others.

    Prints a line when it starts, when a part changes its state, now and then, and when it has
    ended in order.
    """
    settings: dict[str, Any] = {}
    if seed:
        settings["peers__seeds"] = tuple(seed)
    if listen:
        settings["peers__listen"] = listen
    asyncio.run(_live(folder, settings, every, as_json))


async def _live(folder: Path, settings: dict[str, Any], every: float, as_json: bool) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with Replica.open(folder, **settings) as replica:
            _say(replica, "running", as_json)
            while not stop.is_set():
                await _until(stop, every, replica)
                if not stop.is_set():
                    _say(replica, "running", as_json)
            await replica.close()
            _say(replica, "closed", as_json)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _until(stop: asyncio.Event, seconds: float, replica: Replica) -> None:
    """Wait for the end, until a part changes its state, or for so long."""
    before = _states(replica)
    until = asyncio.get_running_loop().time() + seconds
    while _states(replica) == before and (left := until - asyncio.get_running_loop().time()) > 0:
        try:
            async with asyncio.timeout(min(LOOK_S, left)):
                await stop.wait()
                return
        except TimeoutError:
            continue


def _states(replica: Replica) -> dict[str, str]:
    return {part: health.state for part, health in replica.health().items()}


def _say(replica: Replica, state: str, as_json: bool) -> None:
    status = replica.status()
    line = {
        "state": state, "replica": replica.name, "address": status["address"],
        "loading": status["loading"], "documents": status["documents"],
        "entries": status["entries"],
        "peers": [peer["name"] for peer in status["peers"] if peer["connected"]],
        "refused": status["refused"], "health": status["health"],
    }  # fmt: skip
    if as_json:
        text = json.dumps(line)
    else:
        parts = (
            f"{part} {health['state']}" + (f" ({health['reason']})" if health["reason"] else "")
            for part, health in status["health"].items()
            if health["state"] != OFF
        )
        loading = f" ({line['loading']} shards still to load)" if line["loading"] else ""
        text = (
            f"{replica.name} {state} at {line['address'] or 'no address'}: {line['documents']} "
            f"documents{loading}, {len(line['peers'])} peers; {', '.join(parts)}"
        )
    print(text, file=sys.stdout, flush=True)  # noqa: T201 - what the command is for
