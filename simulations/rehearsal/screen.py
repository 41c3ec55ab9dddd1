"""What the user sees: a live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

_EVENTS_SHOWN = 8
_PLAIN_STEPS = 10


@dataclass(slots=True)
class Row:
    """One agent, as last heard of. `down`: the parts of its replica that are, in words."""

    role: str
    task: str = "starting"
    updates: int = 0
    lag: int = 0
    links: int = 0
    peers: int = 0
    state: str = "starting"
    down: str = ""


@dataclass(slots=True)
class Board:
    """All there is to see."""

    rows: dict[str, Row] = field(default_factory=dict)
    done: float = 0.0
    modules: int = 0
    final: int = 0
    findings: int = 0
    acknowledged: int = 0
    phase: str = "starting"


class Screen:
    """Shows a board: `say` is for what happens, `show` for how things stand. Both are cheap."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()
        self._events: list[tuple[float, str, str]] = []
        self._plain_next = 0.0
        self._live = (
            Live(console=console, refresh_per_second=4, transient=False)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str, style: str = "") -> None:
        """Something happened."""
        elapsed = time.monotonic() - self._start
        self._events.append((elapsed, text, style))
        del self._events[: -10 * _EVENTS_SHOWN]
        if self._live is None:
            self._print(f"{elapsed:6.1f} s  {text}")

    def show(self, board: Board) -> None:
        """How things stand now; on a pipe a line for every tenth of the way."""
        if self._live is not None:
            self._live.update(self._picture(board))
        elif board.done >= self._plain_next:
            self._plain_next = (int(board.done * _PLAIN_STEPS) + 1) / _PLAIN_STEPS
            self.say(
                f"{board.done:4.0%} done: {board.final}/{board.modules} modules final, "
                f"{board.findings} findings, {board.acknowledged} updates acknowledged"
            )

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _picture(self, board: Board) -> RenderableType:
        progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=40), TaskProgressColumn()
        )
        progress.add_task(f"audit · {board.phase}", total=100, completed=int(100 * board.done))
        facts = (
            f"{board.final}/{board.modules} modules final · {board.findings} findings · "
            f"{board.acknowledged} updates acknowledged · "
            f"{time.monotonic() - self._start:.0f} s"
        )
        return Group(progress, Text(facts), _table(board), *self._recent())

    def _recent(self) -> Iterable[Text]:
        return (
            Text(f"{elapsed:6.1f} s  {text}", style=style)
            for elapsed, text, style in self._events[-_EVENTS_SHOWN:]
        )


def _table(board: Board) -> Table:
    table = Table(expand=False, pad_edge=False)
    for title, width in (("agent", 26), ("role", 30), ("doing", 44)):
        table.add_column(title, no_wrap=True, max_width=width)
    for title in ("updates", "lag", "links"):
        table.add_column(title, justify="right")
    lacking = any(row.down for row in board.rows.values())
    if lacking:
        table.add_column("down", no_wrap=True)
    for name, row in sorted(board.rows.items()):
        table.add_row(
            name,
            row.role,
            row.task,
            str(row.updates),
            str(row.lag),
            f"{row.links}/{row.peers}",
            *([row.down] if lacking else []),
            style={"gone": "red", "cut off": "yellow"}.get(row.state, ""),
        )
    return table
