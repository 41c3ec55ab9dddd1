"""How one service is doing, judged by the last outcome of each kind of work done with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mesh.core import Core
from mesh.dissemination import Backoff
from mesh.health import DOWN, OK
from persistence.base import ServiceUnavailable

T = TypeVar("T")

FIRST_WAIT_S = 0.05
LAST_WAIT_S = 2.0
LASTING_WAIT_S = 5.0
"""What will not pass by itself is tried no more often than this."""


class Condition:
    """Tells `Health` about one part. A part with any failing work is down."""

    def __init__(self, core: Core, part: str) -> None:
        self._core = core
        self.part = part
        self._failed: dict[str, ServiceUnavailable] = {}
        self._heard = False

    def __repr__(self) -> str:
        return f"<Condition of {self.part}: {sorted(self._failed) or 'ok'}>"

    @property
    def ok(self) -> bool:
        """Whether all work with the service succeeded when last tried, and some was tried."""
        return self._heard and not self._failed

    @property
    def down(self) -> bool:
        """Whether some work with the service failed when last tried. Before the first try: no."""
        return bool(self._failed)

    def failed(self, work: str, error: ServiceUnavailable) -> None:
        """This kind of work failed just now."""
        if work not in self._failed:
            self._core.probe.event("service.failed", part=self.part, work=work, reason=error.reason)
        self._failed[work] = error
        self._judge()

    def worked(self, work: str) -> None:
        """This kind of work succeeded just now."""
        if self._failed.pop(work, None) is not None:
            self._core.probe.event("service.recovered", part=self.part, work=work)
        self._heard = True
        self._judge()

    async def insist(
        self, work: str, step: Callable[[], Awaitable[T]], most_s: float = LAST_WAIT_S
    ) -> T:
        """Do one step with the service, however often it takes, less and less often: in the end
        every `most_s` seconds.
        """
        backoff: Backoff | None = None
        while True:
            try:
                result = await step()
            except ServiceUnavailable as error:
                self.failed(work, error)
                self._core.waiters.progress()
                if backoff is None:
                    rng = self._core.environment.entropy.stream(f"{self.part}.{work}")
                    backoff = Backoff(FIRST_WAIT_S, max(FIRST_WAIT_S, most_s), rng)
                await asyncio.sleep(max(backoff.wait(), LASTING_WAIT_S if error.lasting else 0.0))
            else:
                self.worked(work)
                return result

    def _judge(self) -> None:
        health = self._core.health
        if self._failed:
            error = self._failed[sorted(self._failed)[0]]
            health.set(self.part, DOWN, error.reason, error.cure)
        elif self._heard:
            health.set(self.part, OK)
