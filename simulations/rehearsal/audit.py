"""What the fleet shares: the documents of an audit, and the machine every module passes through.

Findings, measures and texts commute, so every agent writes them whenever it likes. Who leads a
module and where it stands do not: those are decisions of the machine, and only their outcome is
state (`Task.machine`).
"""

from __future__ import annotations

from typing import Any

from crdt import Counter, Decided, Document, Feed, Map, Register, Set, Text
from simulations.rehearsal.roles import ROLES
from workflows.machine import Machine, Rule
from workflows.registry import register

AUDIT = "audit"
"""The name of the one audit: `Report/audit`, `Fleet/audit`, `Workflow/audit`."""

QUEUED, CLAIMED, ANALYSED, REVIEWED = "queued", "claimed", "analysed", "reviewed"
ACCEPTED, REWORK = "accepted", "rework"
FINAL = (ACCEPTED, REWORK)

MODULE_AUDIT = register(
    Machine(
        name="module-audit",
        initial=QUEUED,
        rules=(
            Rule("claim", QUEUED, CLAIMED, owner="take"),
            # An agent that lost its memory takes its own claims again, under a new token.
            Rule("claim", CLAIMED, CLAIMED, owner="take"),
            Rule("analysed", CLAIMED, ANALYSED, owner="release"),
            Rule("reviewed", ANALYSED, REVIEWED, owner="take"),
            Rule("accept", REVIEWED, ACCEPTED, owner="release"),
            Rule("reject", REVIEWED, REWORK, owner="release"),
        ),
        final=FINAL,
    )
)

ALL_PARTS = frozenset(ROLES)
"""The parts every task consists of: one of each role."""


class Task(Document):
    """One module: what it is, what every role found in it, and where it stands.

    `machine` is the last decision. `history` keeps all as those who asked for them wrote them
    down, because journals are compacted and the verdict wants to see every claim there ever was.
    """

    path: Register[str]
    size: Register[int]
    lines: Register[int]
    public: Register[int]
    priority: Register[str]
    imports: Set[str]
    imported_by: Register[int]
    unannotated: Register[int]
    untested: Register[int]
    documented: Register[float]
    complexity: Register[int]
    risk: Register[int]
    stub: Register[str]
    findings: Map[str, Register[dict[str, Any]]]
    severities: Map[str, Counter]
    parts: Set[str]
    history: Feed[dict[str, Any]]
    summary: Register[dict[str, Any]]
    machine: Decided[dict[str, Any]]


class Report(Document):
    """The report that several agents write at the same time."""

    text: Text


class Fleet(Document):
    """Fleet-wide counters: parts per role, findings per severity, claims and refusals."""

    parts: Map[str, Counter]
    findings: Map[str, Counter]
    claims: Counter
    refused: Counter
