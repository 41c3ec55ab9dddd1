"""The seven roles of the audit: pure analyses of source code. Nothing here knows of the mesh."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from simulations.rehearsal.roles import (
    architecture,
    documentation,
    generation,
    requirements,
    review,
    security,
    testing,
)
from simulations.rehearsal.source import Analysis, SourceModule, SourceTree


@dataclass(frozen=True, slots=True)
class Role:
    """`prepare` looks at the whole tree once; `analyse` at one module, given what prepare returned.

    A leading role may claim modules: it answers for one until analysed. `short` is for tables.
    """

    name: str
    short: str
    prepare: Callable[[SourceTree], Any]
    analyse: Callable[[SourceModule, Any], Analysis]
    leads: bool


REQUIREMENTS = "requirements-analyst"
REVIEWER = "code-reviewer"
DOCUMENTATION = "documentation-generator"

ROLES: Mapping[str, Role] = {
    role.name: role
    for role in (
        Role(REQUIREMENTS, "requirements", requirements.prepare, requirements.analyse, leads=False),
        Role(
            "architecture-designer",
            "architecture",
            architecture.prepare,
            architecture.analyse,
            leads=True,
        ),
        Role("code-generator", "stubs", generation.prepare, generation.analyse, leads=True),
        Role("test-generator", "tests", testing.prepare, testing.analyse, leads=True),
        Role(REVIEWER, "review", review.prepare, review.analyse, leads=False),
        Role("security-analyst", "security", security.prepare, security.analyse, leads=True),
        Role(
            DOCUMENTATION, "documentation", documentation.prepare, documentation.analyse, leads=True
        ),
    )
}
