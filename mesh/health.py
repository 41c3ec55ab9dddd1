"""How the parts of a replica are doing, since when, why, and what cures it.

Reads and commutative writes never stop, so there is no "replica is down": there are parts that are.
"""

from __future__ import annotations

from mesh.environment import PartHealth
from persistence.base import Clock, Probe

OK = "ok"
DEGRADED = "degraded"
DOWN = "down"
OFF = "off"
JOURNAL = "journal"
IDENTITY = "identity"
PEERS = "peers"
BUS = "bus"
LOG = "log"
CHECKPOINTS = "checkpoints"
COORDINATOR = "coordinator"
PARTS = (JOURNAL, IDENTITY, PEERS, BUS, LOG, CHECKPOINTS, COORDINATOR)


class Health:
    """The last known state of every part; each change is one `health.changed` event."""

    def __init__(self, clock: Clock, probe: Probe) -> None:
        self._clock = clock
        self._probe = probe
        now = clock.wall_ms()
        self._parts = {part: PartHealth(OFF, now, "not started") for part in PARTS}
        self._told = dict.fromkeys(PARTS, (OFF, "not started", ""))
        self._remarks: dict[str, dict[str, tuple[str, str]]] = {}

    def __repr__(self) -> str:
        return f"<Health { ({name: part.state for name, part in self._parts.items()}) }>"

    def report(self) -> dict[str, PartHealth]:
        """{part: PartHealth} for every part in `PARTS`."""
        return dict(self._parts)

    def of(self, part: str) -> PartHealth:
        """One of them."""
        return self._parts[part]

    def set(self, part: str, state: str, reason: str = "", cure: str = "") -> None:
        """A part is in this state now; `since` moves only when the state changes."""
        self._told[part] = (state, reason, cure)
        if state in (OK, OFF) and (remarks := self._remarks.get(part)):
            state = DEGRADED
            reason, cure = ("; ".join(texts) for texts in zip(*remarks.values(), strict=True))
        before = self._parts[part]
        if (before.state, before.reason, before.cure) == (state, reason, cure):
            return
        since = before.since if before.state == state else self._clock.wall_ms()
        self._parts[part] = PartHealth(state, since, reason, cure)
        if before.state != state:
            self._probe.event("health.changed", part=part, state=state, reason=reason)

    def remark(self, part: str, name: str, reason: str = "", cure: str = "") -> None:
        """Something lasting about a part that works: it counts as degraded, until the remark of
        this name is taken back by one without a reason.
        """
        remarks = self._remarks.setdefault(part, {})
        if not reason and name not in remarks:
            return
        if reason:
            remarks[name] = (reason, cure)
        else:
            remarks.pop(name, None)
        self.set(part, *self._told[part])
