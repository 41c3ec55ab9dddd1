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
    "bus-flushed": Kind(
        "The bus loses all its data.",
        service(BUS),
        (0.1, 0.2),
        services.of_service(services.flushed),
        service=BUS,
    ),
    "bus-failover": Kind(
        "A copy of the bus takes over, which lacks the newest entries.",
        service(BUS),
        (0.1, 0.2),
        services.of_service(services.failed_over),
        service=BUS,
    ),
    "bus-trimmed": Kind(
        "The bus drops old entries early.",
        service(BUS),
        (0.1, 0.2),
        services.of_service(services.trimmed),
        service=BUS,
    ),
    "bus-full": Kind(
        "The bus is out of memory and takes nothing.",
        service(BUS),
        (0.3, 10),
        services.of_service(services.full),
        service=BUS,
    ),
    "log-down": Kind("The event log is away.", service(LOG), (0.3, 10), services.down, service=LOG),
    "log-slow": Kind(
        "The event log takes its time for everything.",
        service(LOG),
        (1, 10),
        services.of_service(services.slow_log),
        service=LOG,
    ),
    "log-unacknowledged": Kind(
        "An append fails of which all, or a part, is in the log.",
        service(LOG),
        (0.1, 0.2),
        services.of_service(services.unacknowledged),
        service=LOG,
    ),
    "log-twice": Kind(
        "Everything comes into the log twice.",
        service(LOG),
        (0.5, 8),
        services.of_service(services.twice),
        service=LOG,
    ),
    "log-retention": Kind(
        "The event log removes old records that checkpoints or replicas have.",
        service(LOG),
        (0.1, 0.2),
        services.retained,
        service=LOG,
    ),
    "log-truncated": Kind(
        "The event log is away, and comes back without its newest records.",
        service(LOG),
        (0.2, 4),
        services.of_service(services.truncated),
        service=LOG,
        scarce=True,
    ),
    "log-new": Kind(
        "The event log is deleted, and made anew: empty.",
        service(LOG),
        (0.2, 4),
        services.of_service(services.made_anew),
        service=LOG,
        scarce=True,
    ),
    "checkpoints-down": Kind(
        "The checkpoint store is away.",
        service(CHECKPOINTS),
        (0.3, 10),
        services.down,
        service=CHECKPOINTS,
    ),
    "checkpoints-slow": Kind(
        "The checkpoint store takes its time for everything.",
        service(CHECKPOINTS),
        (1, 10),
        services.of_service(services.slow_checkpoints),
        service=CHECKPOINTS,
    ),
    "checkpoints-unanswered": Kind(
        "The store does what it is asked for, and the connection is lost before it says so.",
        service(CHECKPOINTS),
        (0.1, 0.2),
        services.of_service(services.unanswered),
        service=CHECKPOINTS,
    ),
    **{
        name: Kind(meaning, service(TEMPORAL), lasts, services.of_service(befall), service=TEMPORAL)
        for name, (meaning, lasts, befall) in services.OF_TEMPORAL.items()
    },
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
