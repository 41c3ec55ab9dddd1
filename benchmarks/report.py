"""A benchmark's result for people: on the screen, and as a table for the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.table import Table

COLUMNS: Final = ("figure", "unit", "ours", "bare", "peer", "ratio", "aim", "met")
NUMBERS: Final = COLUMNS[2:6]


def show(result: Mapping[str, Any], console: Console) -> None:
    """A table on the screen, without the columns that no row fills."""
    table = Table(title=f"{result['name']}, on {machine_line(result)}", title_justify="left")
    columns = _filled(result)
    for column in columns:
        right = column in NUMBERS
        table.add_column(column, justify="right" if right else "left", no_wrap=right)
    for row in result["rows"]:
        style = "bold red" if row["met"] is False else ""
        table.add_row(*(_cell(row[column]) for column in columns), style=style)
    console.print(table)


def markdown(result: Mapping[str, Any]) -> str:
    """The same in Markdown, with the machine under it."""
    columns = _filled(result)
    rows = [[_cell(row[column]) for column in columns] for row in result["rows"]]
    rules = ["--:" if column in NUMBERS else "---" for column in columns]
    lines = [f"| {' | '.join(cells)} |" for cells in (columns, rules, *rows)]
    return "\n".join([*lines, "", f"Measured on {machine_line(result)}."]) + "\n"


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


def _filled(result: Mapping[str, Any]) -> list[str]:
    rows = result["rows"]
    return [column for column in COLUMNS if any(row[column] is not None for row in rows)]


def _cell(value: object) -> str:
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, float | int) else str(value)
