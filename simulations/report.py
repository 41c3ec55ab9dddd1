"""One run on one page: who was up, what went wrong, how far replicas were apart, and how it ended.

The page is HTML with drawings (SVG) in it: one file, no scripts, nothing to load. What a stretch or
a mark means shows when the pointer rests on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias

from simulations.faults import KINDS
from simulations.invariants import Checker

if TYPE_CHECKING:
    from simulations.run import Outcome
    from simulations.world import World

__all__ = ("Observer", "Sample", "page")

Lines: TypeAlias = dict[str, list[tuple[float, int | None]]]
"""{name: its points (second, value)}; None where it has none."""
UP, DOWN, PAUSED = "up", "down", "paused"
_LEFT, _WIDTH, _ROW, _CHART = 130.0, 1_000.0, 20.0, 90.0
_COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5")
_STATES = {UP: "#3ca951", DOWN: "#c9c9c9", PAUSED: "#efb118"}


@dataclass(frozen=True, slots=True)
class Sample:
    """The world at one instant: per host its state, and how many operations it lacks of all that
    anybody has; how many different states there are; messages that arrived since the last sample.
    """

    at: float
    states: dict[str, str]
    behind: dict[str, int]
    apart: int
    messages: int


class Observer(Checker):
    """Looks, and judges nothing."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.samples: list[Sample] = []
        self._messages = 0

    def look(self) -> None:
        """See `Checker.look`."""
        world = self.world
        have = {host.name: _operations(host.lattices.values()) for host in world.up}
        everything: dict[tuple[int, int], int] = {}
        for frontier in have.values():
            for name, seq in frontier.items():
                everything[name] = max(seq, everything.get(name, 0))
        total = sum(everything.values())
        states = {}
        for host in world.hosts.values():
            run = host.run
            paused = run is not None and run.life.suspended
            states[host.name] = PAUSED if paused else UP if host.name in have else DOWN
        self.samples.append(
            Sample(
                world.now,
                states,
                {name: total - sum(frontier.values()) for name, frontier in have.items()},
                len({tuple(sorted(frontier.items())) for frontier in have.values()}),
                world.network.messages - self._messages,
            )
        )
        self._messages = world.network.messages


def _operations(shards: Iterable[object]) -> dict[tuple[int, int], int]:
    return {
        (index, session): seq
        for index, shard in enumerate(shards)
        for session, seq in shard.frontier.items()  # type: ignore[attr-defined]
    }


def page(scenario: str, outcome: Outcome, command: str) -> str:
    """The whole page."""
    verdict = f"{len(outcome.violations)} violations" if outcome.violations else "everything held"
    title = f"{scenario}, seed {outcome.seed}: {verdict}"
    healed = "never" if outcome.healed_s is None else f"within {outcome.healed_s:.1f} s"
    facts = {
        "simulated": f"{outcome.seconds:.1f} s",
        "edits": str(outcome.counts["edits"]),
        "acknowledged": str(outcome.counts["acknowledged"]),
        "restarts": str(max(0, outcome.counts["replica.started"] - len(_names(outcome)))),
        "agreed after the faults": healed,
        "trace": outcome.trace_hash,
    }
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>{escape(title)}</title><style>{_STYLE}</style><h1>{escape(title)}</h1>",
        "<dl>",
        *(f"<div><dt>{escape(k)}<dd>{escape(v)}</div>" for k, v in facts.items()),
        "</dl>",
        *(f"<p class=bad>{escape(str(one))}" for one in outcome.violations),
        f"<pre>{escape(command)}</pre>",
        "<h2>Replicas</h2>",
        _drawing(outcome, _replicas(outcome), len(_names(outcome)) * _ROW),
        "<p class=key>",
        *(f"<i style='background:{colour}'></i>{name} " for name, colour in _STATES.items()),
        "<h2>Faults</h2>",
        _drawing(outcome, _faults(outcome), len(outcome.plan) * _ROW),
    ]
    if outcome.samples:
        parts += _charts(outcome, outcome.samples)
    return "\n".join(parts)


def _charts(outcome: Outcome, samples: Sequence[Sample]) -> list[str]:
    names = _names(outcome)
    lag = {name: [(one.at, one.behind.get(name)) for one in samples] for name in names}
    charts: dict[str, Lines] = {
        "Operations each replica lacks": lag,
        "Different states": {"states": [(one.at, one.apart) for one in samples]},
        "Messages sent in half a second": {"messages": [(one.at, one.messages) for one in samples]},
    }
    found = []
    for heading, lines in charts.items():
        found += [f"<h2>{heading}</h2>", _drawing(outcome, _chart(outcome, lines), _CHART)]
        if len(lines) > 1:
            found.append("<p class=key>")
            found += [
                f"<i style='background:{_colour(number)}'></i>{escape(name)} "
                for number, name in enumerate(lines)
            ]
    return found


# ---------------------------------------------------------------------- drawing


def _names(outcome: Outcome) -> list[str]:
    return list(outcome.samples[0].states) if outcome.samples else []


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _x(outcome: Outcome, at: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - 10) * at / max(outcome.seconds, 1e-9)


def _drawing(outcome: Outcome, inner: list[str], height: float) -> str:
    """A drawing with a scale of seconds under it, and a line for each violation."""
    step = next((s for s in (1, 2, 5, 10, 30, 60, 120) if outcome.seconds / s <= 16), 300)
    below = []
    for second in range(0, int(outcome.seconds) + 1, step):
        x = _x(outcome, second)
        below.append(f"<line class=grid x1={x:.1f} x2={x:.1f} y1=0 y2={height + 4:.0f} />")
        below.append(f"<text x={x:.1f} y={height + 16:.0f} class=mid>{second} s</text>")
    above = []
    for violation in outcome.violations:
        x = _x(outcome, violation.at)
        above.append(
            f"<line class=bad x1={x:.1f} x2={x:.1f} y1=0 y2={height:.0f}>"
            f"<title>{escape(str(violation))}</title></line>"
        )
    size = f"viewBox='0 0 {_WIDTH:.0f} {height + 20:.0f}'"
    return f"<svg {size}>{''.join(below)}{''.join(inner)}{''.join(above)}</svg>"


def _bar(outcome: Outcome, row: int, start: float, end: float, colour: str, title: str) -> str:
    x = _x(outcome, start)
    width = max(1.5, _x(outcome, end) - x)
    return (
        f"<rect x={x:.1f} y={row * _ROW + 3:.0f} width={width:.1f} height={_ROW - 6:.0f} "
        f"fill='{colour}'><title>{escape(title)}</title></rect>"
    )


def _label(row: int, text: str) -> str:
    return f"<text x={_LEFT - 8:.0f} y={row * _ROW + 14:.0f} class=end>{escape(text)}</text>"


def _replicas(outcome: Outcome) -> list[str]:
    drawn = []
    for row, name in enumerate(_names(outcome)):
        drawn.append(_label(row, name))
        ends = [one.at for one in outcome.samples[1:]] + [outcome.seconds]
        timed = zip(outcome.samples, ends, strict=True)
        for state, group in groupby(timed, key=lambda pair: pair[0].states[name]):
            stretch = list(group)
            start, end = stretch[0][0].at, stretch[-1][1]
            title = f"{name} {state}, {start:.1f}–{end:.1f} s"
            drawn.append(_bar(outcome, row, start, end, _STATES[state], title))
    return drawn


def _faults(outcome: Outcome) -> list[str]:
    drawn = []
    kinds = list(KINDS)
    for row, (number, fault) in enumerate(outcome.plan.items()):
        drawn.append(_label(row, f"{number} {fault.kind}"))
        begin = outcome.faults_at
        title = f"{fault}: {KINDS[fault.kind].meaning}"
        colour = _colour(kinds.index(fault.kind))
        drawn.append(_bar(outcome, row, begin + fault.t, begin + fault.until, colour, title))
    return drawn


def _chart(outcome: Outcome, lines: Lines) -> list[str]:
    most = max((value or 0 for points in lines.values() for _, value in points), default=0) or 1
    drawn = [_label(0, str(most)), f"<text x={_LEFT - 8:.0f} y={_CHART:.0f} class=end>0</text>"]
    for number, (name, points) in enumerate(lines.items()):
        for there, stretch in groupby(points, key=lambda point: point[1] is not None):
            if not there:
                continue
            path = " ".join(
                f"{_x(outcome, at):.1f},{_CHART - 2 - (_CHART - 10) * (value or 0) / most:.1f}"
                for at, value in stretch
            )
            drawn.append(
                f"<polyline points='{path}' stroke='{_colour(number)}'>"
                f"<title>{escape(name)}</title></polyline>"
            )
    return drawn


_STYLE = """
body { font: 14px system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em;
       color: #222; background: #fff }
h1 { font-size: 1.4em } h2 { font-size: 1em; margin: 1.6em 0 .3em }
dl { display: flex; flex-wrap: wrap; gap: .4em 2em } dt { color: #666; font-size: .85em }
dd { margin: 0; font-variant-numeric: tabular-nums } pre { background: #f3f3f3; padding: .6em }
svg { width: 100%; display: block; overflow: visible } text { font-size: 11px; fill: #444 }
.end { text-anchor: end } .mid { text-anchor: middle; fill: #888 } .grid { stroke: #e4e4e4 }
polyline { fill: none; stroke-width: 1.5; stroke-linejoin: round }
line.bad { stroke: #c00; stroke-width: 2 } p.bad { color: #c00; margin: .3em 0 }
.key { font-size: .85em; color: #444; margin: .2em 0 } .key i { display: inline-block;
  width: .8em; height: .8em; margin: 0 .3em 0 .8em }
"""
