"""The kinds of faults: whom each hits, for how long, and what it does."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulations.faults import hosts, network, services
from simulations.faults.targets import (
    WAYS,
    Names,
    bridge,
    everybody,
    halves,
    isolate,
    one,
    one_way,
    pair,
    ring,
    service,
    some,
)
from simulations.ports.services import BUS, CHECKPOINTS, LOG, TEMPORAL

if TYPE_CHECKING:
    from simulations.world import World

Undo = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: whom it hits, for how many seconds, and what it does. `begin` gives what
    ends it. `scarce`: a plan has one fault of all that are, or nothing might be left of a write.
    `breaks`: alarms and invariants that it breaks until all agree; they are not judged then.
    `service`: the one that it hits, where a world has it. `prepare`: what has to be so from the
    start.
    """

    meaning: str
    targets: Callable[[random.Random, Names], tuple[str, ...]]
    lasts: tuple[float, float]
    begin: Callable[[World, tuple[str, ...]], Undo]
    prepare: Callable[[World, tuple[str, ...]], None] | None = None
    scarce: bool = False
    breaks: frozenset[str] = frozenset()
    service: str = ""

    @property
    def hits_ways(self) -> bool:
        """Whether its targets are ways, or hosts."""
        return self.targets in WAYS


def _on(
    name: str,
    meaning: str,
    lasts: tuple[float, float],
    befall: services.Befall,
    *,
    scarce: bool = False,
) -> Kind:
    """A kind of fault that befalls this service, in a way of its own."""
    begin = services.of_service(befall)
    return Kind(meaning, service(name), lasts, begin, scarce=scarce, service=name)


ROT = "rot"
"""Where it may happen less can be judged: it is a scenario of its own."""
KINDS: Mapping[str, Kind] = {
    "halves": Kind("The network falls into two parts.", halves, (0.3, 15), network.cut),
    "isolate": Kind("One host is cut off from all others.", isolate, (0.3, 15), network.cut),
    "one-way": Kind("Some hosts hear others, and are not heard.", one_way, (0.3, 15), network.cut),
    "bridge": Kind(
        "Two parts that only one host still sees both of.", bridge, (1, 15), network.cut
    ),
    "ring": Kind("Every host sees its two neighbours alone.", ring, (1, 15), network.cut),
    "flapping": Kind("Two parts, cut and mended again and again.", halves, (2, 15), network.flap),
    "clog": Kind(
        "One way is held, and flooded when it is open again.", pair, (0.1, 8), network.cut
    ),
    "reset": Kind("Connections between two hosts break.", pair, (0.1, 0.2), network.reset),
    "loss": Kind(
        "Every fifth message needs a retransmission.",
        everybody,
        (1, 10),
        network.weather(loss=0.2),
    ),
    "lag": Kind(
        "Everything takes some hundred milliseconds.",
        everybody,
        (1, 10),
        network.weather(latency_ms=80.0, jitter_ms=120.0),
    ),
    "blind": Kind("Discovery names nobody.", some, (1, 20), hosts.blind),
    "kill": Kind(
        "A process is killed, and started again.", some, (0.2, 10), hosts.crash(power=False)
    ),
    "power": Kind("A host goes dark, and comes back.", some, (0.5, 20), hosts.crash(power=True)),
    "power-before-sync": Kind(
        "A host goes dark while it writes: nothing of the write is there.",
        one,
        (1, 8),
        hosts.crash_in_sync("before"),
    ),
    "power-after-sync": Kind(
        "A host goes dark when a write is on disk, and nobody was told.",
        one,
        (1, 8),
        hosts.crash_in_sync("after"),
    ),
    "pause": Kind("A process stands still, and goes on.", some, (0.1, 20), hosts.pause),
    "stop": Kind("A replica is closed in order, and started again.", one, (1, 10), hosts.stop),
    "equivocation": Kind(
        "A member signs two frames under one name, and tells some the one, some the other.",
        one,
        (2, 15),
        hosts.equivocate,
        scarce=True,
        prepare=hosts.dishonest,
        breaks=hosts.OTHER_STATES | {"frame.forked", "frame.void", "UniqueIds"},
    ),
    "upgrade": Kind(
        "An older program runs on some hosts; it is ended, and its next version started.",
        some,
        (0.2, 5),
        hosts.upgrade,
        prepare=hosts.older,
    ),
    "disk-slow": Kind(
        "Syncs take fifty times as long.", some, (1, 10), hosts.disk("slow", 50.0, 1.0)
    ),
    "disk-full": Kind(
        "A disk takes no more frames.", one, (0.5, 8), hosts.disk("full", True, False)
    ),
    "disk-broken": Kind(
        "A disk refuses every write.", one, (0.5, 8), hosts.disk("broken", True, False)
    ),
    "disk-lost": Kind(
        "A host comes back with an empty disk.", one, (1, 8), hosts.lose_disk, scarce=True
    ),
    "disk-old": Kind(
        "A host goes dark, and its disk is as it was when this began.",
        one,
        (1, 15),
        hosts.old_disk,
        scarce=True,
    ),
    "flip": Kind(
        "Bits on a disk turn; later the host goes dark, and starts with them.",
        one,
        (0.5, 15),
        hosts.flip,
        scarce=True,
        breaks=frozenset({"frame.stuck"}),
    ),
    "torn": Kind(
        "A host goes dark, and its disk lacks the newest writes, which it had called done.",
        one,
        (0.5, 8),
        hosts.tear,
        scarce=True,
        breaks=frozenset({"frame.stuck"}),
    ),
    "clone": Kind(
        "A machine is cloned with its folder, and both run until somebody ends the clone.",
        one,
        (2, 20),
        hosts.clone,
        scarce=True,
        breaks=frozenset({"identity.cloned"}),
    ),
    "clock-step": Kind("Somebody sets a host's clock.", one, (0.1, 0.2), hosts.step_clock),
    "bus-down": Kind("The bus is away.", service(BUS), (0.3, 10), services.down, service=BUS),
    "bus-flushed": _on(BUS, "The bus loses all its data.", (0.1, 0.2), services.flushed),
    "bus-failover": _on(
        BUS,
        "A copy of the bus takes over, which lacks the newest entries.",
        (0.1, 0.2),
        services.failed_over,
    ),
    "bus-trimmed": _on(BUS, "The bus drops old entries early.", (0.1, 0.2), services.trimmed),
    "bus-full": _on(BUS, "The bus is out of memory and takes nothing.", (0.3, 10), services.full),
    "log-down": Kind("The event log is away.", service(LOG), (0.3, 10), services.down, service=LOG),
    "log-slow": _on(
        LOG, "The event log takes its time for everything.", (1, 10), services.slow_log
    ),
    "log-unacknowledged": _on(
        LOG,
        "An append fails of which all, or a part, is in the log.",
        (0.1, 0.2),
        services.unacknowledged,
    ),
    "log-twice": _on(LOG, "Everything comes into the log twice.", (0.5, 8), services.twice),
    "log-retention": Kind(
        "The event log removes old records that checkpoints or replicas have.",
        service(LOG),
        (0.1, 0.2),
        services.retained,
        service=LOG,
    ),
    "log-truncated": _on(
        LOG,
        "The event log is away, and comes back without its newest records.",
        (0.2, 4),
        services.truncated,
        scarce=True,
    ),
    "log-new": _on(
        LOG,
        "The event log is deleted, and made anew: empty.",
        (0.2, 4),
        services.made_anew,
        scarce=True,
    ),
    "checkpoints-down": Kind(
        "The checkpoint store is away.",
        service(CHECKPOINTS),
        (0.3, 10),
        services.down,
        service=CHECKPOINTS,
    ),
    "checkpoints-slow": _on(
        CHECKPOINTS,
        "The checkpoint store takes its time for everything.",
        (1, 10),
        services.slow_checkpoints,
    ),
    "checkpoints-unanswered": _on(
        CHECKPOINTS,
        "The store does what it is asked for, and the connection is lost before it says so.",
        (0.1, 0.2),
        services.unanswered,
    ),
    "temporal-down": _on(TEMPORAL, "Temporal is away.", (0.3, 10), services.temporal_away),
    "temporal-slow": _on(
        TEMPORAL, "Temporal decides, and answers late.", (1, 10), services.slow_temporal
    ),
    "temporal-repeats": _on(
        TEMPORAL,
        "Answers are lost after the decision; requests and actions come twice.",
        (1, 10),
        services.repeating,
    ),
    ROT: Kind(
        "A value in a replica's memory turns into another.",
        one,
        (0.1, 0.2),
        hosts.rot,
        breaks=hosts.OTHER_STATES,
    ),
}
"""All there are, by name."""

NETWORK = (
    "halves", "isolate", "one-way", "bridge", "ring", "flapping", "clog", "reset", "loss", "lag",
)  # fmt: skip
LOSSES = ("log-retention", "log-truncated", "log-new")
SERVICE = tuple(name for name, kind in KINDS.items() if kind.service)
CRASHES = (
    "kill", "power", "power-before-sync", "power-after-sync", "pause", "stop", "disk-slow",
    "disk-full", "disk-broken", "disk-lost", "disk-old", "flip", "torn", "clone", "upgrade",
)  # fmt: skip
