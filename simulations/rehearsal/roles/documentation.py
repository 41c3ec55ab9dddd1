"""Documentation generator: which share of the public interface says what it is for."""

from __future__ import annotations

import ast

from simulations.rehearsal.source import Analysis, Finding, SourceModule, SourceTree

_POOR = 0.5
_NAMES_SHOWN = 12


def prepare(_tree: SourceTree) -> None:
    """Needs nothing but the module itself."""


def analyse(module: SourceModule, _context: None) -> Analysis:
    """Docstring coverage of the module, its public classes and its public functions."""
    if module.problem is not None:
        return Analysis()
    findings: list[Finding] = []
    if module.tree.body and ast.get_docstring(module.tree, clean=False) is None:
        findings.append(Finding("module-docstring", "low", 1, "the module has no docstring"))
    wanted: list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]] = [
        (node.name, node) for node in module.public_classes
    ]
    wanted.extend((function.name, function.node) for function in module.public)
    if not wanted:
        return Analysis(findings, {"documented": 1.0})
    bare = [name for name, node in wanted if ast.get_docstring(node, clean=False) is None]
    covered = 1 - len(bare) / len(wanted)
    if covered < _POOR:
        shown = ", ".join(bare[:_NAMES_SHOWN]) + (", …" if len(bare) > _NAMES_SHOWN else "")
        message = f"{len(bare)} of {len(wanted)} public names without docstring: {shown}"
        findings.append(Finding("docstrings", "medium" if covered == 0 else "low", 0, message))
    return Analysis(findings, {"documented": round(covered, 3)})
