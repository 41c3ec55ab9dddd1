"""The course of a run: work, a partition, the loss of a service, a crash, the end. It only watches,
cuts and kills.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field

from mesh.health import DOWN
from simulations.checkers import diverged
from simulations.rehearsal.fleet import Fleet, FleetError, Frontier, total, union
from simulations.rehearsal.plan import FaultPlan
from simulations.rehearsal.roles import ROLES
from simulations.rehearsal.screen import Board, Row, Screen
from simulations.rehearsal.servers import PARTS

STALL_SECONDS = 120.0
AWAY_SECONDS = 10.0
BACK_SECONDS = 60.0
UNDECIDED_SECONDS = 10.0
QUIET_SECONDS = 60.0
_MEASURE_SECONDS = 1.5


@dataclass(slots=True)
class PartitionResult:
    """What the partition did.

    `cut`: what one side had no way to; `crossed`: operations that reached the other side all the
    same; `writes`: updates made by each side while it lasted.
    """

    cut: tuple[str, ...] = ()
    seconds: float = 0.0
    diverged_documents_max: int = 0
    crossed: int = 0
    heal_seconds: float = 0.0
    writes: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class RecoveryResult:
    """How the killed agent came back. `source` names where its state came from, most first."""

    agent: str = ""
    seconds: float = 0.0
    source: str = ""


@dataclass(slots=True)
class OutageResult:
    """What the loss of a service did.

    `seconds`: until it answered again; `noticed_by`: agents whose health showed it down;
    `updates_meanwhile`: by all agents; `back_seconds`: from its answer until every agent was well
    with it and owed it nothing, None if that did not come about.
    """

    name: str = ""
    seconds: float = 0.0
    noticed_by: int = 0
    updates_meanwhile: int = 0
    back_seconds: float | None = None


@dataclass(slots=True)
class CourseResult:
    """What was measured while the fleet ran; `problems` is what must not have happened."""

    partition: PartitionResult = field(default_factory=PartitionResult)
    outage: OutageResult | None = None
    recovered: RecoveryResult = field(default_factory=RecoveryResult)
    problems: list[str] = field(default_factory=list)


class Course:
    """Leads one fleet through one fault plan."""

    def __init__(
        self, fleet: Fleet, faults: FaultPlan, modules: int, board: Board, screen: Screen
    ) -> None:
        self._fleet = fleet
        self._faults = faults
        self._modules = modules
        self._board = board
        self._screen = screen
        self._result = CourseResult()
        self._gone: set[str] = set()
        self._undecided = False
        self._noticed: set[str] = set()
        board.modules = modules
        for name, roles in fleet.players.items():
            board.rows[name] = Row(
                ", ".join(ROLES[role].short for role in roles), peers=len(fleet.players) - 1
            )

    async def run(self) -> CourseResult:
        """Start the work, disturb it as planned, return when all is done and everybody has it.

        Raises FleetError if a process fails or nothing moves any more, and what the servers raise.
        """
        self._board.phase = "working"
        self._fleet.begin()
        await self._until(self._faults.partition_at)
        await self._partition()
        if self._faults.lose:
            await self._until(self._faults.lose_at)
            await self._outage(self._faults.lose)
        await self._until(self._faults.kill_at)
        await self._crash()
        await self._until(1.0)
        await self._finish()
        return self._result

    def refresh(self) -> None:
        """Bring the board up to date from what the agents last said."""
        board, seen = self._board, self._fleet.seen
        everything = union([agent.frontier for agent in seen.values()])
        everyone = total(everything)
        for name, agent in seen.items():
            row = board.rows[name]
            row.task = agent.doing
            row.updates = agent.before + agent.updates
            row.lag = everyone - total(agent.frontier) if agent.frontier else everyone
            row.links = len(agent.links)
            row.down = ", ".join(part for part, state in agent.health.items() if state == DOWN)
            cut_off = row.links < row.peers and agent.session and bool(self._fleet.proxy.cut_pairs)
            row.state = "gone" if name in self._gone else "cut off" if cut_off else "working"
        board.final = max(agent.final for agent in seen.values())
        board.findings = max(agent.findings for agent in seen.values())
        board.acknowledged = self._fleet.promises.count
        parts = max(agent.parts for agent in seen.values())
        whole = max(1, self._modules)
        board.done = 0.5 * board.final / whole + 0.5 * parts / (whole * len(ROLES))
        self._screen.show(board)

    async def _until(self, progress: float) -> None:
        """Wait until this share of modules is through. Raises FleetError if nothing moves."""
        latest, since = -1.0, time.monotonic()
        while self._board.final < progress * self._modules:
            await self._fleet.news()
            self.refresh()
            self._notice_temporal()
            now = time.monotonic()
            if self._board.done != latest:
                latest, since = self._board.done, now
            elif now - since > (UNDECIDED_SECONDS if self._undecided else STALL_SECONDS):
                why = "Temporal has ended: " if self._undecided else ""
                raise FleetError(
                    f"{why}nothing moved for {now - since:.0f} s with {self._board.final} of "
                    f"{self._modules} modules final"
                )

    def _notice_temporal(self) -> None:
        """Say once that nobody decides any more. It stops no agent, so not the fleet either."""
        if not self._undecided and not self._fleet.servers.decides:
            self._undecided = True
            self._screen.say(
                "Temporal has ended: agents go on with all that commutes, nothing is decided",
                "bold red",
            )

    @contextlib.asynccontextmanager
    async def _watching(self, part: str = "") -> AsyncIterator[None]:
        """Keep the screen alive during a step that waits for something else, and note who sees that
        `part` is down.

        Raises FleetError or ServerLost at the end of the step if a process failed meanwhile.
        """
        watcher = asyncio.create_task(self._watch(part))
        try:
            yield
        finally:
            watcher.cancel()
            (outcome,) = await asyncio.gather(watcher, return_exceptions=True)
        if isinstance(outcome, Exception):
            raise outcome

    async def _watch(self, part: str) -> None:
        while True:
            await self._fleet.news()
            self.refresh()
            seen = self._fleet.seen.items()
            self._noticed.update(name for name, agent in seen if agent.health.get(part) == DOWN)

    # ------------------------------------------------------------------ the partition

    async def _partition(self) -> None:
        fleet, faults, screen = self._fleet, self._faults, self._screen
        here, there = faults.sides
        before = self._writes(here), self._writes(there)
        pairs = fleet.proxy.crossing(here)
        began = time.monotonic()
        for pair in pairs:
            fleet.proxy.cut(pair, faults.how(pair))
        silent = sum(pair in faults.silenced for pair in pairs)
        self._board.phase = "partitioned"
        shared = tuple(fleet.servers.shared)
        screen.say(
            f"PARTITION: {', '.join(here)} ┃ {', '.join((*there, *shared))} "
            f"({len(pairs) - silent} links broken, {silent} silenced)",
            "bold yellow",
        )
        async with self._watching():
            worst, crossed = await self._measure(began + faults.partition_seconds)
        after = self._writes(here), self._writes(there)
        targets = union(list((await fleet.frontiers()).values()))
        seconds = time.monotonic() - began
        fleet.proxy.heal()
        self._board.phase = "healing"
        writes = (after[0] - before[0], after[1] - before[1])
        screen.say(
            f"HEALED after {seconds:.1f} s: {worst} documents had diverged; the sides made "
            f"{writes[0]} and {writes[1]} updates meanwhile",
            "bold green",
        )
        async with self._watching():
            heal = max(
                await asyncio.gather(*(fleet.reaches(name, targets) for name in fleet.names))
            )
        screen.say(f"everybody has what both sides wrote, {heal:.2f} s after the heal", "green")
        self._board.phase = "working"
        self._result.partition = PartitionResult(
            ("peers", *shared), seconds, worst, crossed, heal, writes
        )

    async def _measure(self, until: float) -> tuple[int, int]:
        """Compare all agents until then: the most documents that differed at once, and how many
        operations written since the first comparison got from one side to the other. (What was
        written before may have been on its way when the links were cut.)
        """
        fleet, worst = self._fleet, 0
        written = union(list((await fleet.frontiers()).values()))
        while True:
            answers = await asyncio.gather(*(fleet.ask(name, "digests") for name in fleet.names))
            worst = max(worst, len(diverged([answer["digests"] for answer in answers])))
            crossed = self._crossed(await fleet.frontiers(), written)
            left = until - time.monotonic()
            if left <= 0:
                return worst, crossed
            await asyncio.sleep(min(left, _MEASURE_SECONDS))

    def _crossed(self, frontiers: dict[str, Frontier], written: Frontier) -> int:
        """How many operations of the other side's present sessions each side has that are not among
        those written, summed.
        """
        here, there = self._faults.sides
        count = 0
        for side, others in ((here, there), (there, here)):
            authors = {self._fleet.seen[name].session for name in others}
            for shard, sessions in union([frontiers[name] for name in side]).items():
                old = written.get(shard, {})
                count += sum(
                    max(0, seq - old.get(one, 0)) for one, seq in sessions.items() if one in authors
                )
        return count

    def _writes(self, side: Iterable[str]) -> int:
        return sum(self._fleet.seen[name].before + self._fleet.seen[name].updates for name in side)

    # ------------------------------------------------------------------ the loss of a service

    async def _outage(self, name: str) -> None:
        """Kill a server, start it again after a while, wait until all is well and delivered."""
        fleet, screen, part = self._fleet, self._screen, PARTS[name]
        before, began = self._writes(fleet.names), time.monotonic()
        await fleet.servers.take_away(name)
        self._board.phase = f"{name} lost"
        screen.say(f"LOST: {name} killed; the agents go on without it", "bold red")
        async with self._watching(part):
            await asyncio.sleep(AWAY_SECONDS)
            await fleet.servers.bring_back(name)
            back = time.monotonic()
            writes = self._writes(fleet.names) - before
            self._board.phase = f"{name} is back"
            screen.say(
                f"BACK: {name} answers again after {back - began:.1f} s; {len(self._noticed)} of "
                f"{len(fleet.names)} agents had noticed, all made {writes} updates meanwhile",
                "bold green",
            )
            settled = await self._settled(part)
        result = OutageResult(name, back - began, len(self._noticed), writes)
        if settled:
            result.back_seconds = time.monotonic() - back
            screen.say(
                f"all agents are well with {name} and owe it nothing, "
                f"{result.back_seconds:.2f} s after it was back",
                "green",
            )
        else:
            self._complain(
                f"{name} was back, and {BACK_SECONDS:g} s later not all agents were "
                "well with it or had delivered what they owed it"
            )
        if not writes:
            self._complain(f"no update was made while {name} was away")
        self._board.phase = "working"
        self._result.outage = result

    async def _settled(self, part: str) -> bool:
        """Wait until no agent sees anything wrong with a part or owes its service anything."""
        fleet = self._fleet
        asked = [fleet.ask(name, "settle", BACK_SECONDS + 1, part=part) for name in fleet.names]
        try:
            async with asyncio.timeout(BACK_SECONDS):
                await asyncio.gather(*asked)
        except TimeoutError:
            return False
        return True

    def _complain(self, problem: str) -> None:
        self._result.problems.append(problem)
        self._screen.say(problem, "bold red")

    # ------------------------------------------------------------------ the crash

    async def _crash(self) -> None:
        fleet, screen, victim = self._fleet, self._screen, self._faults.victim
        old = fleet.seen[victim].session
        self._gone.add(victim)
        updates = await fleet.crash_agent(victim)
        self._board.phase = "one agent lost"
        screen.say(
            f"CRASH: {victim} killed after {updates} updates, its folder deleted", "bold red"
        )
        self.refresh()
        others = [frontier for name, frontier in (await fleet.frontiers()).items()]
        target: Frontier = union(others)
        began = time.monotonic()
        async with self._watching():
            await fleet.start_agent(victim)
            await fleet.reaches(victim, target)
            source = (await fleet.ask(victim, "origin"))["source"]
        seconds = time.monotonic() - began
        self._gone.discard(victim)
        fleet.begin(victim)
        self._board.phase = "working"
        screen.say(
            f"RECOVERED: {victim} is back under session {fleet.seen[victim].session} "
            f"(was {old}) with {total(target)} operations from {source} after {seconds:.2f} s",
            "bold green",
        )
        self._result.recovered = RecoveryResult(victim, seconds, source)

    # ------------------------------------------------------------------ the end

    async def _finish(self) -> None:
        """Let everybody write its last lines, then wait until all replicas have everything."""
        fleet = self._fleet
        self._board.phase = "finishing"
        fleet.tell("finish")
        try:
            async with asyncio.timeout(QUIET_SECONDS):
                while not all(agent.finished for agent in fleet.seen.values()):
                    await fleet.news()
                    self.refresh()
                while not _equal(list((await fleet.frontiers()).values())):
                    await fleet.news()
                    self.refresh()
        except TimeoutError:
            # Not an error here: the verdict, computed from the journals, will show what is missing.
            self._screen.say(f"not quiet after {QUIET_SECONDS:g} s", "bold red")
        self.refresh()


def _equal(frontiers: list[Frontier]) -> bool:
    plain: Iterator[Frontier] = iter(
        {shard: sessions for shard, sessions in frontier.items() if sessions}
        for frontier in frontiers
    )
    first = next(plain, {})
    return all(frontier == first for frontier in plain)
