"""Bugs planted on purpose, to see that the simulator finds them: each patches one thing of the
production code for as long as a run lasts.

    mesh simulate swarm --plant ack-before-fsync --seeds 0:100

A simulator that finds nothing proves nothing until it has found these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from crdt import Counter
from crdt.clock import HybridClock
from crdt.errors import CallerError
from crdt.types.bounded import BoundedEditor
from mesh import exchange, recovery
from mesh.committer import Committer
from mesh.core import Core
from mesh.exchange import Exchange
from mesh.forks import Forks
from mesh.inbox import Inbox
from mesh.replica import Replica
from mesh.services.bus import BusFeed
from mesh.services.checkpoints import CheckpointFeed
from mesh.services.delivery import Delivery
from mesh.services.log import LogFeed
from mesh.services.registry import Registry
from mesh.services.shared import Services
from mesh.shards import ShardHost
from simulations.planted import decisions, replicas
from workflows import claims, machine
from workflows.decider import Decider

__all__ = ("PLANTS", "Plant", "planted")


@dataclass(frozen=True, slots=True)
class Plant:
    """A bug: what is wrong, which checkers may be the first to notice, the patches [(class or
    module, name, made from what was there)], and the scenario and a seed of it that show it: where
    a search best begins.
    """

    meaning: str
    found_by: tuple[str, ...]
    patches: Sequence[tuple[Any, str, Callable[[Any], Any]]]
    seed: int = 0
    scenario: str = "swarm"


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The production code with this bug, "" for none. Raises CallerError for one there is not."""
    if name and name not in PLANTS:
        raise CallerError(f"{name!r} is no planted bug; there are {', '.join(PLANTS)}")
    undo = []
    try:
        for owner, attribute, make in PLANTS[name].patches if name else ():
            real = getattr(owner, attribute)
            undo.append((owner, attribute, real))
            setattr(owner, attribute, make(real))
        yield
    finally:
        for owner, attribute, real in reversed(undo):
            setattr(owner, attribute, real)


PLANTS: Mapping[str, Plant] = {
    "ack-before-fsync": Plant(
        "flush returns before the journal has what was written.",
        ("Acknowledgements", "NothingLost"),
        [(Core, "on_disk", replicas.always_on_disk)],
    ),
    "gossip-before-fsync": Plant(
        "Peers get a frame before the journal has it.",
        ("OnDiskFirst",),
        [(Committer, "_cut", replicas.tells_at_the_cut)],
    ),
    "peer-ack-before-fsync": Plant(
        "A replica tells the author that it has a frame on disk when it is only in memory.",
        ("Acknowledgements", "OnDiskFirst"),
        [(Committer, "received", replicas.acknowledges_on_receipt)],
    ),
    "session-reused": Plant(
        "A replica goes on under its old session after a restart.",
        (
            "UniqueIds",
            "NothingRefused",
            "OnDiskFirst",
            "StrongConvergence",
            "CausalDelivery",
            "CounterBounds",
        ),
        [
            (recovery, "_fresh_session", replicas.same_session),
            (ShardHost, "__init__", replicas.goes_on_counting),
        ],
        seed=3,
    ),
    "inbox-out-of-order": Plant(
        "A frame is applied before what it depends on.",
        ("CausalDelivery", "StrongConvergence"),
        [(Inbox, "_unmet", replicas.own_past_is_enough)],
    ),
    "equivocation-unnoticed": Plant(
        "Nobody looks whether a frame follows the one before it, or is another of its name.",
        ("LiesNamed",),
        [(ShardHost, "apply", replicas.takes_any_history), (Forks, "meet", replicas.never_looks)],
        seed=8,
    ),
    "lost-remove": Plant(
        "What others removed stays.",
        ("StrongConvergence", "NothingRefused"),
        [(ShardHost, "apply", replicas.adds_only)],
    ),
    "cut-not-closed": Plant(
        "A snapshot claims an operation more than it holds.",
        (
            "Acknowledgements",
            "CheckpointsWhole",
            "Converged",
            "Monotone",
            "NothingRefused",
            "StrongConvergence",
            "UniqueIds",
        ),
        [(ShardHost, "snapshot", replicas.one_operation_ahead)],
    ),
    "no-anti-entropy": Plant(
        "Nobody looks whether a peer has more.",
        ("Converged",),
        [(Exchange, "_compare", replicas.never_compares)],
        seed=8,
    ),
    "cursor-before-ack": Plant(
        "What is sent to the log counts as being there before the log has said so.",
        ("LogComplete", "Served"),
        [(Delivery, "_deliver", replicas.counts_before_it_sends)],
        seed=5,
    ),
    "prune-before-log": Plant(
        "The journal forgets what is owed to the log.",
        ("LogFirst",),
        [(Services, "keep", replicas.forgets_for_services)],
        seed=5,
    ),
    "trim-before-log": Plant(
        "A replica trims the bus before the log has it.",
        ("LogFirst",),
        [(Registry, "__init__", replicas.knows_no_log)],
        seed=5,
    ),
    "flush-unnoticed": Plant(
        "That the bus lost its data, or a part of it, is not noticed.",
        ("Served",),
        [(BusFeed, "_changed", replicas.knows_no_generation)],
        seed=15,
    ),
    "log-loss-unnoticed": Plant(
        "That the log lost records is not noticed once it is as long as before.",
        ("LogComplete",),
        [(LogFeed, "_meet", replicas.looks_at_offsets)],
        seed=14,
        scenario="forgetful",
    ),
    "checkpoint-cut-not-closed": Plant(
        "A checkpoint claims an operation more than it holds.",
        ("CheckpointsWhole",),
        [(CheckpointFeed, "_capture", replicas.claims_one_more)],
    ),
    "claim-unfenced": Plant(
        "A token is accepted when it is out of date.",
        ("Fencing", "Linearizable"),
        [
            (claims, "fenced", decisions.never_fences),
            (machine, "_check_owner", decisions.ignores_tokens),
        ],
        seed=11,
    ),
    "transition-decided-twice": Plant(
        "A request that comes again is decided again.",
        ("OneWinner", "Linearizable"),
        [(Decider, "fire", decisions.forgets("_answers"))],
        seed=3,
    ),
    "refusal-forgotten": Plant(
        "A request that was refused is decided when it comes again.",
        ("OneWinner", "Linearizable"),
        [(Decider, "fire", decisions.forgets("_refusals"))],
        seed=3,
    ),
    "effect-before-commit": Plant(
        "Actions are performed before the decision stands, and where it never does.",
        ("NoEffectBeforeCommit",),
        [(Decider, "_decide", decisions.acts_first)],
        seed=3,
    ),
    "budget-without-rights": Plant(
        "Sessions spend from a budget what others have the right to.",
        ("NeverOverdrawn",),
        [(BoundedEditor, "_need", decisions.needs_no_right)],
        seed=3,
    ),
    "counted-twice": Plant(
        "What is added to a counter is added twice.",
        ("CounterBounds", "NoDuplicateEffect"),
        [(Counter, "assign", replicas.adds_twice)],
    ),
    "stale-read": Plant(
        "Every other read is answered with what the one before saw.",
        ("SessionGuarantees",),
        [(Replica, "get", replicas.answers_from_before)],
    ),
    "clock-not-hybrid": Plant(
        "Stamps are what the wall clock shows.",
        ("HybridClocks",),
        [(HybridClock, "now", replicas.shows_the_wall)],
    ),
    "whole-shards": Plant(
        "Whatever is lacking, the whole shard is asked for.",
        ("ResyncBound",),
        [(exchange, "plan", replicas.wants_whole_shards)],
        seed=2,
    ),
    "frontiers-only": Plant(
        "Anti-entropy compares frontiers, and no digests.",
        ("Converged",),
        [(exchange, "compare", replicas.looks_at_frontiers)],
        seed=8,
    ),
}
"""All there are, by name."""
