"""Code generator: a `.pyi` stub for every module whose public functions lack annotations.

Annotations that are there are kept; a type is inferred only where the source leaves no doubt: from
a literal default, and `None` for a function that returns nothing. All else is left open, as stub
files may. Every stub is valid Python; it is written without importing the module.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator

from simulations.rehearsal.source import Analysis, Finding, SourceModule, SourceTree

MAX_STUB_CHARACTERS = 24_000
_BUILTINS = frozenset(dir(builtins))
_LITERALS = {int: "int", str: "str", bytes: "bytes", float: "float", bool: "bool"}
_NAMES_SHOWN = 12

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def prepare(_tree: SourceTree) -> None:
    """Needs nothing but the module itself."""


def analyse(module: SourceModule, _context: None) -> Analysis:
    """The stub, where one is missing, and which functions it is missing for."""
    if module.problem is not None:
        return Analysis()
    bare = [function.name for function in module.public if not annotated(function.node)]
    if not bare:
        return Analysis([], {"unannotated": 0})
    shown = ", ".join(bare[:_NAMES_SHOWN]) + (", …" if len(bare) > _NAMES_SHOWN else "")
    message = f"{len(bare)} of {len(module.public)} public functions lack annotations: {shown}"
    findings = [Finding("unannotated", "low", 0, message)]
    return Analysis(findings, {"unannotated": len(bare), "stub": stub(module)})


def annotated(function: _Function) -> bool:
    """Whether every argument but self/cls, and the result, has an annotation."""
    return function.returns is not None and all(
        argument.annotation is not None
        for index, argument in enumerate(_arguments(function.args))
        if not (index == 0 and argument.arg in ("self", "cls"))
    )


def stub(module: SourceModule) -> str:
    """The text of the module's stub, cut between definitions at MAX_STUB_CHARACTERS."""
    writer = _Writer(module)
    blocks = list(writer.blocks())
    kept: list[str] = []
    size = 0
    for block in blocks:
        size += len(block) + 1
        if size > MAX_STUB_CHARACTERS:
            kept.append(f"# {len(blocks) - len(kept)} more definitions: too long for one stub")
            break
        kept.append(block)
    return "\n".join([f"# Stub of {module.path}", *writer.imports(), "", *kept]) + "\n"


def _arguments(args: ast.arguments) -> list[ast.arg]:
    extra = [a for a in (args.vararg, args.kwarg) if a is not None]
    return [*args.posonlyargs, *args.args, *args.kwonlyargs, *extra]


class _Writer:
    """Writes the stub of one module and remembers which imports its annotations need."""

    def __init__(self, module: SourceModule) -> None:
        self._module = module
        self._classes = {node.name for node in module.public_classes}
        self._importable = _top_level_imports(module.tree)
        self._needed: set[str] = set()

    def imports(self) -> list[str]:
        """The module's own import statements that the stub's annotations and bases refer to."""
        return sorted({self._importable[name] for name in self._needed})

    def blocks(self) -> Iterator[str]:
        """One text per public class or function, in source order."""
        functions = {f.node for f in self._module.public}
        classes = set(self._module.public_classes)
        seen: set[str] = set()
        for node in self._module.tree.body:
            if isinstance(node, ast.ClassDef) and node in classes and node.name not in seen:
                yield self._class(node)
            elif isinstance(node, _Function) and node in functions and node.name not in seen:
                yield self._function(node, "")
            else:
                continue
            seen.add(node.name)

    def _class(self, node: ast.ClassDef) -> str:
        bases = [text for base in node.bases if (text := self._known(base))]
        head = f"class {node.name}({', '.join(bases)}):" if bases else f"class {node.name}:"
        methods: dict[str, str] = {}
        for child in node.body:
            wanted = isinstance(child, _Function) and (
                not child.name.startswith("_") or child.name == "__init__"
            )
            if isinstance(child, _Function) and wanted and child.name not in methods:
                methods[child.name] = self._function(child, "    ")
        return "\n".join([head, *methods.values()]) if methods else f"{head} ..."

    def _function(self, node: _Function, indent: str) -> str:
        lines = [
            f"{indent}@{decorator.id}"
            for decorator in node.decorator_list
            if isinstance(decorator, ast.Name)
            and decorator.id in ("property", "staticmethod", "classmethod")
        ]
        kind = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
        returns = self._known(node.returns) if node.returns is not None else _inferred(node)
        arrow = f" -> {returns}" if returns else ""
        lines.append(f"{indent}{kind} {node.name}({self._signature(node.args)}){arrow}: ...")
        return "\n".join(lines)

    def _signature(self, args: ast.arguments) -> str:
        positional = [*args.posonlyargs, *args.args]
        defaults = [None] * (len(positional) - len(args.defaults)) + list(args.defaults)
        pieces: list[str] = []
        for index, (argument, default) in enumerate(zip(positional, defaults, strict=True)):
            pieces.append(self._argument(argument, default))
            if args.posonlyargs and index == len(args.posonlyargs) - 1:
                pieces.append("/")
        if args.vararg is not None:
            pieces.append("*" + self._argument(args.vararg, None))
        elif args.kwonlyargs:
            pieces.append("*")
        for argument, keyword_default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
            pieces.append(self._argument(argument, keyword_default))
        if args.kwarg is not None:
            pieces.append("**" + self._argument(args.kwarg, None))
        return ", ".join(pieces)

    def _argument(self, argument: ast.arg, default: ast.expr | None) -> str:
        known = self._known(argument.annotation) if argument.annotation is not None else ""
        if not known and isinstance(default, ast.Constant):
            known = _LITERALS.get(type(default.value), "")
        if default is None:
            return f"{argument.arg}: {known}" if known else argument.arg
        return f"{argument.arg}: {known} = ..." if known else f"{argument.arg}=..."

    def _known(self, expression: ast.expr) -> str:
        """The expression's text if every name in it is known to the stub; else nothing."""
        names = {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}
        if any(isinstance(node, ast.Call) for node in ast.walk(expression)):
            return ""
        if not all(n in _BUILTINS or n in self._classes or n in self._importable for n in names):
            return ""
        self._needed.update(n for n in names if n in self._importable and n not in self._classes)
        try:
            return ast.unparse(expression)
        except RecursionError:
            return ""  # thousands of levels deep: generated, and nobody would read it


def _top_level_imports(tree: ast.Module) -> dict[str, str]:
    """For each name an import at the top of the module binds, the statement that binds it alone."""
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                suffix = f" as {alias.asname}" if alias.asname else ""
                found[bound] = f"import {alias.name}{suffix}"
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            source = "." * node.level + (node.module or "")
            for alias in node.names:
                suffix = f" as {alias.asname}" if alias.asname else ""
                if alias.name != "*":
                    found[alias.asname or alias.name] = f"from {source} import {alias.name}{suffix}"
    return found


def _inferred(function: _Function) -> str:
    """`None` if the function can return nothing else: no value, no yield, more than a raise."""
    if all(_says_nothing(node) for node in function.body):
        return ""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return ""
        if isinstance(node, ast.Return) and node.value is not None:
            return ""
        waiting.extend(ast.iter_child_nodes(node))
    return "None"


def _says_nothing(node: ast.stmt) -> bool:
    """A docstring, `pass`, `...` or `raise`: what abstract functions are made of."""
    return isinstance(node, ast.Pass | ast.Raise) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )
