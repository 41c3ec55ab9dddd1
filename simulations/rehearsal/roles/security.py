"""Security analyst: data run as code, shells, unpickling, weak hashes, guessable file names.

Names are resolved through the module's own imports (`from pickle import loads as l` is still
`pickle.loads`), not by following values: what is hidden in a variable is not found.
"""

from __future__ import annotations

import ast

from simulations.rehearsal.source import (
    MAX_FINDINGS_PER_ROLE,
    Analysis,
    Finding,
    SourceModule,
    SourceTree,
)

_UNPICKLING = {
    f"{module}.{name}"
    for module in ("pickle", "_pickle", "cPickle", "dill", "cloudpickle")
    for name in ("load", "loads", "Unpickler")
} | {"marshal.load", "marshal.loads", "shelve.open"}
_SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
_WEAK_HASHES = {"hashlib.md5", "hashlib.sha1", "md5.new", "sha.new", "_md5.md5", "_sha1.sha1"}
_WEIGHT = {"high": 10, "medium": 3, "low": 1}


def prepare(_tree: SourceTree) -> None:
    """Needs nothing but the module itself."""


def analyse(module: SourceModule, _context: None) -> Analysis:
    """The dangerous calls of a module, and their weighted sum as its risk."""
    if module.problem is not None:
        return Analysis()
    imported = _imported_names(module)
    findings: list[Finding] = []
    for node in module.nodes:
        if isinstance(node, ast.Call):
            name = _dotted(node.func, imported)
            judged = _judge(name, node)
            if judged is not None:
                rule, severity, message = judged
                findings.append(Finding(rule, severity, node.lineno, message, node.col_offset))
    findings.sort(key=lambda finding: (-_WEIGHT[finding.severity], finding.line, finding.column))
    risk = sum(_WEIGHT[finding.severity] for finding in findings)
    return Analysis(findings[:MAX_FINDINGS_PER_ROLE], {"risk": risk})


def _judge(name: str, call: ast.Call) -> tuple[str, str, str] | None:
    if name in ("eval", "exec", "builtins.eval", "builtins.exec"):
        if _constant(call):
            return None
        return "dynamic-code", "high", f"{name.rpartition('.')[2]}() runs computed text as code"
    if name in _SHELLS:
        severity = "low" if _constant(call) else "high"
        return "shell", severity, f"{name}() hands its text to a shell"
    if _flag(call, "shell") is True:
        severity = "medium" if _constant(call) else "high"
        return "shell", severity, f"{name or 'a call'}(shell=True) hands its text to a shell"
    if name in _UNPICKLING:
        return "unpickling", "high", f"{name}() can run any code its input asks for"
    if name in _WEAK_HASHES and _flag(call, "usedforsecurity") is not False:
        return "weak-hash", "medium", f"{name}() is broken; say usedforsecurity=False if it may be"
    if name == "hashlib.new" and call.args and isinstance(call.args[0], ast.Constant):
        if str(call.args[0].value).lower() in ("md5", "sha1"):
            return "weak-hash", "medium", f"hashlib.new({call.args[0].value!r}) is broken"
        return None
    if name == "tempfile.mktemp":
        return "guessable-file", "medium", "tempfile.mktemp() names a file somebody else may make"
    if name in ("ssl._create_unverified_context", "ssl._create_stdlib_context"):
        return "unverified-tls", "medium", f"{name}() accepts any certificate"
    return None


def _constant(call: ast.Call) -> bool:
    return bool(call.args) and isinstance(call.args[0], ast.Constant)


def _flag(call: ast.Call, name: str) -> bool | None:
    for keyword in call.keywords:
        if keyword.arg == name and isinstance(keyword.value, ast.Constant):
            return keyword.value.value if isinstance(keyword.value.value, bool) else None
    return None


def _imported_names(module: SourceModule) -> dict[str, str]:
    """What each name bound by an import stands for, wherever in the module the import is."""
    names: dict[str, str] = {}
    for node in module.nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    names[alias.asname] = alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _dotted(node: ast.expr, imported: dict[str, str]) -> str:
    """`a.b.c` for a chain of names, its first name resolved; empty where it is anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    parts.append(imported.get(node.id, node.id))
    return ".".join(reversed(parts))
