"""The parent: one child for links in memory, one for TCP; counts those that die or hang."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

ROOT: Final = Path(__file__).resolve().parents[3]
HANG_S: Final = 30.0
"""Without progress for this long (settling at the end included), a child hangs."""
SETTLE_HANG_S: Final = 120.0
POLL_S: Final = 0.05
MOST_DEATHS: Final = 10
MEMORY_FLAT_MB: Final = 96.0
"""What a child may grow by after its first quarter: inboxes, caches and queues have bounds, and the
honest writer's own history is in it."""
TCP_SHARE: Final = 50
"""One case in so many goes over TCP."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. `plant`: "module:function" that each child calls first."""

    cases: int
    seed: int = 1
    plant: str = ""


@dataclass(slots=True)
class _Lane:
    wire: str
    next: int
    stop: int
    place: Path
    out: Path
    child: subprocess.Popen[bytes] | None = None
    at: str = ""
    since: float = 0.0
    results: list[dict[str, Any]] = field(default_factory=list)


class Driver:
    """One run."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan = plan
        self._errors = folder / "stderr"
        over_tcp = plan.cases // TCP_SHARE
        self._lanes = [
            _Lane(wire, first, stop, folder / f"{wire}.at", folder / f"{wire}.json")
            for wire, first, stop in (
                ("memory", 0, plan.cases - over_tcp),
                ("tcp", plan.cases - over_tcp, plan.cases),
            )
            if stop > first
        ]
        self._deaths: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        """Run all of it; plain data."""
        begun = time.monotonic()
        try:
            while sum(self._turn(lane) for lane in self._lanes):
                time.sleep(POLL_S)
        finally:
            for lane in self._lanes:
                if lane.child is not None:
                    lane.child.kill()
                    lane.child.wait()
        return self._result(time.monotonic() - begun)

    def _turn(self, lane: _Lane) -> bool:
        """Look after one lane; False: nothing is left to do in it."""
        if lane.child is None:
            if lane.next >= lane.stop or len(self._deaths) >= MOST_DEATHS:
                return False
            self._start(lane)
            return True
        code, now = lane.child.poll(), time.monotonic()
        if code == 0:
            lane.results.append(json.loads(lane.out.read_text(encoding="utf-8")))
            lane.child, lane.next = None, lane.stop
        elif code is not None:
            self._lost(lane, "crashes", f"the child ended with {code}")
        elif (at := lane.place.read_text(encoding="ascii")) != lane.at:
            lane.at, lane.since = at, now
        elif now - lane.since > self._patience(lane):
            lane.child.kill()
            lane.child.wait()
            self._lost(lane, "hangs", "no progress")
        return True

    def _patience(self, lane: _Lane) -> float:
        last = lane.at.isdigit() and lane.stop - int(lane.at) < 64
        return SETTLE_HANG_S if last or not lane.at else HANG_S

    def _start(self, lane: _Lane) -> None:
        lane.place.write_text("", encoding="ascii")
        lane.at, lane.since = "", time.monotonic()
        plan = self._plan
        numbers = map(str, (plan.seed, lane.next, lane.stop))
        out: IO[bytes]
        with lane.out.open("wb") as out, self._errors.open("ab") as errors:
            lane.child = subprocess.Popen(
                [sys.executable, "-m", "tests.mesh.fuzz.worker", lane.wire, *numbers,
                 str(lane.place), *([plan.plant] if plan.plant else [])],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=errors,
            )  # fmt: skip

    def _lost(self, lane: _Lane, kind: str, what: str) -> None:
        words = self._errors.read_text(encoding="utf-8", errors="replace")[-1500:]
        number = int(lane.at or 0) - 1
        if number < 0:
            raise RuntimeError(f"a child was lost before its first case: {what}\n{words}")
        self._deaths.append({"found": kind, "case": number, "what": what, "trace": words})
        lane.child, lane.next = None, number + 32

    def _result(self, seconds: float) -> dict[str, Any]:
        parts = [one for lane in self._lanes for one in lane.results]
        findings = [*self._deaths, *(found for one in parts for found in one["findings"])]
        delays = sorted(delay for one in parts for delay in one["delays_ms"])
        count = {
            kind: sum(found["found"] == kind for found in findings)
            for kind in ("accepted", "crashes", "hangs")
        }
        return {
            "cases": self._plan.cases, "seed": self._plan.seed, "seconds": round(seconds, 1),
            **count,
            "memory_growth_mb": max((one["memory_growth_mb"] for one in parts), default=0.0),
            "memory_bound_mb": MEMORY_FLAT_MB,
            "ended_their_link": sum(one["ended_their_link"] for one in parts),
            "honest_updates": len(delays),
            "honest_delayed_ms_p99": delays[len(delays) * 99 // 100] if delays else None,
            "findings": [{**found, "seed": self._plan.seed} for found in findings],
        }  # fmt: skip


def fuzz(plan: Plan) -> dict[str, Any]:
    """Run the plan."""
    with tempfile.TemporaryDirectory(prefix="mesh-fuzz-") as folder:
        return Driver(plan, Path(folder)).run()


def passed(result: dict[str, Any]) -> bool:
    """Whether nothing got in, broke or hung, memory stayed flat and honest traffic went on."""
    wrong = result["accepted"] + result["crashes"] + result["hangs"]
    flat = result["memory_growth_mb"] <= MEMORY_FLAT_MB
    return not wrong and flat and result["honest_updates"] > 0
