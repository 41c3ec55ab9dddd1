"""Architecture designer: which modules import which, and where imports go round in circles.

Only imports that run when the module is imported make a cycle: those inside functions and below
`if TYPE_CHECKING:` do not. Strongly connected components by Tarjan (Depth-first search and linear
graph algorithms, 1972), iteratively, so that deep graphs don't exhaust the stack.
"""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from simulations.rehearsal.source import (
    Analysis,
    Finding,
    SourceModule,
    SourceTree,
    module_name,
    shortened,
)

_WIDE = 40
_MODULES_SHOWN = 8
_MAX_IMPORTS = 200
_MAX_IMPORT_NAME = 200


@dataclass(frozen=True, slots=True)
class Imports:
    """What a module imports when it is imported: in the tree, outside it, lines of `import *`."""

    inside: tuple[str, ...]
    outside: tuple[str, ...]
    stars: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Structure:
    """The import graph of a tree: each module's imports, a shortest cycle, how many import it."""

    imports: Mapping[str, Imports]
    cycles: Mapping[str, tuple[str, ...]]
    imported_by: Mapping[str, int]


def prepare(tree: SourceTree) -> Structure:
    """Read the imports of every module of the tree and find the cycles."""
    known = {module_name(path) for path in tree.modules}
    imports = {module_name(path): read(tree.load(path), known) for path in tree.modules}
    graph = {name: found.inside for name, found in imports.items()}
    cycles: dict[str, tuple[str, ...]] = {}
    for component in components(graph):
        members = set(component)
        for name in component:
            cycle = shortest_cycle(graph, name, members)
            if cycle:
                cycles[name] = cycle
    imported_by: dict[str, int] = dict.fromkeys(graph, 0)
    for targets in graph.values():
        for target in targets:
            imported_by[target] += 1
    return Structure(imports, cycles, imported_by)


def analyse(module: SourceModule, structure: Structure) -> Analysis:
    """The module's place in the tree: its imports, its cycle if it is in one, its coupling."""
    if module.problem is not None:
        return Analysis()
    imports = structure.imports[module.name]
    findings = [
        Finding("star-import", "low", line, f"import * from {source} hides where names come from")
        for line, source in imports.stars[:_MODULES_SHOWN]
    ]
    cycle = structure.cycles.get(module.name)
    if cycle:
        shown = " → ".join(cycle[:_MODULES_SHOWN])
        if len(cycle) > _MODULES_SHOWN:
            shown += " → …"
        message = f"in an import cycle of {len(cycle)}: {shown} → {module.name}"
        findings.append(Finding("import-cycle", "medium", 0, message))
    width = len(imports.inside) + len(imports.outside)
    if width > _WIDE:
        findings.append(Finding("wide-imports", "low", 0, f"imports {width} modules"))
    return Analysis(
        findings,
        {"imported_by": structure.imported_by[module.name]},
        tuple(
            shortened(name, _MAX_IMPORT_NAME)
            for name in sorted({*imports.inside, *imports.outside})[:_MAX_IMPORTS]
        ),
    )


def read(module: SourceModule, known: set[str]) -> Imports:
    """The imports of one module, resolved to the longest name that is a module of the tree."""
    inside: set[str] = set()
    outside: set[str] = set()
    stars: list[tuple[int, str]] = []
    for node in _at_import(module.tree.body):
        for name in _targets(node, module, known):
            resolved = _longest(name, known)
            if resolved is None:
                outside.add(name.partition(".")[0])
            elif resolved != module.name:
                inside.add(resolved)
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            stars.append((node.lineno, "." * node.level + (node.module or "")))
    return Imports(tuple(sorted(inside)), tuple(sorted(outside)), tuple(stars))


def _at_import(body: Sequence[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements that run at import time, in source order; an `elif` chain may be long."""
    waiting = list(reversed(body))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        else:
            waiting.extend(reversed(_run_with(node)))


def _run_with(node: ast.stmt) -> list[ast.stmt]:
    """The statements inside `node` that run, or may run, when it does."""
    if isinstance(node, ast.If):
        return [*([] if _only_for_types(node.test) else node.body), *node.orelse]
    if isinstance(node, ast.Try):
        handled = [statement for handler in node.handlers for statement in handler.body]
        return [*node.body, *handled, *node.orelse, *node.finalbody]
    return node.body if isinstance(node, ast.With | ast.ClassDef) else []


def _only_for_types(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return bool(name == "TYPE_CHECKING")


def _targets(
    node: ast.Import | ast.ImportFrom, module: SourceModule, known: set[str]
) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        package = module.name.split(".")
        drop = node.level - (1 if module.path.endswith("__init__.py") else 0)
        package = package[: len(package) - drop] if drop else package
        base = ".".join([*package, *([node.module] if node.module else [])])
    for alias in node.names:
        submodule = f"{base}.{alias.name}" if base else alias.name
        target = submodule if submodule in known else base
        if target:
            yield target


def _longest(name: str, known: set[str]) -> str | None:
    while name:
        if name in known:
            return name
        name = name.rpartition(".")[0]
    return None


def components(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Strongly connected components of more than one node, each sorted, in a fixed order."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    on_path: set[str] = set()
    found: list[list[str]] = []
    for start in sorted(graph):
        if start in order:
            continue
        work = [(start, iter(sorted(graph[start])))]
        order[start] = low[start] = len(order)
        path.append(start)
        on_path.add(start)
        while work:
            node, targets = work[-1]
            following = next((t for t in targets if t not in order or t in on_path), None)
            if following is not None:
                if following in on_path:
                    low[node] = min(low[node], order[following])
                    continue
                order[following] = low[following] = len(order)
                path.append(following)
                on_path.add(following)
                work.append((following, iter(sorted(graph[following]))))
                continue
            work.pop()
            if work:
                low[work[-1][0]] = min(low[work[-1][0]], low[node])
            if low[node] == order[node]:
                cut = path.index(node)
                members = path[cut:]
                del path[cut:]
                on_path.difference_update(members)
                if len(members) > 1:
                    found.append(sorted(members))
    return sorted(found)


def shortest_cycle(
    graph: Mapping[str, Iterable[str]], start: str, members: set[str]
) -> tuple[str, ...]:
    """A shortest way from `start` through `members` back to it, without repeating it at the end."""
    came_from: dict[str, str] = {}
    waiting = deque([start])
    while waiting:
        node = waiting.popleft()
        for target in sorted(graph[node]):
            if target == start:
                way = [node]
                while way[-1] != start:
                    way.append(came_from[way[-1]])
                return tuple(reversed(way))
            if target in members and target not in came_from:
                came_from[target] = node
                waiting.append(target)
    return ()
