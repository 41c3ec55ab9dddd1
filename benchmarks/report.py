"""A benchmark's result for people: on the screen, and as a table for the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table

COLUMNS: Final = ("figure", "unit", "ours", "bare", "peer", "ratio", "aim", "met")
TEXTS: Final = frozenset({"figure", "unit", "aim", "met"})
"""Columns that are no numbers."""


def show(result: Mapping[str, Any], console: Console) -> None:
    """A table on the screen, without the columns that no row fills."""
    table = Table(title=f"{result['name']}, on {machine_line(result)}", title_justify="left")
    columns, lines = _table(result)
    for column in columns:
        right = column not in TEXTS
        table.add_column(column, justify="right" if right else "left", no_wrap=right)
    for cells, missed in lines:
        table.add_row(*cells, style="bold red" if missed else "")
    console.print(table)


def markdown(result: Mapping[str, Any]) -> str:
    """The same in Markdown, with the machine under it."""
    columns, lines = _table(result)
    rules = ["---" if column in TEXTS else "--:" for column in columns]
    rows = [f"| {' | '.join(cells)} |" for cells in (columns, rules, *(line[0] for line in lines))]
    return "\n".join([*rows, "", f"Measured on {machine_line(result)}."]) + "\n"


def machine_line(result: Mapping[str, Any]) -> str:
    """The machine on one line."""
    machine = result["machine"]
    return f"{machine['cores']} cores of {machine['cpu']}, {machine['python']}, {machine['os']}"


def number(value: float) -> str:
    """About three significant digits; thousands are set apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    places = 2 if abs(value) < 10 else 1
    text = f"{value:.{places}f}"
    return text if float(text) or not value else f"{value:.2g}"


def _table(result: Mapping[str, Any]) -> tuple[list[str], list[tuple[list[str], bool]]]:
    """The columns, and for every line its cells and whether it missed its aim."""
    rows = result["rows"]
    columns = [column for column in COLUMNS if any(row[column] is not None for row in rows)]
    if columns == ["figure", "unit", "ours"] and all(": " in row["figure"] for row in rows):
        return _crossed(rows)
    lines = [([_cell(row[column]) for column in columns], row["met"] is False) for row in rows]
    return columns, lines


def _crossed(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[tuple[list[str], bool]]]:
    """Figures called "subject: quantity" that stand alone: a line per subject, a column per
    quantity.
    """
    quantities: dict[str, None] = {}
    subjects: dict[str, dict[str, str]] = {}
    for row in rows:
        subject, _, quantity = row["figure"].partition(": ")
        title = f"{quantity}, {row['unit']}"
        quantities[title] = None
        subjects.setdefault(subject, {})[title] = _cell(row["ours"])
    lines = [
        ([subject, *(cells.get(title, _cell(None)) for title in quantities)], False)
        for subject, cells in subjects.items()
    ]
    return ["figure", *quantities], lines


def _cell(value: object) -> str:
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, float | int) else str(value)
