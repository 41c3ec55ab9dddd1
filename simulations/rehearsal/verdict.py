"""The verdict on a run: read from the agents' own data folders, after they have stopped.

It trusts nothing the agents said while they ran but their promises (what was acknowledged), and
holds every replica to them. Folders are read in processes of their own, two at a time.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from crdt.access import ShardView
from crdt.errors import MeshError
from persistence.inspect import LoadedFolder, load_folder
from simulations import checkers
from simulations.checkers import Acknowledged, Decision, Evidence
from simulations.judges import SetFull
from simulations.judges.history import History, Outcome, Read, Write
from simulations.rehearsal import report, wire
from simulations.rehearsal.audit import FINAL, QUEUED, Task
from workflows.claims import claim_of

_READERS = 2
_SHOWN = 10
FINDINGS = "findings"


@dataclass(frozen=True, slots=True)
class Examined:
    """One agent's folder: the general evidence, and what the audit left in it."""

    evidence: Evidence
    states: dict[str, str]
    findings: frozenset[tuple[str, str]]
    history: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether everything holds, and if not, what doesn't. `updates` counts operations; `rebuilt`:
    whether what log and checkpoints gave equals what the agents have, None where none was rebuilt.
    """

    converged: bool
    lost: int
    double_claims: int
    updates: int
    findings: int
    problems: tuple[str, ...]
    rebuilt: bool | None = None

    @property
    def good(self) -> bool:
        """No problem was found."""
        return not self.problems


async def judge(
    folders: Sequence[Path],
    promises: Sequence[Acknowledged],
    marks: Iterable[tuple[str, str]],
    modules: Sequence[str],
    report_into: Path,
    *,
    rebuilt: Path | None = None,
    problems: Sequence[str] = (),
) -> Verdict:
    """Read every agent's folder and check it; write report and stubs from the first.

    The folder `rebuilt` has to hold what the agents' do. `problems` were found before, and count.
    """
    every = [*folders, *([rebuilt] if rebuilt is not None else [])]
    loop = asyncio.get_running_loop()
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(_READERS, len(folders)), context, initializer=_reader, initargs=(os.getpid(),)
    )
    try:
        read = await asyncio.gather(
            *(
                loop.run_in_executor(pool, examine, folder, None if index else report_into)
                for index, folder in enumerate(every)
            ),
            return_exceptions=True,
        )
    finally:
        # Also if interrupted: a reader that went on would write into a folder being cleared away.
        pool.shutdown(wait=True, cancel_futures=True)
    examined: list[Examined] = []
    copy: Examined | None = None
    unreadable: list[str] = []
    for folder, one in zip(every, read, strict=True):
        if isinstance(one, MeshError):
            unreadable.append(f"{folder.name}: its folder cannot be read: {one}")
        elif isinstance(one, BaseException):
            raise one
        elif folder == rebuilt:
            copy = one
        else:
            examined.append(one)
    verdict = weigh(examined, promises, marks, modules, unreadable)
    apart = _apart(examined, copy) if rebuilt is not None else []
    return replace(
        verdict,
        problems=(*verdict.problems, *problems, *_bounded(apart)),
        rebuilt=None if rebuilt is None else copy is not None and not apart,
    )


def _apart(examined: Sequence[Examined], copy: Examined | None) -> list[str]:
    """What a rebuilt replica has otherwise than the first agent. One that is unreadable was told
    of.
    """
    both = [each.evidence for each in (*examined[:1], copy) if each is not None]
    return [f"rebuilt from log and checkpoints: {line}" for line in checkers.differences(both)]


def _reader(parent: int) -> None:
    wire.die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def examine(folder: Path, report_into: Path | None) -> Examined:
    """Read one data folder, without changing it; write the audit's results from it if asked to."""
    loaded = load_folder(folder)
    frames = ((header, (transaction,)) for header, transaction, _ in loaded.transactions())
    evidence = checkers.evidence(loaded.replica, loaded.shards, frames)
    tasks = tasks_in(loaded)
    if report_into is not None:
        report.write(report_into, loaded)
    return Examined(
        evidence,
        {name: claim_of(task.machine).state or QUEUED for name, task in tasks.items()},
        frozenset((name, key) for name, task in tasks.items() for key in task.findings),
        tuple(
            Decision.of(task.id, entry["epoch"], entry)
            for task in tasks.values()
            for entry in task.history
        ),
    )


def tasks_in(loaded: LoadedFolder) -> dict[str, Task]:
    """Every task document of a folder, by module, in order."""
    return {
        document.removeprefix("Task/"): Task.bind(ShardView(shard), document)
        for document, shard in sorted(
            (document, shard)
            for number in sorted(loaded.shards)
            for shard in [loaded.shards[number]]
            for document in shard.documents("Task")
        )
    }


def weigh(
    examined: Sequence[Examined],
    promises: Sequence[Acknowledged],
    marks: Iterable[tuple[str, str]],
    modules: Sequence[str],
    unreadable: Sequence[str] = (),
) -> Verdict:
    """The checks themselves; a folder that could not be read agrees with none."""
    replicas = [one.evidence for one in examined]
    apart = checkers.differences(replicas)
    losses = checkers.lost(replicas, promises)
    promised = sorted(set(marks))
    gone = [
        f"{one.evidence.replica} lacks the acknowledged finding {key} of {name}"
        for one in examined
        for name, key in _lost_findings(one, promised)
    ]
    # From the frames that are still in the journals, and from what those who asked wrote down.
    decisions = {each for one in examined for each in (*one.evidence.decisions, *one.history)}
    doubles = checkers.double_claims(
        sorted(decisions, key=lambda each: (each.document, each.epoch))
    )
    first = examined[0] if examined else None
    states = dict.fromkeys(modules, QUEUED) | (first.states if first else {})
    late = checkers.unfinished(states, FINAL)
    return Verdict(
        converged=not apart and not unreadable,
        lost=sum(loss.count for loss in losses) + len(gone),
        double_claims=len(doubles),
        updates=first.evidence.operations if first else 0,
        findings=len(first.findings) if first else 0,
        problems=tuple(
            line
            for lines in (unreadable, apart, [str(loss) for loss in losses], gone, doubles, late)
            for line in _bounded(lines)
        ),
    )


def _lost_findings(one: Examined, promised: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Acknowledged findings that this agent does not have in the end: as `SetFull` judges."""
    history = History()
    for mark in promised:
        history.write(Write("fleet", "Task", (FINDINGS,), "insert", mark, Outcome.OK))
    history.read(Read(one.evidence.replica, "Task", {FINDINGS: tuple(sorted(one.findings))}))
    judge = SetFull((FINDINGS,))
    judge.judge(history)
    return [mark for result in judge.results.values() for mark in result.lost]


def _bounded(lines: Sequence[str]) -> list[str]:
    if len(lines) <= _SHOWN:
        return list(lines)
    return [*lines[:_SHOWN], f"… and {len(lines) - _SHOWN} more of this kind"]
