"""What the user sees: lines on a pipe, a live table on a terminal; what travels on the pipes."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from simulations.rehearsal import wire
from simulations.rehearsal.screen import Board, Row, Screen


def board(done: float) -> Board:
    rows = {
        "security-analyst": Row("security", "analysed 3, now a.py", 12, 5, 2, 3, "cut off"),
        "code-reviewer": Row("review", "killed, folder deleted", 7, 40, 0, 3, "gone"),
    }
    return Board(rows, done, 25, int(25 * done), 9, 30, "partitioned")


def shown(*, terminal: bool, done: list[float]) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=140, height=40)
    with Screen(console) as screen:
        for each in done:
            screen.show(board(each))
        screen.say("PARTITION: [a] ┃ b")
        screen.show(board(done[-1]))
    return file.getvalue()


def test_on_a_pipe_there_are_plain_lines_one_for_every_tenth() -> None:
    text = shown(terminal=False, done=[n / 100 for n in range(101)])
    lines = text.splitlines()
    assert "\x1b" not in text
    assert 10 <= sum("modules final" in line for line in lines) <= 11
    assert "100% done: 25/25 modules final, 9 findings, 30 updates acknowledged" in text
    assert any(line.endswith("PARTITION: [a] ┃ b") for line in lines)


def test_on_a_terminal_there_is_a_row_per_agent_and_what_happened() -> None:
    text = shown(terminal=True, done=[0.4])
    for word in ("security-analyst", "now a.py", "2/3", "partitioned", "10/25 modules final"):
        assert word in text
    assert "PARTITION: [a] ┃ b" in text


def test_an_agents_task_survives_the_pipe() -> None:
    task = wire.AgentTask(
        "a", 7, "/data/a", "/tree", {"a": ("r", "s"), "b": ("t",)}, ("127.0.0.1:1",),
        "t:1", "q", 0.5,
    )  # fmt: skip
    assert wire.AgentTask.read(task.line()) == task
    on_a_stack = replace(task, redis="redis://r:1/0", kafka="k:1", postgres="postgresql://p@p:1/p")
    assert wire.AgentTask.read(on_a_stack.line()) == on_a_stack


def test_what_is_down_is_in_the_table_as_long_as_something_is() -> None:
    lacking = board(0.4)
    lacking.rows["code-reviewer"].down = "bus, log"
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=140, height=40)
    with Screen(console) as screen:
        screen.show(lacking)
    assert "bus, log" in file.getvalue()
    assert "down" not in shown(terminal=True, done=[0.4])


@pytest.mark.parametrize("line", [b"", b"hello\n", b"[1]\n", b"{}\n", b'{"cast": 3}\n'])
def test_what_is_no_task_is_refused(line: bytes) -> None:
    with pytest.raises(wire.MessageError):
        wire.AgentTask.read(line)


def test_a_process_whose_parent_is_gone_ends_at_once() -> None:
    program = "from simulations.rehearsal import wire; wire.die_with(1 << 30); print('still here')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
