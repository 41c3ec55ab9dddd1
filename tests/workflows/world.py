"""A clock and a probe that tests can look into, and the machines they use."""

from __future__ import annotations

import asyncio

from mesh.environment import Transition
from workflows.machine import Machine, Rule
from workflows.registry import action, register


class TickingClock:
    """Every reading is a millisecond after the one before."""

    def __init__(self) -> None:
        self._ms = 1_700_000_000_000

    def monotonic(self) -> float:
        return self.wall_ms() / 1_000

    def wall_ms(self) -> int:
        self._ms += 1
        return self._ms


class Recorder:
    """A probe that remembers, and that can be waited on."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []
        self._news = asyncio.Event()

    def event(self, kind: str, **fields: object) -> None:
        self.events.append((kind, fields))
        self._news.set()

    def sometimes(self, name: str) -> None:
        pass

    def of(self, kind: str) -> list[dict[str, object]]:
        return [fields for known, fields in self.events if known == kind]

    async def until(self, kind: str, **fields: object) -> None:
        """Wait until the latest event of this kind has these fields."""
        while not ((seen := self.of(kind)) and fields.items() <= seen[-1].items()):
            self._news.clear()
            await self._news.wait()


AUDIT = register(
    Machine(
        "code-audit",
        "queued",
        (
            Rule("claim", "queued", "claimed", "take"),
            Rule("claim", "claimed", "claimed", "take"),
            Rule("submit", "claimed", "submitted", "require"),
            Rule("accept", "submitted", "accepted", "release"),
        ),
        ("accepted",),
    )
)

performed: list[Transition] = []
broken: list[str] = []


@action("test.record")
async def record(transition: Transition) -> None:
    performed.append(transition)


@action("test.fail-once")
async def fail_once(transition: Transition) -> None:
    if transition.id not in broken:
        broken.append(transition.id)
        raise ConnectionError("the first attempt goes wrong")
    performed.append(transition)


NOTIFYING = register(
    Machine(
        "notifying",
        "open",
        (
            Rule("touch", "open", "open", actions=("test.record",)),
            Rule("close", "open", "closed", actions=("test.fail-once", "test.record")),
        ),
        ("closed",),
    )
)

COUNTING = register(Machine("counting", "on", (Rule("tick", "on", "on"),)))
