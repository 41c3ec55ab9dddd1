"""Every kind of probe event the mesh emits, with its meaning, and the two everyday probes.

One list, read by the log, metrics, the screen, traces and simulations alike. A kind not in it is a
bug that the test suite finds.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

EVENTS: Mapping[str, str] = {
    "replica.started": "A session began; the state came from the journal.",
    "replica.closed": "The session ended; `journaled`: everything written is on disk.",
    "replica.failed": "A task of the replica ended by a bug; edits are refused from now on.",
    "health.changed": "A part of the replica changed its state.",
    "journal.read": "The journal was read: frames applied again, and how many of them are void.",
    "journal.failed": "The disk refused a batch; it is kept and tried again.",
    "journal.recovered": "The disk takes batches again.",
    "snapshot.saved": "A shard's snapshot is on disk.",
    "snapshot.joined": "A peer's snapshot of a shard was joined.",
    "snapshot.refused": "A peer's snapshot was garbage, forged or foreign; nothing changed.",
    "snapshot.failed": "A shard could not be turned into a snapshot.",
    "journal.pruned": "Frames that are in a snapshot and with every live peer were forgotten.",
    "frame.refused": "A received frame was garbage, forged, foreign or oversized; nothing changed.",
    "frame.uncertified": "A frame's session is unknown here; its certificate was asked for.",
    "frame.void": "A properly signed frame had a malformed body: only its seqs are used up.",
    "frame.dropped": "The inbox was full; the frame will be fetched again.",
    "frame.forked": "A session's frame does not follow its last: two histories of one session.",
    "heads.absorbed": "Too many sessions wrote without seeing each other; an own frame joins them.",
    "lattice.conflict": "Two payloads were found under one dot; the larger stays on every replica.",
    "clock.drift": "A peer stamped further ahead than the clock follows; check that host's clock.",
    "digest.mismatch": "Equal operations but different state: a bug or an attack; joining in full.",
    "link.up": "A link to a peer is ready.",
    "link.down": "A link ended; the reason is said.",
    "link.refused": "A link was closed before use: ourselves, a foreign mesh, one too many.",
    "link.flood": "A peer sent more garbage than is tolerated; its link was closed.",
    "link.deaf": "A peer asked for far more than it read; its link was closed.",
    "link.overflow": "A slow peer's queue was full; it will be repaired when it is empty again.",
    "link.error": "A bug: handling a peer's message failed; the link was closed.",
    "message.refused": "A peer's message could not be decoded.",
    "message.unknown": "A peer said something only newer versions understand.",
    "link.opened": "The transport made a link.",
    "link.closed": "The transport ended a link.",
    "link.oversized": "A peer announced a message beyond the bound.",
    "peer.refused": "Somebody who is not of this mesh knocked.",
    "listener.failed": "The listening socket failed.",
    "dial.failed": "Nobody answered at an address; it is tried again.",
    "replica.restoring": "An empty replica starts before checkpoints and log are all in.",
    "service.failed": "A bus, log or checkpoint store could not do it; it is tried again.",
    "service.recovered": "It does again what it could not.",
    "bus.reset": "The bus was flushed, restarted or replaced; our frames are offered to it again.",
    "bus.trimmed": "The bus removed entries before they were read here; they come from elsewhere.",
    "bus.reread": "Frames read from the bus waited too long for their causes; reading them again.",
    "log.reread": "Frames read from the log waited too long for their causes; reading them again.",
    "log.reset": "The log lost what it had of a shard; our frames are offered to it again.",
    "log.uploaded": "The log lacked somebody else's frames; they were uploaded from here.",
    "log.hole": "The log lacks operations that only snapshots and checkpoints still hold.",
    "checkpoint.lease": "This replica began or ceased to write a shard's checkpoints.",
    "checkpoint.written": "A checkpoint was written, loaded back and proven.",
    "checkpoint.failed": "A checkpoint could not be made or did not stand the proof.",
    "checkpoint.refused": "A checkpoint found in the store was damaged, forged or foreign.",
    "repair.asked": "Missing operations were asked for from a peer.",
    "repair.snapshot": "A whole shard was asked for from a peer.",
    "repair.served": "A peer was sent frames it asked for.",
    "repair.pruned": "A peer asked for frames that are gone here; it will take a snapshot.",
}


class LoggingProbe:
    """Writes events to a standard logger: alarms as warnings, the rest as debug."""

    ALARMS = frozenset(
        {
            "replica.failed", "replica.restoring", "journal.failed", "frame.refused", "frame.void",
            "frame.forked", "lattice.conflict", "clock.drift", "digest.mismatch", "link.flood",
            "link.deaf", "link.error", "service.failed", "checkpoint.refused", "checkpoint.failed",
            "log.hole", "log.reset", "snapshot.refused", "snapshot.failed", "message.refused",
        }
    )  # fmt: skip

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger("statemesh")

    def event(self, kind: str, **fields: object) -> None:
        """One log line: the kind, then the fields."""
        level = logging.WARNING if kind in self.ALARMS else logging.DEBUG
        if self._logger.isEnabledFor(level):
            text = " ".join(f"{name}={value}" for name, value in fields.items())
            self._logger.log(level, "%s %s", kind, text)

    def sometimes(self, name: str) -> None:
        """Nothing: rare paths matter in simulations only."""


class CountingProbe:
    """Counts events by kind and keeps the latest of each: for tests, status and metrics."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.latest: dict[str, dict[str, object]] = {}
        self.paths: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<CountingProbe {dict(self.counts)}>"

    def event(self, kind: str, **fields: object) -> None:
        """Count it and keep its fields until the next of its kind."""
        self.counts[kind] += 1
        self.latest[kind] = dict(fields)

    def sometimes(self, name: str) -> None:
        """Count a rare path."""
        self.paths[name] += 1
