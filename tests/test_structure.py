"""The house rules that no linter knows: sizes, purity below the composition root, and what no file
may carry.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("crdt", "persistence", "mesh", "workflows", "simulations")
# Where the real clock, entropy and processes may be touched: composition roots and programs of
# their own.
ROOTS = (
    "mesh/stack/",
    "mesh/transports/tcp.py",
    "persistence/system.py",
    "simulations/rehearsal/",
    "workflows/worker.py",
)
BANNED = {
    "time": {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "sleep"},
    "random": {"random", "randint", "choice", "shuffle", "uniform", "getrandbits", "seed"},
    "os": {"urandom", "getrandom"},
    "uuid": {"uuid1", "uuid4"},
    "secrets": {"token_bytes", "token_hex", "randbits", "token_urlsafe", "choice"},
    "datetime": {"now", "utcnow", "today"},
}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_files_and_functions_stay_small() -> None:
    long: list[str] = []
    for path in sources(*PACKAGES, "tests", "benchmarks", "examples"):
        text = path.read_text()
        name = path.relative_to(ROOT)
        limit = 400 if name.parts[0] == "crdt" else 500
        if (lines := text.count("\n")) > limit:
            long.append(f"{name}: {lines} lines, at most {limit}")
        for function in functions(ast.parse(text)):
            size = (function.end_lineno or 0) - function.lineno + 1
            if size > 70:
                long.append(f"{name}:{function.lineno} {function.name}: {size} lines, at most 70")
    assert not long, "\n".join(long)


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sources(*PACKAGES)
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent, silent


def test_time_and_randomness_come_from_the_environment() -> None:
    """Below the composition root nothing reads a clock or draws entropy of its own."""
    found: list[str] = []
    for path in sources(*PACKAGES):
        name = str(path.relative_to(ROOT))
        if name.startswith(ROOTS):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.attr in BANNED.get(node.value.id, ()):
                    found.append(f"{name}:{node.lineno} {node.value.id}.{node.attr}")
            elif isinstance(node, ast.ImportFrom) and node.module in BANNED:
                names = {alias.name for alias in node.names} & BANNED[node.module]
                found.extend(f"{name}:{node.lineno} {node.module}.{one}" for one in sorted(names))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_exist(package: str) -> None:
    """Every name in a module's `__all__` is there; `from crdt import *` can't fail a user."""
    for path in sources(package):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if "__all__" in path.read_text():
            loaded = __import__(module, fromlist=["__all__"])
            missing = [name for name in loaded.__all__ if not hasattr(loaded, name)]
            assert not missing, f"{module}: {missing}"


def test_no_file_names_a_machine_or_a_registry() -> None:
    """A checkout must work anywhere: no path of somebody's disk, no package registry's address."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, text=True, capture_output=True, check=True,
    )  # fmt: skip
    disk = re.compile("/(" + "|".join(("wor" + "k", "roo" + "t", "home/[a-z]+")) + ")/")
    registry = re.compile(r"index-url|--registry|\.whl#|(pypi|npmjs|maven\.apache)\.org")
    found = []
    for name in listing.stdout.splitlines():
        path = ROOT / name
        if not path.is_file() or name == "LICENSE" or path.name == Path(__file__).name:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if disk.search(line) or registry.search(line):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)
