"""What the coordinator last heard of its server, as a PartHealth with the moment it changed."""

from __future__ import annotations

from mesh.environment import PartHealth
from persistence.base import Clock, Probe

CURE = (
    "start Temporal and a worker (`python -m workflows.worker`); commutative writes go on meanwhile"
)


class HealthRecord:
    """Keeps `since` from moving while the state stays the same, and tells the probe when it
    changes.
    """

    def __init__(self, clock: Clock, probe: Probe) -> None:
        self._clock = clock
        self._probe = probe
        self._health = PartHealth("degraded", clock.wall_ms(), "not asked yet")

    @property
    def now(self) -> PartHealth:
        """The present health."""
        return self._health

    def ok(self) -> None:
        """The server answered."""
        self._change("ok", "", "")

    def down(self, reason: str) -> None:
        """The server did not answer."""
        self._change("down", reason, CURE)

    def off(self) -> None:
        """The coordinator was closed."""
        self._change("off", "closed", "")

    def _change(self, state: str, reason: str, cure: str) -> None:
        before = self._health
        if before.state == "off" or (before.state == state == "ok"):
            return
        since = before.since if before.state == state else self._clock.wall_ms()
        self._health = PartHealth(state, since, reason, cure)
        if before.state != state:
            self._probe.event("coordinator.health", state=state, reason=reason)
