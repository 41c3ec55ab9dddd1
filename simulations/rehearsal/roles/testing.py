"""Test generator: which public functions no test mentions, so which tests are to be written first.

A test mentions a function if its name occurs in any test file as an identifier. That is a lower
bound on what is untested: another function may have the same name, and mentioning is not testing.
"""

from __future__ import annotations

import re

from simulations.rehearsal.source import (
    MAX_FILE_BYTES,
    Analysis,
    Finding,
    SourceModule,
    SourceTree,
    read_source,
)

_IDENTIFIER = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*")
_NAMES_SHOWN = 16


def prepare(tree: SourceTree) -> frozenset[str]:
    """Every identifier in the tree's tests; files that cannot be read mention nothing."""
    mentioned: set[bytes] = set()
    for path in tree.tests:
        try:
            data = read_source(tree.root / path, MAX_FILE_BYTES)
        except OSError:
            continue
        mentioned.update(_IDENTIFIER.findall(data))
    return frozenset(name.decode("ascii") for name in mentioned)


def analyse(module: SourceModule, mentioned: frozenset[str]) -> Analysis:
    """One finding that names the public functions no test mentions, longest first."""
    if module.problem is not None:
        return Analysis()
    missing = [f for f in module.public if f.name.rpartition(".")[2] not in mentioned]
    registers = {"untested": len(missing)}
    if not missing:
        return Analysis([], registers)
    by_size = sorted(
        missing,
        key=lambda f: (f.node.lineno - (f.node.end_lineno or f.node.lineno), f.name),
    )
    shown = ", ".join(f.name for f in by_size[:_NAMES_SHOWN])
    if len(missing) > _NAMES_SHOWN:
        shown += ", …"
    severity = "medium" if len(missing) == len(module.public) and len(missing) > 3 else "low"
    message = f"no test mentions {len(missing)} of {len(module.public)} public functions: {shown}"
    return Analysis([Finding("untested", severity, by_size[0].node.lineno, message)], registers)
