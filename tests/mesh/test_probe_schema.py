"""Every event that the code emits is in the one schema, with exactly the fields it says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mesh.instrumentation import EVENT_FIELDS, EVENTS, FIELDS, LoggingProbe, schema

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("mesh", "persistence", "workflows", "simulations", "crdt")


class Site(NamedTuple):
    """One call: the event's kind and the fields it gives."""

    where: str
    kind: str
    fields: frozenset[str]


def sites_in(source: str, name: str) -> Iterator[Site]:
    """All calls `….event("kind", …)` and `….refuse("kind", reason, …)` of a file."""
    tree = ast.parse(source)
    functions = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    for function in functions:
        for call in ast.walk(function):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            if call.func.attr not in ("event", "refuse") or not call.args:
                continue
            fields = {"reason"} if call.func.attr == "refuse" else set()
            for keyword in call.keywords:
                if keyword.arg is not None:
                    fields.add(keyword.arg)
                else:
                    fields |= keys_of(keyword.value, function)
            for kind in kinds_of(call.args[0]):
                yield Site(f"{name}:{call.lineno}", kind, frozenset(fields))


def kinds_of(node: ast.expr) -> list[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return [*kinds_of(node.body), *kinds_of(node.orelse)]
    return []


def keys_of(node: ast.expr, function: ast.AST) -> set[str]:
    """The keys of `**where`, from the dict literal it was assigned in the same function."""
    literals = [node] if isinstance(node, ast.Dict) else []
    if isinstance(node, ast.Name):
        for one in ast.walk(function):
            if isinstance(one, ast.Assign) and isinstance(one.value, ast.Dict):
                names = [at.id for at in one.targets if isinstance(at, ast.Name)]
                literals += [one.value] * (node.id in names)
    return {
        key.value
        for literal in literals
        for key in literal.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }


def all_sites() -> list[Site]:
    return sorted(
        {
            site
            for package in PACKAGES
            for path in sorted((ROOT / package).rglob("*.py"))
            for site in sites_in(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
            if "." in site.kind
        }
    )


SITES = all_sites()


def test_the_reader_of_code_finds_fields_wherever_they_stand() -> None:
    source = """
def f(self):
    where = {"shard": 1, "session": 2}
    self._probe.event("a.b", x=1, **where)
    core.refuse("c.d" if y else "e.f", "why", **{"z": 1})
"""
    assert sorted(sites_in(source, "f.py")) == [
        Site("f.py:4", "a.b", frozenset({"x", "shard", "session"})),
        Site("f.py:5", "c.d", frozenset({"reason", "z"})),
        Site("f.py:5", "e.f", frozenset({"reason", "z"})),
    ]
    assert len(SITES) > 60


@pytest.mark.parametrize("site", SITES, ids=lambda site: f"{site.kind}@{site.where}")
def test_an_event_has_exactly_its_fields(site: Site) -> None:
    assert site.kind in EVENTS, f"{site.where} emits {site.kind!r}, which EVENTS does not explain"
    said = EVENT_FIELDS[site.kind].split()
    known = {name.rstrip("?") for name in said}
    always = {name for name in said if not name.endswith("?")}
    assert site.fields <= known, f"{site.where}: {site.kind} says nothing of {site.fields - known}"
    assert always <= site.fields, f"{site.where}: {site.kind} lacks {always - site.fields}"


def test_the_schema_explains_what_there_is_and_nothing_else() -> None:
    assert list(EVENTS) == list(EVENT_FIELDS)
    emitted: dict[str, set[str]] = {}
    for site in SITES:
        emitted.setdefault(site.kind, set()).update(site.fields)
    for kind, names in EVENT_FIELDS.items():
        assert kind in emitted, f"nothing emits {kind}"
        assert {name.rstrip("?") for name in names.split()} == emitted[kind], kind
    used = {name.rstrip("?") for names in EVENT_FIELDS.values() for name in names.split()}
    assert used == FIELDS.keys()
    assert EVENTS.keys() >= LoggingProbe.ALARMS
    assert all(type_ in (int, str, bool, float, dict) and text for type_, text in FIELDS.values())


def test_it_is_one_table_for_programs() -> None:
    event = schema()["link.up"]
    assert event.meaning == EVENTS["link.up"]
    assert event.fields["peer"] == FIELDS["peer"]
    assert not event.optional
