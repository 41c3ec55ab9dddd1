"""Requirements analyst: what there is to audit, its public interface, and what matters first."""

from __future__ import annotations

import ast

from simulations.rehearsal.source import Analysis, Finding, SourceModule, SourceTree

_HIGH_PRIORITY = 40.0
_MEDIUM_PRIORITY = 12.0


def prepare(_tree: SourceTree) -> None:
    """Needs nothing but the module itself."""


def analyse(module: SourceModule, _context: None) -> Analysis:
    """Size, public interface and priority; and the one finding on a file that can't be parsed."""
    findings = [module.problem] if module.problem is not None else []
    public = len(module.public) + len(module.public_classes)
    runs_as_script = module.path.endswith(("__init__.py", "__main__.py"))
    if module.problem is None and not public and not runs_as_script and _defines(module):
        findings.append(
            Finding("no-public-api", "low", 1, "defines functions or classes, but nothing public")
        )
    return Analysis(
        findings,
        {
            "path": module.path,
            "size": module.bytes,
            "lines": module.lines,
            "public": public,
            "priority": priority(public, module.lines),
        },
    )


def priority(public: int, lines: int) -> str:
    """The more others can call, and the more there is to get wrong, the sooner it is looked at."""
    weight = public + lines / 50
    if weight >= _HIGH_PRIORITY:
        return "high"
    return "medium" if weight >= _MEDIUM_PRIORITY else "low"


def _defines(module: SourceModule) -> bool:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return any(isinstance(node, kinds) for node in module.tree.body)
