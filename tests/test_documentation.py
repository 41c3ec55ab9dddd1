"""What the documentation says is so: examples print what stands beside them, links lead somewhere,
and every type and every file of crdt/ has its line.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import crdt
from crdt.types.field import Field

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# Runs a program from standard input, and prints before each line what line of it printed that.
RUNNER = """
import sys
def show(*values):
    print(sys._getframe(1).f_lineno, *values)
program = compile(sys.stdin.read(), sys.argv[1], "exec")
exec(program, {"__name__": "__main__", "print": show})
"""
SAID = re.compile(r"^\s*print\(.*\)  # (.+)$")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def program(page: Path) -> list[str]:
    """The page with all that is not Python left blank, so that lines keep their numbers."""
    lines, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            inside = line == "```python"
            line = ""
        lines.append(line if inside else "")
    return lines


@pytest.mark.parametrize("name", ["types.md", "documents.md"])
def test_examples_print_what_they_say(name: str, tmp_path: Path) -> None:
    lines = program(DOCS / name)
    env = {key: value for key, value in os.environ.items() if not key.startswith("STATEMESH_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNNER, f"docs/{name}"],
        input="\n".join(lines), cwd=tmp_path, env=env | {"PYTHONIOENCODING": "utf-8"},
        encoding="utf-8", capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = {
        f"docs/{name}:{number}": found[1]
        for number, line in enumerate(lines, 1)
        if (found := SAID.match(line))
    }
    printed = {}
    for line in done.stdout.splitlines():
        number, _, text = line.partition(" ")
        printed[f"docs/{name}:{number}"] = text
    wrong = [
        f"{place}: it says {said.get(place)!r} and prints {printed.get(place)!r}"
        for place in said | printed
        if said.get(place) != printed.get(place)
    ]
    assert said, "a page of examples that print nothing"
    assert not wrong, "\n".join(wrong)
    assert not list(tmp_path.iterdir()), "no example leaves anything behind"


def programs_of(name: str) -> list[tuple[int, list[str]]]:
    """Each Python block of a page as a program of its own, by the line it begins at."""
    found: list[tuple[int, list[str]]] = []
    inside = False
    for number, line in enumerate((DOCS / name).read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            inside = line == "```python"
            if inside:
                found.append((number, []))
        elif inside:
            found[-1][1].append(line)
    return found


@pytest.mark.parametrize("at", range(len(programs_of("embedding.md"))))
def test_every_program_about_embedding_runs_and_prints_what_it_says(
    at: int, tmp_path: Path
) -> None:
    first, lines = programs_of("embedding.md")[at]
    env = {key: value for key, value in os.environ.items() if not key.startswith("STATEMESH_")}
    env |= {"STATEMESH_HOME": str(tmp_path / "home"), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNNER, f"docs/embedding.md:{first}"],
        input="\n".join(lines), cwd=tmp_path, env=env, encoding="utf-8", capture_output=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = {n: found[1] for n, line in enumerate(lines, 1) if (found := SAID.match(line))}
    printed = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert {n: printed.get(str(n)) for n in said} == said


def anchors(page: Path) -> set[str]:
    """What headings of a page are linked to as."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def links() -> Iterator[tuple[Path, str]]:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))):
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            if "://" not in target:
                yield page, target


def test_links_lead_somewhere() -> None:
    broken = []
    for page, target in links():
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken, "\n".join(broken)


def test_every_type_can_be_picked_from_the_first_table() -> None:
    page = (DOCS / "types.md").read_text(encoding="utf-8")
    table = page.partition("|---|")[2].partition("\n\n")[0]
    for name in crdt.__all__:
        found = getattr(crdt, name)
        if isinstance(found, type) and issubclass(found, Field):
            assert re.search(rf"`{name}\b", table), name


def test_the_table_of_crdt_names_every_file_once() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    section = page.partition("\n## What state is made of")[2].partition("\n## ")[0]
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`([\w/]+\.py)`", row)]
    files = [path.relative_to(ROOT / "crdt").as_posix() for path in (ROOT / "crdt").rglob("*.py")]
    assert sorted(named) == sorted(name for name in files if not name.endswith("__init__.py"))
