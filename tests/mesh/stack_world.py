"""What tests of the stack share: commands in processes of their own, and the end of a process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from mesh.stack.process import is_there

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        assert self.code in (0, 1), self.err
        loaded: dict[str, Any] = json.loads(self.out)
        return loaded


async def mesh(
    *words: str, cwd: Path, environment: Mapping[str, str] | None = None, code: int | None = 0
) -> Outcome:
    """Run `mesh …` in a fresh process; `code` is what it must end with, None for anything."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("STATEMESH_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from mesh.cli import main; main()", *words,
        cwd=cwd, env={**clean, "COLUMNS": "300", **(environment or {})},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    outcome = Outcome(process.returncode or 0, out.decode(), err.decode())
    if code is not None:
        assert outcome.code == code, outcome
    return outcome


async def gone(pid: int) -> None:
    """Return once the process has ended, also if it is not our child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(PATIENCE_S):
            await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def alive(pid: int) -> bool:
    """Whether a process with this pid goes on."""
    try:
        return is_there(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def is_empty(folder: Path) -> bool:
    """Whether nothing is in it."""
    return not any(folder.iterdir())
