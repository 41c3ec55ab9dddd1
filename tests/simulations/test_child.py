"""A child process: what it says is heard, and how it ended is known."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from simulations.rehearsal.child import Child

READY = 'print(\'{"kind": "ready"}\', flush=True)'


@pytest.mark.parametrize(
    ("on_sigterm", "in_order", "words"),
    [
        ("lambda *_: sys.exit(0)", True, "its log is empty"),
        ("lambda *_: sys.exit('the journal is full')", False, "the journal is full"),
        ("signal.SIG_IGN", False, "its log is empty"),
    ],
)
async def test_stop_tells_who_did_not_end_in_order(
    tmp_path: Path, on_sigterm: str, in_order: bool, words: str
) -> None:
    ready = asyncio.Event()

    def listen(_message: dict[str, Any]) -> None:
        ready.set()

    script = f"import signal, sys\nsignal.signal(signal.SIGTERM, {on_sigterm})\n{READY}\n"
    argv = [sys.executable, "-c", f"{script}while True:\n    signal.pause()\n"]
    child = await Child.start("child", argv, tmp_path / "log", listen)
    await ready.wait()
    assert await child.stop(1.0) is in_order
    assert child.last_words() == words
    assert not child.running
