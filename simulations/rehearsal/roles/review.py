"""Code reviewer: complexity, length, bare excepts and mutable defaults.

Complexity is McCabe's cyclomatic number (A Complexity Measure, 1976): one more than the decisions
in a function. Nested functions count for themselves.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from simulations.rehearsal.source import (
    MAX_FINDINGS_PER_ROLE,
    Analysis,
    Finding,
    SourceModule,
    SourceTree,
)

_COMPLEX = 15
_FAR_TOO_COMPLEX = 50
_LONG_FUNCTION = 120
_LONG_MODULE = 1500

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_DECISIONS = (
    ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.match_case,
)  # fmt: skip
_MUTABLE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
_ORDER = {"high": 0, "medium": 1, "low": 2}


def prepare(_tree: SourceTree) -> None:
    """Needs nothing but the module itself."""


def analyse(module: SourceModule, _context: None) -> Analysis:
    """The worst findings of the module, and the complexity of its most complex function."""
    if module.problem is not None:
        return Analysis()
    findings: list[Finding] = []
    worst = 0
    for node in module.nodes:
        if isinstance(node, _Function):
            score = complexity(node)
            worst = max(worst, score)
            findings.extend(_function(node, score))
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            message = "a bare except also catches KeyboardInterrupt and SystemExit"
            findings.append(Finding("bare-except", "medium", node.lineno, message, node.col_offset))
    if module.lines > _LONG_MODULE:
        findings.append(Finding("long-module", "low", 1, f"{module.lines} lines in one file"))
    findings.sort(key=lambda finding: (_ORDER[finding.severity], finding.line, finding.rule))
    return Analysis(findings[:MAX_FINDINGS_PER_ROLE], {"complexity": worst})


def _function(node: _Function, score: int) -> Iterator[Finding]:
    if score > _COMPLEX:
        severity = "high" if score > _FAR_TOO_COMPLEX else "medium"
        message = f"{node.name} has cyclomatic complexity {score}"
        yield Finding("complexity", severity, node.lineno, message, node.col_offset)
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    if length > _LONG_FUNCTION:
        message = f"{node.name} is {length} lines long"
        yield Finding("long-function", "low", node.lineno, message, node.col_offset)
    defaults = [*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]
    for default in defaults:
        if isinstance(default, _MUTABLE):
            message = f"{node.name} has a mutable default, shared by all calls"
            yield Finding("mutable-default", "medium", default.lineno, message, default.col_offset)


def complexity(function: _Function) -> int:
    """McCabe's number of one function, without the functions and classes defined inside it."""
    score = 1
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if isinstance(node, _DECISIONS):
            score += 1
        elif isinstance(node, ast.BoolOp):
            score += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            score += 1 + len(node.ifs)
        waiting.extend(ast.iter_child_nodes(node))
    return score
