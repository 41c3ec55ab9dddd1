"""The report of one seed: one HTML page that has everything in it and fetches nothing.

`report.html`, with its style and its script beside it, is the page. It draws what stands in it as
one JSON object.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crdt.errors import CallerError
from mesh.instrumentation import EVENTS
from simulations.batch import Task
from simulations.faults.kinds import KINDS
from simulations.report.recording import STATES, Recording, watch
from simulations.run import START_S, Outcome

__all__ = ("check_place", "compose", "figures", "write_report")

HERE = Path(__file__).parent


def check_place(path: Path | None) -> None:
    """Raise CallerError if no report can be written there; None: none is wanted."""
    if path is not None:
        with _named(path):
            path.open("ab").close()


def write_report(path: Path, task: Task, outcome: Outcome, command: str) -> None:
    """Run once more what had this outcome, and write its report. `command` runs it again. Raises
    CallerError if it can't be written.
    """
    page = compose(figures(task, outcome, watch(task, outcome), command))
    with _named(path):
        path.write_text(page, "utf-8")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CallerError(
            f"--report {path}: {reason}; name a file in a folder that is there and can be written"
        ) from None


def compose(data: dict[str, Any]) -> str:
    """The page that shows this."""
    # A script ends where a "<" stands at the wrong place: there is none.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    page = (HERE / "report.html").read_text("utf-8")
    for name, part in {
        "style": (HERE / "report.css").read_text("utf-8"),
        "script": (HERE / "report.js").read_text("utf-8"),
        "data": text,  # last: nothing in it is a place for anything
    }.items():
        page = page.replace("{{" + name + "}}", part)
    return page


def figures(task: Task, outcome: Outcome, seen: Recording, command: str) -> dict[str, Any]:
    """All that the page shows, as data. Times are virtual seconds since the world began."""
    violations = [
        dataclasses.asdict(one) | {"before": before}
        for one, before in zip(outcome.violations, seen.before, strict=True)
    ]
    return {
        "scenario": task.scenario.name,
        "meaning": task.scenario.meaning,
        "seed": outcome.seed,
        "command": command,
        "verdict": "not held" if violations else "held",
        "same": seen.trace_hash == outcome.trace_hash,
        "trace_hash": outcome.trace_hash,
        "seconds": round(outcome.seconds, 3),
        "faults_over": START_S + task.scenario.fault_s,
        "healed": outcome.healed_s,
        "events": seen.events,
        "frames": seen.frames,
        "messages": seen.messages,
        "bytes": seen.bytes,
        "counts": [
            (kind, times, EVENTS.get(kind, "")) for kind, times in sorted(outcome.counts.items())
        ],
        "replicas": list(seen.lanes),
        "states": STATES,
        "width": seen.width_s,
        "lanes": {name: lane.plain() for name, lane in seen.lanes.items()},
        "flying": seen.flying,
        "held": seen.held,
        "different": seen.different,
        "apart": seen.apart,
        "kinds": list(KINDS),
        "faults": [
            bar.fault.plain()
            | {
                "number": bar.number,
                "begin": bar.begin,
                "end": bar.end,
                "meaning": KINDS[bar.fault.kind].meaning,
            }
            for bar in seen.bars
        ],
        "violations": violations,
    }
