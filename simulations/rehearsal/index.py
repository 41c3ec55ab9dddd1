"""What an agent knows of all modules, kept up to date from its replica; and waiting for more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from mesh.replica import Replica
from mesh.watch import MISSED
from simulations.rehearsal.audit import ALL_PARTS, FINAL, QUEUED, Task
from workflows.claims import claim_of


@dataclass(slots=True)
class Known:
    """One module as this replica sees it: parts that are in, and the machine's last decision."""

    parts: frozenset[str] = frozenset()
    state: str = QUEUED
    owner: str = ""
    epoch: int = 0

    @property
    def complete(self) -> bool:
        """Every role has been here."""
        return self.parts >= ALL_PARTS

    @property
    def final(self) -> bool:
        """Nothing is left to decide."""
        return self.state in FINAL


class Index:
    """All tasks of one replica in a few fields each, so that choosing work costs no reads."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._known: dict[str, Known] = {}
        self._changed = asyncio.Event()
        self.final = 0
        self.parts = 0
        self._prefix = "Task/"

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[tuple[str, Known]]:
        return iter(self._known.items())

    def get(self, name: str) -> Known | None:
        """What is known of a module, None if its task is not here yet."""
        return self._known.get(name)

    def refresh(self, name: str) -> Known | None:
        """Read one task again: after an own edit, or because it changed."""
        view = self._replica.get(Task, name)
        if view is None:
            return None
        known = self._known.setdefault(name, Known())
        self.final -= known.final
        self.parts -= len(known.parts)
        if not known.complete:  # parts are never taken back
            known.parts = frozenset(view.parts)
        claim = claim_of(view.machine)
        known.state, known.owner, known.epoch = claim.state or QUEUED, claim.holder, claim.epoch
        self.final += known.final
        self.parts += len(known.parts)
        self._changed.set()
        return known

    def reload(self) -> None:
        """Read every task of the replica."""
        for task in self._replica.documents(Task):
            self.refresh(task.id.removeprefix(self._prefix))

    async def changed(self, timeout: float = 1.0) -> None:
        """Wait for a change, at most `timeout` seconds; changes that come together count once."""
        event = self._changed
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await event.wait()
        await asyncio.sleep(0.02)
        if event.is_set() and self._changed is event:
            self._changed = asyncio.Event()

    async def follow(self) -> None:
        """Keep up with the replica until it closes."""
        watcher = self._replica.watch(Task)
        self.reload()
        async for change in watcher:
            if change.type == MISSED:
                self.reload()
            else:
                self.refresh(change.document.removeprefix(self._prefix))
