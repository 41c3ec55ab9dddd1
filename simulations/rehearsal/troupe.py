"""The writers of a rehearsal as processes: starts, kills, stops and asks them, and keeps in mind
what was acknowledged. It knows no faults; those are `trials`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Final

from crdt.errors import ServiceError
from persistence.identity import create_genesis, provision
from simulations.checkers import Acknowledged
from simulations.rehearsal.child import Child
from simulations.rehearsal.fleet import Frontier, covers, read_frontier, union
from simulations.rehearsal.proxy import LinkProxy
from simulations.rehearsal.writer import WriterTask

START_SECONDS: Final = 60.0
ANSWER_SECONDS: Final = 60.0
SETTLE_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.03
_SHARDS: Final = 4


class TroupeError(ServiceError):
    """A writer ended by itself, or never came up."""


class NotSettled(ServiceError):
    """The writers did not come to agree in time, although nothing is written any more."""


@dataclass(slots=True)
class Claim:
    """One acknowledgement: how far a session's writes are safe, and which documents they made or
    deleted.
    """

    replica: str
    session: int
    level: str
    written: dict[int, int]
    edits: int
    kept: list[str]
    gone: list[str]


@dataclass(slots=True)
class Pledges:
    """All that was acknowledged, kept outside of whoever said it."""

    claims: list[Claim] = field(default_factory=list)
    edits: int = 0

    def add(self, replica: str, message: dict[str, Any]) -> None:
        """A writer said so."""
        self.claims.append(
            Claim(
                replica, message["session"], message["level"],
                {int(shard): seq for shard, seq in message["written"].items()},
                message["edits"], message["kept"], message["gone"],
            )
        )  # fmt: skip
        self.edits += message["edits"]

    def forget(self, replica: str) -> None:
        """Its disk is lost, and with it what was promised to be there alone."""
        lost = [c for c in self.claims if c.replica == replica and c.level == "JOURNAL"]
        self.edits -= sum(claim.edits for claim in lost)
        self.claims = [c for c in self.claims if c.replica != replica or c.level != "JOURNAL"]

    def acknowledged(self) -> list[Acknowledged]:
        """The highest of each session and shard, as the checkers want them."""
        highest: dict[tuple[int, int], Acknowledged] = {}
        for claim in self.claims:
            for shard, seq in claim.written.items():
                known = highest.get((claim.session, shard))
                if known is None or known.seq < seq:
                    highest[claim.session, shard] = Acknowledged(
                        claim.session, shard, seq, claim.level, claim.replica
                    )
        return list(highest.values())

    def kept(self, since: int = 0) -> list[str]:
        """Documents that must be there, by the claims after the first `since`."""
        return [name for claim in self.claims[since:] for name in claim.kept]

    def gone(self, since: int = 0) -> list[str]:
        """Documents that must not be there."""
        return [name for claim in self.claims[since:] for name in claim.gone]


@dataclass(slots=True)
class Member:
    """One writer as seen from outside."""

    child: Child | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    session: int = 0
    died_at: str = ""
    rebuilt: int = 0
    failure: str = ""


class Troupe:
    """The writers. Made by `open_troupe`, which also ends them."""

    def __init__(
        self, folder: Path, names: Iterable[str], *, seed: int, rate: int,
        levels: tuple[str, ...], redis: str = "", plant: str = "",
    ) -> None:  # fmt: skip
        self.folder = folder
        self.members = {name: Member() for name in names}
        self.pledges = Pledges()
        self.proxy = LinkProxy()
        self.draw = random.Random(f"rehearsal/{seed}")  # noqa: S311 - not for secrets
        self._seed, self._rate, self._levels = seed, rate, levels
        self._redis, self._plant = redis, plant
        self._topic = 0

    @property
    def names(self) -> list[str]:
        """All writers, in order."""
        return sorted(self.members)

    def place(self, name: str) -> Path:
        """Where a writer keeps its data."""
        return self.folder / "replicas" / name

    def child(self, name: str) -> Child:
        """The process of a writer that was started."""
        child = self.members[name].child
        assert child is not None, "started"
        return child

    async def start(self) -> None:
        """Found a mesh, start all writers, wait until they are ready."""
        for part in ("replicas", "logs"):
            (self.folder / part).mkdir(parents=True)
        await asyncio.to_thread(create_genesis, self.folder / "mesh", "rehearsal", shards=_SHARDS)
        await self.proxy.open(combinations(self.names, 2))
        await asyncio.gather(*(self.raise_up(name) for name in self.names))

    async def raise_up(self, name: str) -> None:
        """Start a writer (again) and wait until it is ready. Raises TroupeError."""
        member = self.members[name]
        member.ready.clear()
        member.died_at = ""
        await asyncio.to_thread(provision, self.folder / "mesh", self.place(name), name)
        task = WriterTask(
            name, os.getpid(), str(self.place(name)), tuple(self.proxy.seeds(name)),
            self._seed, self._rate, self._levels, self._redis, self._plant,
        )  # fmt: skip
        member.child = await Child.start(
            name,
            [sys.executable, "-m", "simulations.rehearsal.writer"],
            self.folder / "logs" / f"{name}.log",
            lambda message: self._said(name, message),
            task.line(),
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                await member.ready.wait()
        except TimeoutError:
            words = member.child.last_words()
            raise TroupeError(f"{name} was not ready in {START_SECONDS:g} s: {words}") from None
        self.check()

    def check(self) -> None:
        """Raises TroupeError if a writer ended that nobody killed."""
        for member in self.members.values():
            if member.failure:
                raise TroupeError(member.failure)

    def go(self) -> None:
        """Let all write, to shared documents of their own for each round."""
        self._topic += 1
        for name in self.names:
            self.tell_go(name)

    def tell_go(self, name: str) -> None:
        """Let one write."""
        self.child(name).tell("go", topic=str(self._topic))

    async def fall(self, name: str) -> None:
        """SIGKILL a writer, now."""
        child = self.child(name)
        child.kill()
        await child.ended()
        self.proxy.forget(name)

    async def blow(self, name: str, point: str, delay: float, within: float) -> str:
        """Let a writer die at a point; where it died, "" if it did not come there `within` s."""
        child = self.child(name)
        child.expected_to_end = True
        child.tell("fuse", point=point, delay=delay)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await child.ended()
        await self.fall(name)
        return self.members[name].died_at

    def halt(self, name: str) -> None:
        """SIGSTOP: it is there, and does nothing."""
        os.killpg(self.child(name).pid, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        os.killpg(self.child(name).pid, signal.SIGCONT)

    async def ask(self, name: str, do: str, **fields: Any) -> dict[str, Any]:
        """Ask one writer. Raises ChildError."""
        return await self.child(name).ask(do, ANSWER_SECONDS, **fields)

    async def ask_all(self, do: str, **fields: Any) -> dict[str, dict[str, Any]]:
        """Ask every writer."""
        answers = await asyncio.gather(*(self.ask(name, do, **fields) for name in self.names))
        return dict(zip(self.names, answers, strict=True))

    async def settle(self) -> tuple[float, dict[str, Frontier]]:
        """Nobody writes any more; wait until all have everything and agree.

        Seconds it took, and who has what. Raises NotSettled after `SETTLE_SECONDS`.
        """
        await self.ask_all("rest")
        began = time.monotonic()
        while True:
            self.check()
            answers = await self.ask_all("state")
            frontiers = {n: read_frontier(a["frontier"]) for n, a in answers.items()}
            everything = union(list(frontiers.values()))
            whole = all(covers(each, everything) for each in frontiers.values())
            if whole and len({str(a["digest"]) for a in answers.values()}) == 1:
                return time.monotonic() - began, frontiers
            if time.monotonic() - began > SETTLE_SECONDS:
                raise NotSettled(_apart(frontiers, everything, whole=whole))
            await asyncio.sleep(_POLL_SECONDS)

    async def stop(self) -> list[str]:
        """End all in order; who did not."""
        ended = await asyncio.gather(*(self.child(n).stop(STOP_SECONDS) for n in self.names))
        return [
            f"{name} did not end in order: {self.child(name).last_words()}"
            for name, in_order in zip(self.names, ended, strict=True)
            if not in_order
        ]

    async def close(self) -> None:
        """Kill whatever still runs. Idempotent."""
        children = [m.child for m in self.members.values() if m.child is not None]
        for child in children:
            child.kill()
        await asyncio.gather(*(child.ended() for child in children), return_exceptions=True)
        await self.proxy.close()

    def delete(self, name: str) -> None:
        """A writer that has ended loses its folder."""
        shutil.rmtree(self.place(name))
        self.pledges.forget(name)

    def _said(self, name: str, message: dict[str, Any]) -> None:
        member = self.members[name]
        match message["kind"]:
            case "started":
                member.session = message["session"]
                self.proxy.point(name, message["address"])
                member.ready.set()
            case "acknowledged":
                self.pledges.add(name, message)
            case "died":
                member.died_at = message["point"]
            case "rebuilt":
                member.rebuilt += 1
            case "ended":
                words = self.child(name).last_words()
                member.failure = f"{name} ended with code {message['code']}: {words}"
                member.ready.set()


def _apart(frontiers: dict[str, Frontier], everything: Frontier, *, whole: bool) -> str:
    if whole:
        return f"equal frontiers and different digests after {SETTLE_SECONDS:g} s"
    behind = [name for name, each in frontiers.items() if not covers(each, everything)]
    return f"{', '.join(behind)} still lack operations after {SETTLE_SECONDS:g} s"


@contextlib.asynccontextmanager
async def open_troupe(troupe: Troupe) -> AsyncIterator[Troupe]:
    """Started, and gone when the block ends."""
    try:
        await troupe.start()
        yield troupe
    finally:
        await troupe.close()
