"""One agent: a process that embeds a replica and works. `python -m simulations.rehearsal.agent`.

It is told what it is by the first line on its standard input, and reports by lines on its standard
output (see `wire`). When its standard input ends, or on SIGTERM, it closes its replica and ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
import sys
import time
import traceback
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from crdt.codec import encode
from mesh.durability import Durability
from mesh.health import BUS, CHECKPOINTS, COORDINATOR, LOG, OK
from mesh.replica import Replica
from mesh.settings import (
    KafkaSettings,
    PeersSettings,
    PostgresSettings,
    RedisSettings,
    ReplicaSettings,
    Settings,
    TemporalSettings,
)
from persistence import folder as layout
from simulations.rehearsal import wire
from simulations.rehearsal.audit import AUDIT, Fleet, Report, Task
from simulations.rehearsal.desk import Desk
from simulations.rehearsal.fleet import covers, in_words, read_frontier, total
from simulations.rehearsal.heartbeat import Heartbeat
from simulations.rehearsal.index import Index
from simulations.rehearsal.roles import DOCUMENTATION, REVIEWER, ROLES
from simulations.rehearsal.source import SourceTree
from simulations.rehearsal.work import Analyst, Lead, Reviewer
from workflows.state import AgentState, WorkflowState

_POLL_SECONDS = 0.02
_EAGER_SECONDS = 0.1
_REDIAL_SECONDS = 0.5
_SLICE = 40
_FLUSH_MS = 25
_CHECKPOINT_SECONDS = 5.0
_LEVELS = {BUS: Durability.BUS, LOG: Durability.LOG, CHECKPOINTS: Durability.CHECKPOINT}
"""What has to be reached for nothing to be owed to the service behind a part."""


class Agent:
    """The agent around its replica: loops that work, write state and answer the orchestrator."""

    def __init__(
        self, task: wire.AgentTask, replica: Replica, tree: SourceTree, *, had_journal: bool
    ) -> None:
        self._task = task
        self._had_journal = had_journal
        self._replica = replica
        self._tree = tree
        self._index = Index(replica)
        self._desk = Desk(task.name, replica, replica.environment.coordinator, self._index)
        self._roles = task.cast[task.name]
        self._analysts = [
            Analyst(ROLES[role], tree, self._players(role), self._desk) for role in self._roles
        ]
        self._claimants: list[Lead | Reviewer] = []
        leads = sorted(n for n, roles in task.cast.items() if any(ROLES[r].leads for r in roles))
        if task.name in leads:
            self._claimants.append(Lead(self._desk, leads, self._roles))
        if REVIEWER in self._roles:
            self._claimants.append(Reviewer(self._desk, self._players(REVIEWER)))
        self._heart = Heartbeat(
            self._desk, self._roles, len(tree.modules), self._doing, self._progress
        )
        self._answering: set[asyncio.Task[None]] = set()
        self._begun = asyncio.Event()
        self._finishing = asyncio.Event()

    def _players(self, role: str) -> list[str]:
        return sorted(name for name, roles in self._task.cast.items() if role in roles)

    # ------------------------------------------------------------------ loops

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`. Raises what any of the loops raised."""
        wire.emit("started", session=self._replica.session, address=self._replica.address)
        loops: list[Coroutine[Any, Any, None]] = [
            self._index.follow(),
            self._desk.acknowledge(),
            self._report_status(),
            self._work(),
            self._finish(),
        ]
        tasks = [asyncio.create_task(loop) for loop in loops]
        tasks.append(asyncio.create_task(self._listen(stop)))
        stopped = asyncio.create_task(stop.wait())
        try:
            waiting = {*tasks, stopped}
            while not stopped.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {stopped}:
                    task.result()
        finally:
            ending = [*tasks, stopped, *self._answering]
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)

    async def _work(self) -> None:
        await self._begun.wait()
        if self._task.name == self._players(DOCUMENTATION)[0]:
            self._desk.head_report(
                f"Audit of {len(self._tree.modules)} modules, as it went on:\n\n"
            )
        async with asyncio.TaskGroup() as group:
            for analyst in self._analysts:
                group.create_task(analyst.run())
            claimants = [group.create_task(claimant.run()) for claimant in self._claimants]
            heartbeat = group.create_task(self._heart.run())
            await self._finishing.wait()
            for task in (*claimants, heartbeat):
                task.cancel()

    def _progress(self) -> float:
        done = sum(analyst.done for analyst in self._analysts)
        return round(done / (len(self._tree.modules) * len(self._analysts)), 3)

    def _doing(self) -> str:
        busy = [analyst for analyst in self._analysts if not analyst.idle]
        if busy:
            done = sum(analyst.done for analyst in self._analysts)
            return f"analysed {done}, now {busy[0].latest or 'preparing'}"
        active = sum(claimant.active for claimant in self._claimants)
        return f"{active} modules in hand" if active else "waiting"

    async def _report_status(self) -> None:
        """Tell the orchestrator how things are: eagerly while modules are finished, else seldom."""
        last_full, last_final = 0.0, -1
        while True:
            now = time.monotonic()
            full = now - last_full >= self._task.status_seconds
            if full or self._index.final != last_final:
                fields: dict[str, Any] = {
                    "updates": self._desk.updates,
                    "findings": self._findings(),
                    "modules": len(self._index),
                    "final": self._index.final,
                    "parts": self._index.parts,
                    "active": sum(claimant.active for claimant in self._claimants),
                    "doing": self._doing(),
                }
                if full:
                    fields["frontier"] = self._replica.frontier()
                    fields["links"] = [p.name for p in self._replica.peers() if p.connected]
                    fields["health"] = {
                        part: health.state for part, health in self._replica.health().items()
                    }
                    last_full = now
                last_final = self._index.final
                wire.emit("status", **fields)
            await asyncio.sleep(_EAGER_SECONDS)

    def _findings(self) -> int:
        fleet = self._replica.get(Fleet, AUDIT)
        return 0 if fleet is None else sum(int(count) for count in fleet.findings.values())

    async def _finish(self) -> None:
        """Write the closing lines, then go quiet: from now on nothing is written any more."""
        await self._finishing.wait()
        lines = [self._closing(role) for role in self._roles]
        self._desk.report("".join(lines))
        self._heart.end()
        while not await self._desk.flush([]):
            pass  # each try waits for some seconds by itself
        wire.emit("finished")

    def _closing(self, role: str) -> str:
        if role == DOCUMENTATION:
            covered = [task.documented for task in self._replica.documents(Task)]
            known = [share for share in covered if share is not None]
            mean = sum(known) / max(1, len(known))
            return f"- {role}: {mean:.0%} of the public interface is documented, on average\n"
        mine = sum(
            finding["role"] == role
            for task in self._replica.documents(Task)
            for finding in task.findings.values()
        )
        return f"- {role}: {mine} findings\n"

    # ------------------------------------------------------------------ the orchestrator

    async def _listen(self, stop: asyncio.Event) -> None:
        """Do what the orchestrator says, until it says no more."""
        reader = await _standard_input()
        while line := await reader.readline():
            message = wire.unpack(line)
            match message["do"]:
                case "begin":
                    self._begun.set()
                case "finish":
                    self._finishing.set()
                case "frontier":
                    self._answer(message, frontier=self._replica.frontier())
                case "origin":
                    self._answer(message, source=self._origin())
                case "digests":
                    self._spawn(self._digests(message))
                case "reach":
                    self._spawn(self._reach(message))
                case "settle":
                    self._spawn(self._settle(message))
        stop.set()

    def _spawn(self, answer: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(answer)
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    def _answer(self, message: dict[str, Any], **fields: Any) -> None:
        wire.emit("answer", request=message["request"], **fields)

    async def _digests(self, message: dict[str, Any]) -> None:
        """A digest of every document's content; in slices, so that the replica stays lively."""
        digests: dict[str, str] = {}
        for kind in (Task, Report, Fleet, AgentState, WorkflowState):
            for document in list(self._replica.documents(kind)):
                content = hashlib.blake2b(encode(document.snapshot()), digest_size=8)
                digests[document.id] = content.hexdigest()
                if len(digests) % _SLICE == 0:
                    await asyncio.sleep(0)
        self._answer(message, digests=digests)

    async def _reach(self, message: dict[str, Any]) -> None:
        target = read_frontier(message["frontier"])
        while not covers(self._replica.frontier(), target):  # noqa: ASYNC110 - measures, shortly
            await asyncio.sleep(_POLL_SECONDS)
        self._answer(message)

    def _origin(self) -> str:
        """Where all that this replica has came from."""
        counts = self._replica.sources()
        if self._had_journal:
            counts["journal"] = total(self._replica.frontier()) - sum(counts.values())
        return in_words(counts)

    async def _settle(self, message: dict[str, Any]) -> None:
        """Answer once all that this agent owes to a part's service now is there, writes or
        questions to the coordinator, and the part is well.
        """
        part = message["part"]
        if part in _LEVELS:
            await self._replica.flush(_LEVELS[part])
        while not self._is_well(part):  # noqa: ASYNC110 - measures, shortly
            await asyncio.sleep(_POLL_SECONDS)
        self._answer(message)

    def _is_well(self, part: str) -> bool:
        unanswered = self._desk.waiting if part == COORDINATOR else 0
        return self._replica.health()[part].state == OK and not unanswered


async def _standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=wire.MAX_LINE)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


def settings_of(task: wire.AgentTask) -> Settings:
    """The replica's settings: static seeds, a free port on loopback, Temporal to decide, and the
    services that are there.
    """
    return Settings(
        # Seven replicas on two cores: fewer, larger frames are worth some milliseconds of delay.
        replica=ReplicaSettings(name=task.name, flush_interval_ms=_FLUSH_MS),
        peers=PeersSettings(
            # All links take the wires that the rehearsal can cut, none the way it can't.
            listen="127.0.0.1:0",
            seeds=task.seeds,
            introductions=False,
            redial_min_s=0.1,
            redial_max_s=_REDIAL_SECONDS,
        ),
        redis=RedisSettings(url=task.redis),
        kafka=KafkaSettings(servers=(task.kafka,) if task.kafka else ()),
        postgres=PostgresSettings(dsn=task.postgres, checkpoint_interval_s=_CHECKPOINT_SECONDS),
        temporal=TemporalSettings(address=task.temporal, task_queue=task.task_queue),
    )


async def main(task: wire.AgentTask) -> None:
    """Open the replica, be an agent until told to stop, close the replica."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    tree = await asyncio.to_thread(SourceTree.saved, Path(task.tree))
    had_journal = await asyncio.to_thread((Path(task.folder) / layout.JOURNAL).exists)
    async with Replica.open(task.folder, settings=settings_of(task)) as replica:
        await Agent(task, replica, tree, had_journal=had_journal).run(stop)


def run() -> None:
    """Entry of the process."""
    task = wire.AgentTask.read(sys.stdin.buffer.readline())
    wire.die_with(task.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the orchestrator ends us, in order
    try:
        asyncio.run(main(task))
    except BrokenPipeError:
        return  # the orchestrator is gone
    except Exception as error:  # noqa: BLE001 - the process ends; its log says why, in one line last
        traceback.print_exc()
        sys.stderr.write(f"{_cause(error)}\n")
        raise SystemExit(1) from None


def _cause(error: BaseException) -> str:
    """The first real error in a group of groups, on one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return " ".join(f"{type(error).__name__}: {error}".split())


if __name__ == "__main__":
    run()
