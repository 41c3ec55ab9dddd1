"""The audit's results as files: a Markdown report and stubs, from one agent's folder."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from crdt.access import ShardView
from persistence.inspect import LoadedFolder
from simulations.rehearsal.audit import ACCEPTED, AUDIT, REWORK, Report, Task
from simulations.rehearsal.roles import ROLES

_SEVERITIES = ("high", "medium", "low")
_PER_SECTION = 400

Found = tuple[str, dict[str, Any]]


def write(folder: Path, loaded: LoadedFolder) -> None:
    """Write `report.md` and `stubs/` into `folder`."""
    tasks: list[tuple[str, dict[str, Any]]] = []
    text = ""
    for number in sorted(loaded.shards):
        view = ShardView(loaded.shards[number])
        for document in loaded.shards[number].documents():
            if document.startswith("Task/"):
                task = Task.bind(view, document).snapshot()
                tasks.append((document.removeprefix("Task/"), task))
            elif document == f"Report/{AUDIT}":
                text = str(Report.bind(view, document).text)
    tasks.sort(key=lambda pair: pair[0])
    _write_stubs(folder / "stubs", tasks)
    (folder / "report.md").write_text(compose(tasks, text), encoding="utf-8")


def compose(tasks: list[Found], text: str) -> str:
    """The report: figures, modules to rework, findings by severity, and the shared text."""
    found = [(name, finding) for name, task in tasks for finding in task["findings"].values()]
    states = Counter(_state(task) for _, task in tasks)
    lines = [
        "# Audit",
        "",
        f"{len(tasks)} modules: {states[ACCEPTED]} accepted, {states[REWORK]} to be reworked.",
        f"{len(found)} findings.",
        "",
        *_by_role(found),
        "",
        "## To be reworked",
        "",
        *(_rework(name, task) for name, task in tasks if _state(task) == REWORK),
        "",
    ]
    for severity in _SEVERITIES:
        lines += _section(severity, [each for each in found if each[1]["severity"] == severity])
    lines += ["## As the agents wrote it", "", text.strip(), ""]
    return "\n".join(lines)


def _state(task: dict[str, Any]) -> str:
    decision = task["machine"]
    return str(decision["value"].get("state", "")) if decision else ""


def _by_role(found: list[Found]) -> list[str]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for _, finding in found:
        counts[finding["role"]][finding["severity"]] += 1
    rows = ["| role | high | medium | low |", "|---|---|---|---|"]
    for role in ROLES:
        cells = " | ".join(str(counts[role][severity]) for severity in _SEVERITIES)
        rows.append(f"| {role} | {cells} |")
    return rows


def _rework(name: str, task: dict[str, Any]) -> str:
    summary = task["summary"] or {}
    return (
        f"- `{name}`: score {summary.get('score', '?')}, {summary.get('high', '?')} high, "
        f"led by {summary.get('lead', '?')}"
    )


def _section(severity: str, found: list[Found]) -> list[str]:
    lines = [f"## Findings of {severity} severity", ""]
    lines += [
        f"- `{name}:{finding['line']}` {finding['message']} ({finding['role']})"
        for name, finding in found[:_PER_SECTION]
    ]
    if len(found) > _PER_SECTION:
        lines.append(f"- … and {len(found) - _PER_SECTION} more: `mesh dump` shows them all")
    return [*lines, ""]


def _write_stubs(folder: Path, tasks: list[Found]) -> None:
    folder.mkdir(parents=True)
    for name, task in tasks:
        if task["stub"] is None:
            continue
        file = (folder / name).with_suffix(".pyi")
        if not file.resolve().is_relative_to(folder.resolve()):
            continue  # a name from the mesh is data: it never leads out of the folder
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(task["stub"], encoding="utf-8")
