"""Stamps of hybrid clocks, and whether who is there answers."""

from __future__ import annotations

from collections.abc import Iterator

from crdt.clock import DRIFT_MS, stamp_ms
from simulations.judges.base import Judge
from simulations.judges.history import History, Outcome, Write

__all__ = ("Availability", "HybridClocks")

SLACK_MS = 1_000
"""Drift within a run, and counters of stamps that flow over."""


class HybridClocks(Judge):
    """Within a run every stamp is greater than the one before, also of who goes from one replica to
    another, unless clocks are too far apart to follow each other. None is behind its own wall
    clock, none ahead of the one that was ever furthest ahead. What is written over something seen
    has the greater stamp.
    """

    def _wrong(self, history: History) -> Iterator[str]:
        last: dict[str, Write] = {}
        over: dict[tuple[str, tuple[object, ...]], list[Write]] = {}
        for one in history.writes:
            if one.outcome is Outcome.FAIL:
                continue
            self.checked += 1
            where = f"{one.client} writing {one.document} at {one.at:.3f} s"
            before = last.get(one.run)
            if before is not None and one.stamp <= before.stamp and not _may_differ(before, one):
                yield f"{where}: stamp {one.stamp} after {before.stamp}"
            last[one.run] = one
            if not one.wall_ms <= stamp_ms(one.stamp) <= one.furthest_ms + SLACK_MS:
                yield (
                    f"{where}: stamp of {stamp_ms(one.stamp)} ms, by a clock that shows "
                    f"{one.wall_ms} where the furthest shows {one.furthest_ms}"
                )
            if one.action == "set":
                same = over.setdefault((one.document, one.place), [])
                for other in same:
                    known = other.dot[1] <= one.seen.get(other.dot[0], 0)
                    if known and other.field_stamp >= one.field_stamp > 0:
                        yield (
                            f"{where}: stamp {one.field_stamp} over {other.field_stamp}, which "
                            "its writer had seen"
                        )
                same.append(one)


def _may_differ(before: Write, now: Write) -> bool:
    """Whether who wrote has come to a clock so far behind that it may not follow what he has seen.
    Half as far, for it may have been set since.
    """
    far = now.furthest_ms - now.wall_ms > DRIFT_MS // 2
    return far and now.replica != before.replica


class Availability(Judge):
    """Edits and reads of a replica that is up succeed, whatever the network does. `excuses` are
    reasons for which an edit may be refused: its own disk takes nothing.
    """

    def __init__(self, excuses: frozenset[str]) -> None:
        super().__init__()
        self._excuses = excuses

    def _wrong(self, history: History) -> Iterator[str]:
        for one in history.records():
            self.checked += 1
            if one.outcome is Outcome.FAIL and one.reason not in self._excuses:
                did = "writing" if isinstance(one, Write) else "reading"
                yield f"{one.client} {did} {one.document} at {one.at:.3f} s: {one.reason}"
