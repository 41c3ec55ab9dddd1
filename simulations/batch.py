"""Many seeds, on as many cores as wanted; results come in the order of the seeds.

Every twentieth seed runs twice: two runs that differ are a violation like any other, with the first
event at which they part.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection

from simulations.invariants.base import Violation
from simulations.planted.plants import planted
from simulations.run import WHOLE, Outcome, Part, simulate
from simulations.scenarios.ready import Scenario
from simulations.trace import first_difference

__all__ = ("Task", "perform", "perform_one")

TWICE_EVERY = 20
_AHEAD = 4


@dataclass(frozen=True, slots=True)
class Task:
    """What is run: a scenario, a seed, or a part of it. `twice`: see the module; `plant`: with this
    bug.
    """

    scenario: Scenario
    seed: int
    part: Part = WHOLE
    twice: bool = False
    plant: str = ""


def perform(tasks: Iterable[Task], jobs: int) -> Generator[Outcome, None, None]:
    """The outcomes of all tasks, in order. More jobs than one run in processes of their own. Close
    it to end early: what runs then is given up.
    """
    if jobs <= 1:
        yield from map(perform_one, tasks)
        return
    # Fresh processes: a fork would copy whatever this one holds.
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    rest = iter(tasks)
    with ProcessPoolExecutor(jobs, context, _follow, (here,)) as pool:
        running = deque(pool.submit(perform_one, task) for task in islice(rest, jobs * _AHEAD))
        try:
            while running:
                yield running.popleft().result()
                running.extend(pool.submit(perform_one, task) for task in islice(rest, 1))
        except BaseException:
            there.close()
            raise
    there.close()


def _follow(parent: Connection) -> None:
    """End this process when its parent ends, however, or closes its end. Who is left over would
    wait for work for ever, and whoever reads what the parent prints would wait for the end of it.
    """

    def watch() -> None:
        parent.poll(None)
        os._exit(1)

    # An interrupt goes to all processes of a terminal: the parent decides what comes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, name="follow the parent", daemon=True).start()


def perform_one(task: Task) -> Outcome:
    """One task; twice, if it says so."""
    with planted(task.plant):
        outcome = simulate(task.scenario, task.seed, part=task.part)
        if task.twice:
            again = simulate(task.scenario, task.seed, part=task.part)
            if again.trace_hash != outcome.trace_hash:
                parting = Violation("Deterministic", outcome.seconds, _parting(task))
                outcome.violations.append(parting)
    return outcome


def _parting(task: Task) -> str:
    one, other = (
        simulate(task.scenario, task.seed, part=task.part, keep_trace=True).lines or []
        for _ in range(2)
    )
    difference = first_difference(one, other) or "the next two runs were the same"
    return f"two runs of seed {task.seed} differ; {difference}"
