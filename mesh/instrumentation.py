"""Every kind of probe event the mesh emits, with its meaning, and the two everyday probes.

One list, read by the log, metrics, the screen, traces and simulations alike. A kind not in it is a
bug that the test suite finds.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from mesh.refusals import worth_saying

EVENTS: Mapping[str, str] = {
    "machine.fired": "A machine moved: the coordinator decided a transition.",
    "coordinator.unavailable": "Temporal did not answer; what needs a decision fails or waits.",
    "coordinator.health": "The coordinator's state changed.",
    "replica.started": "A session began; the state came from the journal.",
    "replica.loaded": "All shards are in memory; `shards` of them were read with nobody asking.",
    "replica.closed": "The session ended; `journaled`: everything written is on disk.",
    "replica.failed": "A task of the replica ended by a bug; edits are refused from now on.",
    "session.closed": "A session ended in order, as its last frame in a shard says.",
    "durability.abandoned": "The replica ended before a callback's writes were durable enough.",
    "durability.failed": "A callback of on_durable raised; what was written is not concerned.",
    "edit.overran": "A thread's edit kept the replica waiting for too long; it is void.",
    "health.changed": "A part of the replica changed its state.",
    "presence.expired": "A replica gave no sign of life for too long; it counts as gone.",
    "presence.refused": "The registry on the bus held a row that no member sealed.",
    "discovery.failed": "Nobody can be found on the local network; other ways go on.",
    "presence.full": "More replicas are present than are kept account of; the newest are left out.",
    "journal.read": "The journal was read: frames applied again, and how many of them are void.",
    "journal.rebuilt": "The journal was damaged, and built anew from what could be read of it.",
    "identity.cloned": "A replica runs twice under one name: its folder was copied; `count`.",
    "bus.position": "The position kept for the bus means nothing to it; read from its beginning.",
    "journal.failed": "The disk refused a batch; it is kept and tried again.",
    "journal.recovered": "The disk takes batches again.",
    "snapshot.saved": "A shard's snapshot is on disk.",
    "snapshot.joined": "A peer's snapshot of a shard was joined.",
    "snapshot.refused": "A peer's snapshot was garbage, forged or foreign; nothing changed.",
    "snapshot.dropped": "What was kept to go on with a broken transfer went: too old, too much.",
    "snapshot.failed": "A shard could not be turned into a snapshot.",
    "journal.pruned": "Frames that are in a snapshot and with every live peer were forgotten.",
    "frame.refused": "A received frame was garbage, forged, foreign or oversized; nothing changed.",
    "frame.uncertified": "A frame's session is unknown here; its certificate was asked for.",
    "frame.keyless": "A frame is sealed with a mesh key that is not here; it waits for the key.",
    "frame.void": "A properly signed frame had a malformed body: only its seqs are used up.",
    "frame.dropped": "The inbox was full; the frame will be fetched again.",
    "frame.stuck": "Frames have waited too long for others that they name; only they are held up.",
    "frame.forked": "Two histories of one session: another frame of this name, or no successor.",
    "heads.absorbed": "Too many sessions wrote without seeing each other; an own frame joins them.",
    "lattice.conflict": "Two payloads were found under one dot; the larger stays on every replica.",
    "clock.drift": "A peer stamped further ahead than the clock follows; check that host's clock.",
    "digest.mismatch": "Equal operations but different state: a bug or an attack; joining in full.",
    "roster.adopted": "The authority's newest roster came: revocations, and which key seals.",
    "roster.refused": "A peer sent a roster that the authority did not sign; nothing changed.",
    "keys.taken": "Mesh keys came that the roster names.",
    "link.up": "A link to a peer is ready.",
    "link.down": "A link ended; the reason is said.",
    "link.refused": "No link: ourselves, a foreign mesh, one too many, revoked, expired; `count`.",
    "link.flood": "A peer sent more garbage than is tolerated; its link was closed.",
    "link.deaf": "A peer asked for far more than it read; its link was closed.",
    "link.overflow": "A slow peer's queue was full; it will be repaired when it is empty again.",
    "link.limited": "A peer asks for more than one may; it is read more slowly; `count`.",
    "link.barred": "A peer asked for too much for too long; no link for `seconds`; `count`.",
    "link.error": "A bug: handling a peer's message failed; the link was closed.",
    "message.refused": "A peer's message could not be decoded.",
    "message.unknown": "A peer said something only newer versions understand.",
    "link.opened": "The transport made a link.",
    "link.closed": "The transport ended a link.",
    "link.oversized": "A peer announced a message beyond the bound.",
    "peer.refused": "Somebody not of this mesh, or no longer, knocked; the `count`-th time.",
    "listener.failed": "The listening socket failed.",
    "dial.failed": "Nobody answered at an address; it is tried again.",
    "replica.restoring": "An empty replica starts before checkpoints and log are all in.",
    "service.failed": "A bus, log or checkpoint store could not do it; it is tried again.",
    "service.recovered": "It does again what it could not.",
    "bus.reset": "The bus was flushed, restarted or replaced; our frames are offered to it again.",
    "bus.trimmed": "The bus removed entries before they were read here; they come from elsewhere.",
    "bus.reread": "Frames read from the bus waited too long for their causes; reading them again.",
    "log.reread": "Frames read from the log waited too long for their causes; reading them again.",
    "log.reset": "The log lost records of a shard that were read; our frames are offered again.",
    "log.uploaded": "The log lacked frames of others, or lost ours; they were uploaded from here.",
    "log.hole": "The log lacks operations that only snapshots and checkpoints still hold.",
    "checkpoint.lease": "This replica began or ceased to write a shard's checkpoints.",
    "checkpoint.written": "A checkpoint was written, loaded back and proven.",
    "checkpoint.failed": "A checkpoint could not be made or did not stand the proof.",
    "checkpoint.refused": "A checkpoint found in the store was damaged, forged or foreign.",
    "checkpoint.stale": "What was to be a checkpoint lacks what the newest one has: not written.",
    "repair.asked": "Missing operations were asked for from a peer.",
    "repair.snapshot": "A whole shard was asked for from a peer, but for `parts` that are here.",
    "repair.served": "A peer was sent frames, or parts of a snapshot, that it asked for.",
    "repair.pruned": "A peer asked for frames that are gone here; it will take a snapshot.",
}

EVENT_FIELDS: Mapping[str, str] = {
    "machine.fired": "epoch event id machine seconds target",
    "coordinator.unavailable": "machine reason",
    "coordinator.health": "reason state",
    "replica.started": "address replica session",
    "replica.loaded": "shards",
    "replica.closed": "journaled replica",
    "replica.failed": "reason",
    "session.closed": "seq session shard",
    "durability.abandoned": "level reason written",
    "durability.failed": "level reason written",
    "edit.overran": "seconds",
    "health.changed": "part reason state",
    "presence.expired": "replica",
    "presence.refused": "detail reason replica",
    "discovery.failed": "reason",
    "presence.full": "replicas",
    "journal.read": "frames voids",
    "journal.rebuilt": "",
    "identity.cloned": "count replica session",
    "bus.position": "reason",
    "journal.failed": "reason",
    "journal.recovered": "",
    "snapshot.saved": "bytes shard",
    "snapshot.joined": "documents peer shard",
    "snapshot.refused": "peer reason detail? shard?",
    "snapshot.dropped": "bytes shard",
    "snapshot.failed": "reason shard",
    "journal.pruned": "frames shard",
    "frame.refused": "detail peer reason",
    "frame.uncertified": "peer reason",
    "frame.keyless": "key peer",
    "frame.void": "first peer session shard",
    "frame.dropped": "session shard",
    "frame.stuck": "first frames peer reason session shard",
    "frame.forked": "peer reason shard count? first? replica? session?",
    "heads.absorbed": "heads shard",
    "lattice.conflict": "document seq session",
    "clock.drift": "session shard stamp first?",
    "digest.mismatch": "ours peer shard theirs",
    "roster.adopted": "peer revoked seals version",
    "roster.refused": "detail peer reason",
    "keys.taken": "keys peer",
    "link.up": "address peer session",
    "link.down": "address peer reason",
    "link.refused": "count peer reason",
    "link.flood": "peer",
    "link.deaf": "bytes peer",
    "link.overflow": "bytes peer",
    "link.limited": "count peer",
    "link.barred": "count peer seconds",
    "link.error": "peer reason",
    "message.refused": "detail peer reason",
    "message.unknown": "code peer",
    "link.opened": "address initiated peer",
    "link.closed": "address peer reason",
    "link.oversized": "bytes peer",
    "peer.refused": "address count reason",
    "listener.failed": "reason",
    "dial.failed": "address reason",
    "replica.restoring": "sources",
    "service.failed": "part reason work",
    "service.recovered": "part work",
    "bus.reset": "generation",
    "bus.trimmed": "shard",
    "bus.reread": "shard",
    "log.reread": "shard",
    "log.reset": "shard",
    "log.uploaded": "frames session shard",
    "log.hole": "after session shard upto",
    "checkpoint.lease": "held shard fence? reason?",
    "checkpoint.written": "bytes id log_offset replaced sessions shard",
    "checkpoint.failed": "reason shard?",
    "checkpoint.refused": "id reason replica shard",
    "checkpoint.stale": "shard",
    "repair.asked": "peer ranges shard",
    "repair.snapshot": "parts peer shard",
    "repair.served": "peer shard bytes? frames? holes? parts?",
    "repair.pruned": "peer shard",
}
"""The fields of each kind, by name; with a `?`: not in every event of the kind."""

FIELDS: Mapping[str, tuple[type, str]] = {
    "address": (str, "where a peer was met or dialled, `host:port`"),
    "after": (int, "the last seq before what is meant"),
    "bytes": (int, "size in bytes"),
    "code": (int, "the number of a kind of message"),
    "count": (int, "how often this happened by now, the same in the same place"),
    "detail": (str, "what exactly was wrong, for people"),
    "document": (str, "id of a document, `Type/name`"),
    "documents": (int, "how many documents changed"),
    "epoch": (int, "the number of a decision; it grows"),
    "event": (str, "what a machine was told"),
    "fence": (int, "version of a lease; it grows with every holder"),
    "first": (int, "first seq of a frame"),
    "frames": (int, "how many frames"),
    "generation": (str, "which history of the bus it is; empty: several"),
    "heads": (int, "how many frames nothing depended on"),
    "held": (bool, "whether the lease is held now"),
    "holes": (bool, "whether some of what was asked for is gone here"),
    "id": (str, "which one, in words of the service"),
    "initiated": (bool, "whether this side dialled"),
    "journaled": (bool, "whether everything written is on disk"),
    "key": (int, "id of a mesh key"),
    "keys": (int, "how many mesh keys"),
    "level": (str, "a level of durability, as `PEERS(2)`"),
    "log_offset": (int, "the offset of the log from which to read on"),
    "machine": (str, "id of a state machine"),
    "ours": (str, "the digest here, in hex"),
    "part": (str, "a part of the replica, as in `replica.health()`"),
    "parts": (int, "how many parts of a sealed snapshot"),
    "peer": (str, "name of the other replica, or of the service with an @ before it"),
    "ranges": (int, "how many ranges of seqs"),
    "reason": (str, "why, for people; the names of errors where they are counted"),
    "replaced": (int, "how many older ones went"),
    "replica": (str, "name of the replica concerned"),
    "replicas": (int, "how many replicas"),
    "revoked": (int, "how many replicas are let in no more"),
    "seals": (int, "id of the mesh key that new frames are sealed with"),
    "seconds": (float, "how long it took, or takes"),
    "seq": (int, "number of an operation in its session and shard"),
    "session": (int, "id of a session"),
    "sessions": (int, "how many sessions"),
    "shard": (int, "number of a shard"),
    "shards": (int, "how many shards"),
    "sources": (dict, "{source: operations that came from it}"),
    "stamp": (int, "a hybrid clock's value: Unix milliseconds << 16, and a counter"),
    "state": (str, "the state that a part or machine is in now"),
    "target": (str, "the state that was asked for"),
    "theirs": (str, "the digest there, in hex"),
    "upto": (int, "the last seq of what is meant"),
    "version": (int, "a version; the higher one wins"),
    "voids": (int, "how many frames have no effect"),
    "work": (str, "what the service was to do"),
    "written": (dict, "{shard: last seq of this session}"),
}
"""What a field means and what it is, wherever it appears."""


@dataclass(frozen=True, slots=True)
class EventKind:
    """One kind of event. `fields`: {name: (type, meaning)}; `optional` are not always there."""

    meaning: str
    fields: Mapping[str, tuple[type, str]]
    optional: frozenset[str]


def schema() -> dict[str, EventKind]:
    """All of it, for programs: metrics, screens and reports."""
    found = {}
    for kind, meaning in EVENTS.items():
        names = EVENT_FIELDS[kind].split()
        fields = {name.rstrip("?"): FIELDS[name.rstrip("?")] for name in names}
        optional = frozenset(name.rstrip("?") for name in names if name.endswith("?"))
        found[kind] = EventKind(meaning, fields, optional)
    return found


class LoggingProbe:
    """Writes events to a standard logger: alarms as warnings, the rest as debug."""

    ALARMS = frozenset(
        {
            "replica.failed", "replica.restoring", "journal.failed", "frame.refused", "frame.void",
            "frame.forked", "lattice.conflict", "clock.drift", "digest.mismatch", "link.flood",
            "link.deaf", "link.error", "service.failed", "checkpoint.refused", "checkpoint.failed",
            "checkpoint.stale",
            "log.hole", "log.reset", "snapshot.refused", "snapshot.failed", "message.refused",
            "peer.refused", "link.refused", "roster.refused", "journal.rebuilt", "identity.cloned",
            "frame.stuck", "link.limited", "link.barred",
        }
    )  # fmt: skip

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger("statemesh")

    def event(self, kind: str, **fields: object) -> None:
        """One log line: the kind, then the fields. Of what is counted by `count`, the first is an
        alarm, the tenth, the hundredth…
        """
        count = fields.get("count", 1)
        aloud = not isinstance(count, int) or worth_saying(count)
        level = logging.WARNING if kind in self.ALARMS and aloud else logging.DEBUG
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
