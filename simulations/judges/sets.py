"""What was added to a set and acknowledged is in it: Jepsen's `set-full`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simulations.judges.base import Judge
from simulations.judges.history import History, Outcome, Read, Write

__all__ = ("SetFull", "SetResult")

QUANTILES = (0.0, 0.5, 0.95, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class SetResult:
    """What became of the elements of one set. `stale`: not in every read after they were known.

    `latencies`: {quantile: seconds from being known to being in every read}, of stable ones.
    """

    attempts: int
    stable: tuple[Any, ...]
    lost: tuple[Any, ...]
    never_read: tuple[Any, ...]
    stale: tuple[Any, ...]
    duplicated: Mapping[Any, int]
    latencies: Mapping[float, float]

    @property
    def valid(self) -> bool | None:
        """None: nothing is known, since no element was ever seen to stay."""
        if self.lost or self.duplicated:
            return False
        return True if self.stable else None


class SetFull(Judge):
    """Every element is *stable*, *lost* or *never read*, as in Jepsen's `set-full`.

    An element is known from the end of its addition, or from the first read that has it. It is
    stable if the last read that had it began after the last one that had it not; lost if it was
    known, and a read that began later is after all that had it, and has it not. No element may be
    lost, none may be twice in a read. Only reads that ended `OK` count, and nothing may ever be
    removed from the `fields`.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        super().__init__()
        self._fields = fields
        self.results: dict[tuple[str, str], SetResult] = {}
        """By document and field."""

    def _wrong(self, history: History) -> Iterator[str]:
        for document in history.documents():
            for field in self._fields:
                adds = [
                    one
                    for one in history.writes
                    if (one.document, one.place[0]) == (document, field)
                ]
                reads = [
                    one
                    for one in history.reads
                    if one.document == document and one.outcome is Outcome.OK
                ]
                result = self.results[document, field] = classify(adds, reads, field)
                self.checked += len(result.stable) + len(result.lost)
                for element in result.lost:
                    yield f"{document}, {field}: {element!r} was known to be there, and is lost"
                for element, count in result.duplicated.items():
                    yield f"{document}, {field}: {element!r} is there {count} times"


def classify(adds: Sequence[Write], reads: Sequence[Read], field: str) -> SetResult:
    """What became of what was added to this field; the reads are in the order of invocation."""
    known: dict[Any, tuple[int, float]] = {
        one.value: (one.done, one.done_at) for one in adds if one.outcome is Outcome.OK
    }
    present: dict[Any, Read] = {}
    absent: dict[Any, Read] = {}
    duplicated: dict[Any, int] = {}
    began = {one.value: one.index for one in adds}
    for read in reads:
        counts = Counter(read.values.get(field) or ())
        for element, count in counts.items():
            if count > 1:
                duplicated[element] = max(count, duplicated.get(element, 0))
            if element in began:
                present[element] = read
                first = known.get(element)
                if first is None or read.index < first[0]:
                    known[element] = read.index, read.at
        for element in began.keys() - counts.keys():
            if began[element] < read.index:
                absent[element] = read
    stable: list[Any] = []
    lost: list[Any] = []
    never_read: list[Any] = []
    stale: list[Any] = []
    latencies: list[float] = []
    for element in began:
        seen, missed = present.get(element), absent.get(element)
        last_seen, last_missed = (one.index if one else -1 for one in (seen, missed))
        if seen is not None and last_missed < last_seen:
            stable.append(element)
            latency = max(0.0, missed.at - known[element][1]) if missed else 0.0
            latencies.append(latency)
            if latency:
                stale.append(element)
        elif element in known and missed and last_seen < last_missed > known[element][0]:
            lost.append(element)
        else:
            never_read.append(element)
    return SetResult(
        len(began), tuple(stable), tuple(lost), tuple(never_read), tuple(stale), duplicated,
        quantiles(latencies),
    )  # fmt: skip


def quantiles(values: Sequence[float]) -> dict[float, float]:
    """The values at these parts of them; nothing of nothing."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return {one: ordered[min(last, int(len(ordered) * one))] for one in QUANTILES if ordered}
