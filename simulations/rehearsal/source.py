"""Python source trees as the audit sees them: which files are modules, which are tests.

Nothing here is imported or executed: files are read and parsed only. What cannot be read or parsed
becomes one finding of the module concerned; the audit goes on.
"""

from __future__ import annotations

import ast
import errno
import hashlib
import json
import os
import re
import sysconfig
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from crdt.errors import CallerError

__all__ = (
    "MAX_FILE_BYTES", "MAX_FINDINGS_PER_ROLE", "MAX_MESSAGE", "Analysis", "Finding",
    "PublicFunction", "SourceModule", "SourceTree", "TreeError", "discover", "load", "module_name",
    "read_source", "shortened", "standard_library",
)  # fmt: skip

MAX_MODULES = 20_000
MAX_FILE_BYTES = 4_000_000
MAX_FINDINGS_PER_ROLE = 40
MAX_MESSAGE = 2_000

_SKIPPED_FOLDERS = {
    "__pycache__", "site-packages", "dist-packages", "node_modules", "build", "dist", "venv",
}  # fmt: skip
_TEST_FOLDERS = {"test", "tests", "idle_test"}
# Neither CPython 3.11's AST builder nor its warning filters may be used by two threads at once.
_PARSER = threading.Lock()
_PLAIN_PATH = re.compile(r"[\w./+@~ -]{1,240}")


class TreeError(CallerError):
    """The source tree cannot be audited: it is missing, no folder, empty of Python or too large."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a role found. `severity` is low, medium or high; `line` 0 means the whole file."""

    rule: str
    severity: str
    line: int
    message: str
    column: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", shortened(self.message, MAX_MESSAGE))

    @property
    def key(self) -> str:
        """The same for the same finding in the same file, whoever computes it and how often."""
        return f"{self.rule}:{self.line}:{self.column}"

    def value(self) -> dict[str, Any]:
        """As it is stored in the task document."""
        return {
            "rule": self.rule,
            "severity": self.severity,
            "line": self.line,
            "message": self.message,
        }


def shortened(text: str, most: int) -> str:
    """Names in the audited source may be of any length; what is stored may not."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


@dataclass(frozen=True, slots=True)
class Analysis:
    """What one role learned about one module: findings, and values for the task's registers."""

    findings: list[Finding] = field(default_factory=list)
    registers: dict[str, Any] = field(default_factory=dict)
    imports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PublicFunction:
    """A function or method users of a module may call; `name` is qualified within the module."""

    name: str
    node: ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class SourceModule:
    """One file, read and parsed. `problem` says why `tree` is empty, where it had to stay so."""

    path: str
    text: str
    tree: ast.Module
    problem: Finding | None = None
    bytes: int = 0

    @property
    def name(self) -> str:
        """The dotted name it is imported by."""
        return module_name(self.path)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Every node of the tree, computed once for all who ask."""
        return list(ast.walk(self.tree))

    @cached_property
    def lines(self) -> int:
        """Lines of the file."""
        return self.text.count("\n") + (not self.text.endswith("\n") and bool(self.text))

    @cached_property
    def public(self) -> list[PublicFunction]:
        """Functions and methods whose names have no leading underscore; `__all__` is respected."""
        exported = _exported(self.tree)
        found: list[PublicFunction] = []
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if _is_public(node.name, exported):
                    found.append(PublicFunction(node.name, node))
            elif isinstance(node, ast.ClassDef) and _is_public(node.name, exported):
                found.extend(
                    PublicFunction(f"{node.name}.{child.name}", child)
                    for child in node.body
                    if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
                    and not child.name.startswith("_")
                )
        return found

    @cached_property
    def public_classes(self) -> list[ast.ClassDef]:
        """Classes at the top of the module that its users may name."""
        exported = _exported(self.tree)
        return [
            node
            for node in self.tree.body
            if isinstance(node, ast.ClassDef) and _is_public(node.name, exported)
        ]


def _is_public(name: str, exported: set[str] | None) -> bool:
    return name in exported if exported is not None else not name.startswith("_")


def _exported(tree: ast.Module) -> set[str] | None:
    """The names in a literal `__all__`, or None where none can be read without running it."""
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.List | ast.Tuple):
            continue
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets):
            return {
                item.value
                for item in node.value.elts
                if isinstance(item, ast.Constant) and isinstance(item.value, str)
            }
    return None


def module_name(path: str) -> str:
    """`json/decoder.py` → `json.decoder`; a package is named by its folder."""
    parts = path.removesuffix(".py").split("/")
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return ".".join(parts)


def standard_library() -> Path:
    """The folder of the running interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def _is_test(relative: tuple[str, ...]) -> bool:
    name = relative[-1]
    return (
        any(part in _TEST_FOLDERS for part in relative[:-1])
        or name.startswith("test_")
        or name.endswith("_test.py")
        or name == "conftest.py"
    )


def _walk(root: Path) -> Iterator[tuple[str, ...]]:
    """Every Python file below `root`, as path parts, in an order independent of the file system.

    Raises OSError for a folder that cannot be read: an audit that passes it over proves nothing.
    """
    for folder, children, files in os.walk(root, onerror=_refuse):
        children[:] = sorted(
            name for name in children if name not in _SKIPPED_FOLDERS and not name.startswith(".")
        )
        above = Path(folder).relative_to(root).parts
        yield from ((*above, name) for name in sorted(files) if name.endswith(".py"))


def _refuse(error: OSError) -> None:
    raise error


@dataclass(frozen=True, slots=True)
class SourceTree:
    """The files of one tree: `modules` are audited, `tests` are only read for what they mention.

    A module is named by its path below `root`, with `/`; where a path could not name a document, by
    a stand-in (`files` has the real path of each).
    """

    root: Path
    files: Mapping[str, Path]
    tests: tuple[Path, ...]

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of all modules, in a fixed order."""
        return tuple(self.files)

    def load(self, name: str) -> SourceModule:
        """Read and parse one module. Never raises: what went wrong is the module's `problem`."""
        return load(self.root / self.files[name], name)

    def save(self, listing: Path) -> None:
        """Write down what belongs to the tree, so that others see the same tree later on."""
        files = {name: str(path) for name, path in self.files.items()}
        tests = [str(path) for path in self.tests]
        plain = {"root": str(self.root.absolute()), "files": files, "tests": tests}
        listing.write_text(json.dumps(plain), encoding="ascii")

    @staticmethod
    def saved(listing: Path) -> SourceTree:
        """The tree as it was when it was saved, whatever has been added to its folder since."""
        plain = json.loads(listing.read_text(encoding="ascii"))
        files = {name: Path(path) for name, path in plain["files"].items()}
        return SourceTree(Path(plain["root"]), files, tuple(map(Path, plain["tests"])))


def discover(root: Path) -> SourceTree:
    """Find the modules and the tests below `root`. Raises TreeError, naming the cure."""
    files: dict[str, Path] = {}
    tests: list[Path] = []
    try:
        if not root.exists():
            raise TreeError(
                f"--tree {root}: there is no such folder; name one that holds Python files"
            )
        if not root.is_dir():
            raise TreeError(f"--tree {root}: this is a file; name the folder that holds it")
        for relative in _walk(root):
            if _is_test(relative):
                tests.append(Path(*relative))
            else:
                files[_document_name("/".join(relative))] = Path(*relative)
    except OSError as error:
        raise TreeError(
            f"--tree {root}: {error.strerror}: {error.filename}; make it readable, or name another"
        ) from None
    if not files:
        raise TreeError(f"--tree {root}: no Python file in it that is not a test; name another one")
    if len(files) > MAX_MODULES:
        raise TreeError(
            f"--tree {root}: {len(files)} modules, at most {MAX_MODULES} can be audited at once;"
            " name a folder further down"
        )
    return SourceTree(root, files, tuple(tests))


def _document_name(path: str) -> str:
    """The path itself if it can name a document, else a readable stand-in made unique by a hash."""
    if _PLAIN_PATH.fullmatch(path):
        return path
    raw = os.fsencode(path)
    readable = re.sub(rb"[^A-Za-z0-9_./-]", b"_", raw)[-80:].decode("ascii")
    return f"{hashlib.blake2b(raw, digest_size=8).hexdigest()}/{readable}"


def read_source(file: Path, limit: int) -> bytes:
    """At most `limit` bytes of a regular file: a pipe would be waited for. Raises OSError."""
    if not file.is_file() and file.exists():
        raise OSError(errno.EINVAL, "not a regular file", str(file))
    with file.open("rb") as stream:
        return stream.read(limit)


def load(file: Path, path: str) -> SourceModule:
    """Read and parse `file` as the module called `path`. Never raises, see `problem`."""
    empty = ast.Module(body=[], type_ignores=[])
    try:
        data = read_source(file, MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        problem = Finding("unreadable", "high", 0, f"the file cannot be read: {reason}")
        return SourceModule(path, "", empty, problem)
    if len(data) > MAX_FILE_BYTES:
        problem = Finding("too-large", "medium", 0, f"over {MAX_FILE_BYTES} bytes: not audited")
        return SourceModule(path, "", empty, problem, len(data))
    text = data.decode("utf-8", errors="replace")
    try:
        with _PARSER, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the audited source is warned about is not ours
            tree = ast.parse(data, filename=path)
    except SyntaxError as error:
        problem = Finding("syntax-error", "high", error.lineno or 0, error.msg[:200])
        return SourceModule(path, text, empty, problem, len(data))
    except (ValueError, RecursionError, MemoryError) as error:
        problem = Finding("syntax-error", "high", 0, f"cannot be parsed: {type(error).__name__}")
        return SourceModule(path, text, empty, problem, len(data))
    return SourceModule(path, text, tree, None, len(data))
