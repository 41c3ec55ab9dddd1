"""Order in texts and sequences: the strong list specification, and what YATA promises beyond it.

After Attiya, Burckhardt, Gotsman, Morrison, Yang, Zawirski: "Specification and Complexity of
Collaborative Text Editing" (PODC 2016); interleaving after Weidner, Kleppmann: "The Art of the
Fugue" (2025): runs that were typed forward stay together, of others nothing is said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from simulations.judges.base import Judge
from simulations.judges.history import History, Outcome, Read, Write, sees

__all__ = ("ListOrder",)


class ListOrder(Judge):
    """Of lists in these `fields`, to which no element is ever added twice. There is one order of
    all elements that every read agrees with. Who adds elements at an index reads them there. What
    a replica has seen removed it does not show. Two runs of elements, each added in one go and
    neither by somebody who had seen the other, are not mixed.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        super().__init__()
        self._fields = fields

    def _wrong(self, history: History) -> Iterator[str]:
        writes: dict[tuple[str, str], list[Write]] = defaultdict(list)
        for write in history.writes:
            if write.outcome is not Outcome.FAIL:
                writes[write.document, write.place[0]].append(write)
        reads: dict[str, list[Read]] = defaultdict(list)
        for read in history.reads:
            if read.outcome is not Outcome.FAIL:
                reads[read.document].append(read)
        for document in history.documents():
            for field in self._fields:
                these = writes[document, field]
                yield from self._ordered(reads[document], field)
                yield from self._where_it_was_put(these, reads[document], field)
                yield from self._removed_for_good(these, reads[document], field)
                yield from self._apart(these, reads[document], field)

    def _ordered(self, reads: Sequence[Read], field: str) -> Iterator[str]:
        after: dict[Any, dict[Any, None]] = {}
        for values in {_elements(read, field): None for read in reads}:
            for one, other in pairwise(values):
                after.setdefault(one, {})[other] = None
                self.checked += 1
        circle = cycle(after)
        if circle and reads:
            yield f"{reads[0].document}, {field}: reads order {circle} in a circle"

    def _where_it_was_put(
        self, writes: Sequence[Write], reads: Sequence[Read], field: str
    ) -> Iterator[str]:
        """The read that follows a write at once is of the same client."""
        following = {read.index: read for read in reads}
        for write in writes:
            read = following.get(write.index + 1)
            if read is None or read.client != write.client:
                continue
            index, elements = write.value
            values = _elements(read, field)
            self.checked += 1
            if write.action == "type" and values[index : index + len(elements)] != elements:
                yield f"{_shown(read)}, {field}: {elements} are not at {index}, where it put them"
            left = [one for one in elements if one in values]
            if write.action == "rub" and left:
                yield f"{_shown(read)}, {field}: still shows {left}, which it has just removed"

    def _removed_for_good(
        self, writes: Sequence[Write], reads: Sequence[Read], field: str
    ) -> Iterator[str]:
        gone = {one: write for write in writes if write.action == "rub" for one in write.value[1]}
        for read in reads:
            for one in _elements(read, field):
                if one in gone:
                    self.checked += 1
                    if sees(read.seen, gone[one].dot):
                        yield f"{_shown(read)}, {field}: shows {one!r}, which it had seen removed"

    def _apart(self, writes: Sequence[Write], reads: Sequence[Read], field: str) -> Iterator[str]:
        run_of = {
            one: write for write in writes if write.action == "type" for one in write.value[1]
        }
        for values in {_elements(read, field): None for read in reads}:
            spans: dict[int, list[int]] = defaultdict(list)
            runs = [run_of[one] for one in values if one in run_of]
            for position, run in enumerate(runs):
                spans[run.index].append(position)
            for positions in spans.values():
                self.checked += 1
                mine = runs[positions[0]]
                between = runs[positions[0] : positions[-1] + 1]
                for other in between if len(between) > len(positions) else ():
                    if other is not mine and _concurrent(mine, other):
                        yield (
                            f"{mine.document}, {field}: within {mine.value[1]} of {mine.client} "
                            f"stands something of {other.value[1]} of {other.client}; neither "
                            "had seen the other's"
                        )
                        break


def _elements(read: Read, field: str) -> tuple[Any, ...]:
    return tuple(read.values.get(field) or ())


def _concurrent(one: Write, other: Write) -> bool:
    return not sees(one.seen, other.dot) and not sees(other.seen, one.dot)


def _shown(read: Read) -> str:
    return f"{read.client} reading {read.document} at {read.at:.3f} s"


def cycle(after: dict[Any, dict[Any, None]]) -> list[Any]:
    """Some circle of a graph, [] where there is none. By depth, without recursion."""
    done: set[Any] = set()
    for start in after:
        path: dict[Any, Iterator[Any]] = {}
        if start not in done:
            path[start] = iter(after[start])
        while path:
            node, rest = next(reversed(path.items()))
            following = next(rest, None)
            if following is None:
                done.add(node)
                del path[node]
            elif following in path:
                whole = list(path)
                return whole[whole.index(following) :]
            elif following not in done:
                path[following] = iter(after.get(following, ()))
    return []
