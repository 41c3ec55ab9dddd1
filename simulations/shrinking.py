"""A failing seed made smaller: fewer faults, hosts and writers, and still the same failure.

Each is left out in halves, quarters and so on, then one by one (delta debugging, Zeller and
Hildebrandt 2002), as long as what is left breaks the same invariant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from simulations.batch import Task, perform_one
from simulations.run import Outcome, Part

__all__ = ("fewest", "shrink")

RUNS_MAX = 300
"""How often a seed is run at most; what is left then is what there is."""
HOSTS_MIN = 2

Numbers = tuple[int, ...]


def shrink(task: Task, failed: Outcome, tell: Callable[[str], None]) -> tuple[Task, Outcome]:
    """A smaller task that breaks the first of the invariants that `failed` broke, and its outcome.
    `tell` hears how it goes on.
    """
    search = _Search(task, failed, tell)
    before: Part | None = None
    while search.task.part != before and search.runs < RUNS_MAX:
        before = search.task.part
        # A caller's invariants may count his hosts: they all stay.
        for what in ("faults",) if task.scenario.code else ("faults", "hosts", "writers"):
            search.lessen(what)
    return search.task, search.outcome


class _Search:
    """The smallest task so far, and its outcome."""

    def __init__(self, task: Task, failed: Outcome, tell: Callable[[str], None]) -> None:
        everybody = tuple(range(1, task.scenario.replicas + 1))
        hosts = task.part.hosts or everybody
        # Said in full, it is the same part.
        whole = Part(tuple(failed.plan), hosts, task.part.writers or hosts)
        self.task = dataclasses.replace(task, part=whole, twice=False)
        self.outcome = failed
        self.runs = 0
        self._wanted = failed.violations[0].invariant
        self._tell = tell

    def lessen(self, what: str) -> None:
        """Leave out what can be left out of these numbers."""

        def still(some: Numbers) -> bool:
            return self._fails(dataclasses.replace(self.task.part, **{what: some}))

        fewest(getattr(self.task.part, what), still)

    def _fails(self, part: Part) -> bool:
        if self.runs >= RUNS_MAX or len(part.hosts or ()) < HOSTS_MIN:
            return False
        self.runs += 1
        task = dataclasses.replace(self.task, part=part)
        outcome = perform_one(task)
        if all(one.invariant != self._wanted for one in outcome.violations):
            return False
        self.task, self.outcome = task, outcome
        counts = (len(numbers or ()) for numbers in (part.faults, part.hosts, part.writers))
        self._tell(
            "run {}: still {} with {} faults, {} hosts, {} writers".format(
                self.runs, self._wanted, *counts
            )
        )
        return True


def fewest(items: Numbers, fails: Callable[[Numbers], bool]) -> Numbers:
    """The fewest of the items with which it still fails, as far as leaving out stretches finds
    them. With all of them it does.
    """
    size = len(items)
    while size >= 1:
        start = 0
        while start < len(items):
            left = items[:start] + items[start + size :]
            if fails(left):
                items = left
            else:
                start += size
        size = min(size, len(items) + 1) // 2
    return items
