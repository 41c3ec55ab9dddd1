"""The parent: keeps children running, and counts the cases that end or stop them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.crdt.fuzz import worker
from tests.crdt.fuzz.cases import NAMES, TARGETS, case_of
from tests.crdt.fuzz.verdict import Outcome

ROOT: Final = Path(__file__).resolve().parents[3]
HANG_S: Final = 10.0
START_S: Final = 60.0
"""How long a child may take until its first case."""
POLL_S: Final = 0.05
MOST_DEATHS: Final = 200
"""After so many dead children the run ends: it has made its point."""
OUTCOMES: Final = len(Outcome)
KINDS: Final = {"crash": "crashes", "memory": "crashes", "hang": "hangs",
                "invalid": "accepted_invalid", "exception": "accepted_invalid"}  # fmt: skip

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: cases `first` … `first + cases - 1`, spread over `processes` children.

    `plant`: "module:function" that each child calls first, to make something faulty on purpose.
    """

    cases: int
    seed: int = 1
    first: int = 0
    processes: int = 2
    hang_s: float = HANG_S
    keep: Path | None = None
    plant: str = ""


@dataclass(slots=True)
class _Lane:
    """One child after the other, with every so manieth case."""

    next: int
    place: Path
    findings: Path
    board: memoryview
    child: subprocess.Popen[bytes] | None = None
    at: int = 0
    since: float = field(default_factory=time.monotonic)


class Driver:
    """One run."""

    def __init__(self, plan: Plan, folder: Path, tell: Tell) -> None:
        self._plan = plan
        self._tell = tell
        self._folder = folder
        self._stop = plan.first + plan.cases
        self._died: list[dict[str, Any]] = []
        self._lanes = [self._lane(number) for number in range(plan.processes)]

    def run(self) -> dict[str, Any]:
        """Run all of it. The result is plain data; what was wrong is kept in files as well."""
        begun = told = time.monotonic()
        try:
            while any(self._turn(lane) for lane in self._lanes):
                time.sleep(POLL_S)
                if time.monotonic() - told > 0.5:
                    told = time.monotonic()
                    self._tell(self._progress(told - begun))
        finally:
            for lane in self._lanes:
                if lane.child is not None:
                    lane.child.kill()
                    lane.child.wait()
        return self._result(time.monotonic() - begun)

    def _lane(self, number: int) -> _Lane:
        place, findings = self._folder / f"board-{number}", self._folder / f"findings-{number}"
        place.write_bytes(bytes(worker.SIZE))
        findings.touch()
        return _Lane(self._plan.first + number, place, findings, worker.board(place))

    def _turn(self, lane: _Lane) -> bool:
        """Look after one lane; False: there is nothing left to do in it."""
        if lane.child is None:
            if lane.next >= self._stop or len(self._died) >= MOST_DEATHS:
                return False
            self._start(lane)
            return True
        assert lane.child is not None
        code = lane.child.poll()
        at, now = int(lane.board[worker.AT]), time.monotonic()
        if code == 0:
            lane.child, lane.next = None, self._stop
        elif code is not None:
            self._lost(lane, "crash", f"the child ended with {code}")
        elif at != lane.at:
            lane.at, lane.since = at, now
        elif now - lane.since > (self._plan.hang_s if at else START_S):
            lane.child.kill()
            lane.child.wait()
            self._lost(lane, "hang", f"no progress for {self._plan.hang_s:g} s")
        return True

    def _start(self, lane: _Lane) -> None:
        plan = self._plan
        lane.board[worker.AT] = 0
        lane.at, lane.since = 0, time.monotonic()
        numbers = (plan.seed, lane.next, self._stop, plan.processes)
        plant = [plan.plant] if plan.plant else []
        with (self._folder / "stderr").open("ab") as errors:
            lane.child = subprocess.Popen(
                [sys.executable, "-m", "tests.crdt.fuzz.worker", *map(str, numbers),
                 str(lane.place), str(lane.findings), *plant],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
            )  # fmt: skip

    def _lost(self, lane: _Lane, kind: str, what: str) -> None:
        """A child is gone; its case counts, and the lane goes on behind it."""
        lane.child, number = None, int(lane.board[worker.AT]) - 1
        if number < 0:
            words = (self._folder / "stderr").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"a child {what} before its first case:\n{words}")
        lane.board[worker.DONE] += 1
        lane.next = number + self._plan.processes
        target = case_of(self._plan.seed, number).target
        self._died.append({"case": number, "kind": kind, "target": target, "what": what})

    # ----------------------------------------------------------------------------------- results

    def _done(self) -> int:
        return sum(int(lane.board[worker.DONE]) for lane in self._lanes)

    def _progress(self, seconds: float) -> str:
        done, found = self._done(), len(self._found())
        return (
            f"{done:,} of {self._plan.cases:,} cases, {done / seconds:,.0f}/s, "
            f"{found} finding{'' if found == 1 else 's'}"
        )

    def _found(self) -> list[dict[str, Any]]:
        lines = [line for lane in self._lanes for line in lane.findings.read_text().splitlines()]
        return sorted([*map(json.loads, lines), *self._died], key=lambda each: int(each["case"]))

    def _result(self, seconds: float) -> dict[str, Any]:
        found = self._found()
        counted = dict.fromkeys(("crashes", "hangs", "accepted_invalid"), 0)
        for each in found:
            counted[KINDS[each["kind"]]] += 1
        slowest = max(self._lanes, key=lambda lane: int(lane.board[worker.SLOWEST_US])).board
        self._keep(found)
        return {
            "cases": self._done(),
            "seconds": round(seconds, 1),
            "seed": self._plan.seed,
            "first": self._plan.first,
            **counted,
            "targets": {name: self._of_target(name, found) for name in NAMES},
            "slowest": {
                "case": int(slowest[worker.SLOWEST]),
                "ms": int(slowest[worker.SLOWEST_US]) / 1000,
            },
            "findings": [{k: v for k, v in each.items() if k != "trace"} for each in found[:50]],
        }

    def _of_target(self, name: str, found: list[dict[str, Any]]) -> dict[str, int]:
        at = worker.COUNTS + OUTCOMES * list(TARGETS).index(name)
        counts = [sum(int(lane.board[at + n]) for lane in self._lanes) for n in range(OUTCOMES)]
        failed = sum(each["target"] == name for each in found)
        refused, accepted, reordered = counts
        return {
            "cases": sum(counts) + failed,
            "accepted": accepted + reordered,
            "refused": refused,
            "reordered": reordered,
        }

    def _keep(self, found: list[dict[str, Any]]) -> None:
        """Save every case that went wrong, with its bytes."""
        if not found:
            return
        folder = self._plan.keep or Path(tempfile.mkdtemp(prefix="fuzz-findings-"))
        folder.mkdir(parents=True, exist_ok=True)
        for each in found:
            case = case_of(self._plan.seed, each["case"])
            saved = {"seed": self._plan.seed, **each, "data": case.data.hex()}
            saved["context"] = repr(case.context)
            (folder / f"case-{each['case']}.json").write_text(json.dumps(saved, indent=1) + "\n")
        self._tell(f"{len(found)} cases kept in {folder}")


def fuzz(plan: Plan, tell: Tell = lambda line: None) -> dict[str, Any]:
    """Carry out a plan; the result is what `python -m tests.crdt.fuzz --json` prints."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        return Driver(plan, Path(folder), tell).run()
