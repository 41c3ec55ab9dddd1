"""The seven roles on small sources: each finds what is there, and nothing else."""

from __future__ import annotations

import ast
import errno
import os
from pathlib import Path

import pytest

from simulations.rehearsal.roles import ROLES, architecture, generation, review
from simulations.rehearsal.roles import documentation as documenting
from simulations.rehearsal.roles import requirements as requiring
from simulations.rehearsal.roles import security as securing
from simulations.rehearsal.roles import testing as covering
from simulations.rehearsal.source import (
    MAX_MESSAGE,
    Analysis,
    SourceModule,
    SourceTree,
    TreeError,
    discover,
    load,
    module_name,
    standard_library,
)


def module(text: str, path: str = "a.py") -> SourceModule:
    return SourceModule(path, text, ast.parse(text), None, len(text.encode()))


def rules(analysis: Analysis) -> list[tuple[str, str, int]]:
    return [(finding.rule, finding.severity, finding.line) for finding in analysis.findings]


def tree_of(root: Path, files: dict[str, str]) -> SourceTree:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return discover(root)


# ------------------------------------------------------------------ the tree


def test_modules_and_tests_are_told_apart(tmp_path: Path) -> None:
    tree = tree_of(
        tmp_path,
        {
            "pkg/__init__.py": "",
            "pkg/core.py": "x = 1",
            "pkg/tests/test_core.py": "",
            "pkg/test_more.py": "",
            "test/support.py": "",
            "conftest.py": "",
            "pkg/__pycache__/old.py": "",
            ".hidden/secret.py": "",
            "site-packages/other.py": "",
            "notes.txt": "",
        },
    )
    assert tree.modules == ("pkg/__init__.py", "pkg/core.py")
    assert {str(path) for path in tree.tests} == {
        "pkg/tests/test_core.py", "pkg/test_more.py", "test/support.py", "conftest.py",
    }  # fmt: skip


def test_a_saved_tree_does_not_grow_with_its_folder(tmp_path: Path) -> None:
    tree_of(tmp_path / "tree", {"pkg/a.py": "x = 1", "test_a.py": "", "odd{tag}.py": ""})
    (tmp_path / "tree" / os.fsdecode(b"\xff.py")).touch()
    tree = discover(tmp_path / "tree")
    tree.save(tmp_path / "listing")
    (tmp_path / "tree" / "b.py").write_text("added while the fleet works")
    assert SourceTree.saved(tmp_path / "listing") == tree
    assert len(tree.modules) == 3


def test_a_pipe_among_the_files_is_a_finding_and_not_waited_for(tmp_path: Path) -> None:
    for name in ("a.py", "test_a.py"):
        os.mkfifo(tmp_path / name)
    tree = discover(tmp_path)
    problem = tree.load("a.py").problem
    assert problem is not None
    assert (problem.rule, problem.message) == (
        "unreadable", "the file cannot be read: not a regular file",
    )  # fmt: skip
    assert covering.prepare(tree) == frozenset()


def test_a_folder_that_cannot_be_read_is_an_error_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests may run as root, who can read everything: the refusal is the system call's."""
    tree_of(tmp_path, {"a.py": "", "locked/b.py": ""})
    scan = os.scandir

    def refuse(path: str | os.PathLike[str]) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(TreeError, match=r"Permission denied: .*locked; make it readable"):
        discover(tmp_path)


def test_a_tree_whose_name_is_refused_is_one_clear_error() -> None:
    with pytest.raises(TreeError, match="File name too long"):
        discover(Path("a" * 300))


def test_no_role_gives_up_on_a_strange_module(tmp_path: Path) -> None:
    """What parses is audited, however deep; what is stored stays small, however long names are."""
    chain = "".join(f"elif x == {number}:\n    import sys\n" for number in range(2_000))
    long = "a" * 100_000
    tree = tree_of(
        tmp_path,
        {
            "chain.py": f"x = 1\nif x:\n    import os\n{chain}",
            "deep.py": f"def f(a: {'|'.join(['int'] * 2_500)}, b): return a\n",
            "long.py": f"import {long}\nfrom {long}b import *\ndef {long}(x): return eval(x)\n",
        },
    )
    for role in ROLES.values():
        context = role.prepare(tree)
        for name in tree.modules:
            assert tree.load(name).problem is None
            analysis = role.analyse(tree.load(name), context)
            assert all(len(finding.message) <= MAX_MESSAGE for finding in analysis.findings)
            assert all(len(imported) <= 200 for imported in analysis.imports)
    imports = architecture.prepare(tree).imports
    assert imports["chain"].outside == ("os", "sys")


def test_the_standard_library_is_large_and_without_its_tests() -> None:
    tree = discover(standard_library())
    assert len(tree.modules) >= 500
    assert "json/decoder.py" in tree.modules
    assert not any(part in ("test", "tests") for name in tree.modules for part in name.split("/"))


def test_a_path_that_cannot_name_a_document_gets_a_stand_in(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, {"odd{tag}.py": "x = 1", "plain.py": "y = 2"})
    (stand_in,) = (name for name in tree.modules if name != "plain.py")
    assert "{" not in stand_in
    assert stand_in.endswith("/odd_tag_.py")
    assert tree.load(stand_in).text == "x = 1"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path / "nowhere", "there is no such folder"),
        (lambda path: path, "no Python file"),
        (lambda path: path / "file.txt", "this is a file"),
    ],
)
def test_a_tree_that_cannot_be_audited_is_refused(tmp_path: Path, make: object, words: str) -> None:
    (tmp_path / "file.txt").write_text("no python")
    assert callable(make)
    with pytest.raises(TreeError, match=words):
        discover(make(tmp_path))


def test_what_cannot_be_parsed_is_a_finding_of_one_role_only(tmp_path: Path) -> None:
    files = {"bad.py": "def f(:\n", "zero.py": "x = '\0'", "good.py": "x = 1"}
    tree = tree_of(tmp_path, files)
    (tmp_path / "unreadable.py").symlink_to(tmp_path / "unreadable.py")  # a loop, also for root
    broken = [tree.load("bad.py"), tree.load("zero.py"), load(tmp_path / "unreadable.py", "u.py")]
    assert [m.problem.rule for m in broken if m.problem] == [
        "syntax-error", "syntax-error", "unreadable",
    ]  # fmt: skip
    for role in ROLES.values():
        context = role.prepare(tree)
        for each in broken:
            found = role.analyse(each, context).findings
            assert found == ([each.problem] if role.name == "requirements-analyst" else [])


def test_names_of_modules() -> None:
    assert module_name("json/decoder.py") == "json.decoder"
    assert module_name("json/__init__.py") == "json"
    assert module_name("__init__.py") == "__init__"


# ------------------------------------------------------------------ the roles


def test_requirements_measures_the_public_interface() -> None:
    text = (
        "class A:\n    def go(self): ...\n    def _no(self): ...\n"
        "def f(): ...\ndef _g(): ...\nclass _B:\n    def h(self): ...\n"
    )
    analysis = requiring.analyse(module(text), None)
    assert analysis.registers["public"] == 3
    assert analysis.registers["lines"] == 7
    assert analysis.registers["size"] == len(text)
    assert analysis.registers["priority"] == "low"
    assert requiring.priority(50, 10) == "high"
    assert requiring.priority(5, 500) == "medium"
    assert rules(requiring.analyse(module("def _f(): ...\n"), None)) == [
        ("no-public-api", "low", 1)
    ]


def test_all_decides_what_is_public() -> None:
    text = "__all__ = ['_a', 'B']\ndef _a(): ...\ndef c(): ...\nclass B:\n    def go(self): ...\n"
    assert [function.name for function in module(text).public] == ["_a", "B.go"]


def test_architecture_finds_the_shortest_cycle_and_ignores_late_imports(tmp_path: Path) -> None:
    tree = tree_of(
        tmp_path,
        {
            "p/__init__.py": "",
            "p/a.py": "from p import b\nimport os",
            "p/b.py": "from . import c",
            "p/c.py": "from .a import thing\nimport p.d",
            "p/d.py": "def f():\n    import p.a",
            "p/e.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import p.f",
            "p/f.py": "import p.e\nfrom os import *",
        },
    )
    structure = architecture.prepare(tree)
    assert set(structure.cycles) == {"p.a", "p.b", "p.c"}
    assert structure.cycles["p.b"] == ("p.b", "p.c", "p.a")
    analysis = architecture.analyse(tree.load("p/a.py"), structure)
    assert rules(analysis) == [("import-cycle", "medium", 0)]
    assert analysis.imports == ("os", "p.b")
    assert analysis.registers == {"imported_by": 1}
    assert rules(architecture.analyse(tree.load("p/f.py"), structure)) == [
        ("star-import", "low", 2)
    ]


def test_components_of_a_deep_chain_do_not_exhaust_the_stack() -> None:
    size = 5_000
    graph = {str(n): [str((n + 1) % size)] for n in range(size)}
    (component,) = architecture.components(graph)
    assert len(component) == size


def test_code_generator_writes_stubs_that_are_valid_and_say_what_is_certain() -> None:
    text = (
        "import os\nfrom typing import Any as Anything\n"
        "class Base: ...\n"
        "class A(Base):\n"
        "    def __init__(self, size=3): self.size = size\n"
        "    @property\n    def area(self): return self.size\n"
        "    def stop(self, /, hard=False, *rest, why: str = '', **more) -> None: ...\n"
        "def f(a: Anything, b: Hidden, *, c=b'x'):\n    print(a)\n"
        "async def g(x):\n    yield x\n"
        "def h(path: os.PathLike = make()) -> 'A': raise NotImplementedError\n"
        "def done(x: int) -> int: return x\n"
    )
    analysis = generation.analyse(module(text), None)
    stub = analysis.registers["stub"]
    ast.parse(stub)
    assert "from typing import Any as Anything" in stub
    assert "class A(Base):" in stub
    assert "def __init__(self, size: int = ...) -> None: ..." in stub
    assert "    @property\n    def area(self): ..." in stub
    assert "def stop(self, /, hard: bool = ..., *rest, why: str = ..., **more) -> None: ..." in stub
    assert "def f(a: Anything, b, *, c: bytes = ...) -> None: ..." in stub
    assert "async def g(x): ..." in stub
    assert "def h(path: os.PathLike = ...) -> 'A': ..." in stub
    assert analysis.registers["unannotated"] == 4
    assert generation.analyse(module("def f(a: int) -> int: return a\n"), None).findings == []


def test_a_long_stub_is_cut_between_definitions() -> None:
    many = "".join(f"def function_number_{n}(argument, other): return 1\n" for n in range(2_000))
    stub = generation.analyse(module(many), None).registers["stub"]
    ast.parse(stub)
    assert len(stub) < generation.MAX_STUB_CHARACTERS + 200
    assert "more definitions" in stub


def test_test_generator_names_what_no_test_mentions(tmp_path: Path) -> None:
    tree = tree_of(
        tmp_path,
        {"a.py": "", "tests/test_a.py": "from a import f\nassert A().go()\n"},
    )
    mentioned = covering.prepare(tree)
    text = "def f(): ...\ndef g():\n    return 1\nclass A:\n    def go(self): ...\n"
    analysis = covering.analyse(module(text), mentioned)
    assert analysis.registers == {"untested": 1}
    assert rules(analysis) == [("untested", "low", 2)]
    assert "no test mentions 1 of 3 public functions: g" in analysis.findings[0].message


def test_reviewer_finds_complexity_bare_excepts_and_mutable_defaults() -> None:
    branches = "".join(f"    if x == {n} and y: return {n}\n" for n in range(10))
    text = (
        f"def busy(x, y):\n{branches}"
        "def shared(items=[], *, table={}):\n"
        "    try:\n        pass\n    except:\n        pass\n"
    )
    analysis = review.analyse(module(text), None)
    assert rules(analysis) == [
        ("complexity", "medium", 1),
        ("mutable-default", "medium", 12),
        ("mutable-default", "medium", 12),
        ("bare-except", "medium", 15),
    ]
    assert analysis.registers == {"complexity": 21}


def test_complexity_counts_decisions_of_the_function_itself() -> None:
    text = (
        "def f(x):\n"
        "    def inner(y):\n        return 1 if y else 2\n"
        "    return [a for a in x if a if a > 1] or x or None\n"
    )
    (function,) = ast.parse(text).body
    assert isinstance(function, ast.FunctionDef)
    assert review.complexity(function) == 1 + 3 + 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("eval(x)", ("dynamic-code", "high")),
        ("eval('1 + 1')", None),
        ("obj.eval(x)", None),
        ("import os\nos.system(cmd)", ("shell", "high")),
        ("import os\nos.system('ls')", ("shell", "low")),
        ("import subprocess\nsubprocess.run(cmd, shell=True)", ("shell", "high")),
        ("import subprocess\nsubprocess.run('ls', shell=True)", ("shell", "medium")),
        ("import subprocess\nsubprocess.run(cmd, shell=False)", None),
        ("from pickle import loads as l\nl(data)", ("unpickling", "high")),
        ("import pickle as p\np.load(f)", ("unpickling", "high")),
        ("import pickle\npickle.dumps(x)", None),
        ("import hashlib\nhashlib.md5(b'')", ("weak-hash", "medium")),
        ("import hashlib\nhashlib.md5(b'', usedforsecurity=False)", None),
        ("import hashlib\nhashlib.new('SHA1')", ("weak-hash", "medium")),
        ("import hashlib\nhashlib.sha256(b'')", None),
        ("import tempfile\ntempfile.mktemp()", ("guessable-file", "medium")),
    ],
)
def test_security_resolves_names_through_imports(
    text: str, expected: tuple[str, str] | None
) -> None:
    found = [(f.rule, f.severity) for f in securing.analyse(module(text), None).findings]
    assert found == ([expected] if expected else [])


def test_documentation_measures_docstring_coverage() -> None:
    text = '"""Doc."""\nclass A:\n    """Doc."""\n    def go(self): ...\ndef f():\n    "Doc"\n'
    assert documenting.analyse(module(text), None).registers == {"documented": 0.667}
    bare = documenting.analyse(module("def f(): ...\ndef g(): ...\n"), None)
    assert rules(bare) == [("module-docstring", "low", 1), ("docstrings", "medium", 0)]
    assert "2 of 2 public names without docstring: f, g" in bare.findings[1].message


def test_a_finding_has_a_key_of_its_own_and_the_same_every_time() -> None:
    text = "import pickle\npickle.loads(a); pickle.loads(b)\neval(c)\n"
    first, second = (securing.analyse(module(text), None) for _ in range(2))
    keys = [finding.key for finding in first.findings]
    assert len(set(keys)) == 3
    assert keys == [finding.key for finding in second.findings]
