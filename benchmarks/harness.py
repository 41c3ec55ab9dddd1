"""The harness: ours and what it is measured against take turns in one run.

A benchmark is a module of this package with one coroutine:

    async def measure(run: Run) -> None:
        await run.compare(
            [Figure("acknowledged, p50", "ms", Aim("ratio", "<=", 1.5))], ours=append, bare=send
        )

`ours`, `bare` (the driver alone) and `peer` (what one would use instead) each do one round and
return a number for every figure they know. One round warms up; then come `rounds` more, in turns
and in alternating order (A B, B A, A B, …), so that whatever else the machine does meanwhile
befalls all of them. What counts is each one's median.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import operator
import os
import platform
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from mesh.stack.recipe import Say, silent

ROUNDS: Final = 5
ROUND_S: Final = 120.0
"""A round that takes longer hangs."""
DIGITS: Final = 4
"""What is significant of a figure, generously."""

Measured: TypeAlias = Mapping[str, float]
"""{name of a figure: number} of one round."""
Side: TypeAlias = Callable[[], Awaitable[Measured]]
"""Does one round."""

_COMPARISONS: Final = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


class BenchmarkError(Exception):
    """A benchmark could not be carried out. One line."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What a row should reach: our figure, or its ratio to the bare driver's (else the peer's)."""

    of: Literal["ours", "ratio"]
    comparison: Literal["<", "<=", ">", ">="]
    bound: float

    def __str__(self) -> str:
        what = "" if self.of == "ours" else f"{self.of} "
        return f"{what}{self.comparison} {self.bound:g}"

    def met_by(self, ours: float, ratio: float | None) -> bool:
        """Whether it is reached. What can't be judged isn't."""
        value = ours if self.of == "ours" else ratio
        return value is not None and bool(_COMPARISONS[self.comparison](value, self.bound))


@dataclass(frozen=True, slots=True)
class Figure:
    """What one row is about."""

    name: str
    unit: str
    aim: Aim | None = None
    besides: Aim | None = None
    """A second aim of the same row: it is met only with both."""

    @property
    def aims(self) -> tuple[Aim, ...]:
        """Those there are."""
        return tuple(aim for aim in (self.aim, self.besides) if aim is not None)


@dataclass(frozen=True, slots=True)
class Row:
    """Medians, None where there is none. `ratio`: ours to bare, to the peer if nothing is bare."""

    figure: str
    unit: str
    ours: float
    bare: float | None
    peer: float | None
    ratio: float | None
    aim: str | None
    met: bool | None


@dataclass(slots=True)
class Run:
    """One run of one benchmark: what it was asked for, a folder that goes with it, and its rows.

    `quick`: a run that only shows that all of it works; its figures mean nothing.
    """

    folder: Path
    rounds: int = ROUNDS
    quick: bool = False
    say: Say = silent
    entries: int = 0
    """How many entries the largest state has; 0: as many as the benchmark's aim is about."""
    rows: list[Row] = field(default_factory=list)

    def size(self, full: int, quick: int) -> int:
        """How many of something a round has."""
        return quick if self.quick else full

    async def compare(
        self,
        figures: Sequence[Figure],
        *,
        ours: Side,
        bare: Side | None = None,
        peer: Side | None = None,
    ) -> None:
        """Measure, and add a row for every figure. Raises BenchmarkError."""
        given: dict[str, Side | None] = {"ours": ours, "bare": bare, "peer": peer}
        sides = {name: side for name, side in given.items() if side is not None}
        known = {figure.name for figure in figures}
        taken: dict[str, list[Measured]] = {name: [] for name in sides}
        for number in range(self.rounds + 1):
            turns = list(sides) if number % 2 == 0 else list(reversed(sides))
            for name in turns:
                measured = await _one_round(f"{name} of {figures[0].name!r}", sides[name])
                if strange := sorted(measured.keys() - known):
                    raise BenchmarkError(f"{name} measured {strange}, which is no figure here")
                if number:
                    taken[name].append(measured)
            self._tell(number, figures, taken)
        self.rows += [_row(figure, taken) for figure in figures]

    def _tell(
        self, number: int, figures: Sequence[Figure], taken: Mapping[str, Sequence[Measured]]
    ) -> None:
        if not number:
            self.say(f"warmed up for {'; '.join(figure.name for figure in figures)}")
            return
        texts = []
        for name, rounds in taken.items():
            values = [rounds[-1].get(figure.name) for figure in figures]
            texts.append(f"{name} {' '.join(_short(value) for value in values)}")
        self.say(f"round {number} of {self.rounds}: {'; '.join(texts)}")


def summary(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """A run's result, as plain data: DESIGN's one object."""
    fields = Row.__dataclass_fields__
    return {
        "name": name,
        "machine": machine(),
        "rows": [{key: getattr(row, key) for key in fields} for row in rows],
    }


def succeeded(result: Mapping[str, Any]) -> bool:
    """Whether everything that has an aim reached it."""
    return all(row["met"] is not False for row in result["rows"])


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "os": f"{_distribution()}, {platform.system()} {platform.release()}",
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of all does not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def latencies(name: str, seconds: Sequence[float]) -> dict[str, float]:
    """The figures `latency_figures` announces, in milliseconds."""
    return {
        f"{name}, p50": 1_000 * percentile(seconds, 0.5),
        f"{name}, p99": 1_000 * percentile(seconds, 0.99),
    }


def latency_figures(name: str, p50: Aim | None = None, p99: Aim | None = None) -> list[Figure]:
    """Two rows: median and 99th percentile of something that takes milliseconds."""
    return [Figure(f"{name}, p50", "ms", p50), Figure(f"{name}, p99", "ms", p99)]


async def _one_round(what: str, side: Side) -> Measured:
    gc.collect()  # nobody pays for another one's garbage
    try:
        async with asyncio.timeout(ROUND_S):
            return await side()
    except TimeoutError:
        raise BenchmarkError(f"a round of {what} took more than {ROUND_S:g} s") from None


def _row(figure: Figure, taken: Mapping[str, Sequence[Measured]]) -> Row:
    medians: dict[str, float | None] = {"bare": None, "peer": None}
    for name, rounds in taken.items():
        values = [measured[figure.name] for measured in rounds if figure.name in measured]
        medians[name] = statistics.median(values) if values else None
    ours, bare, peer = medians["ours"], medians["bare"], medians["peer"]
    if ours is None:
        raise BenchmarkError(f"{figure.name!r} was announced and not measured")
    base = peer if bare is None else bare
    ratio = ours / base if base else None
    return Row(
        figure.name, figure.unit, _rounded(ours), _rounded(bare), _rounded(peer), _rounded(ratio),
        ", ".join(map(str, figure.aims)) or None,
        all(aim.met_by(ours, ratio) for aim in figure.aims) if figure.aims else None,
    )  # fmt: skip


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _rounded(value: float | None) -> Any:
    return None if value is None else float(f"{value:.{DIGITS}g}")


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform(terse=True)
