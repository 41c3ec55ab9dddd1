"""The examples in README.md and docs/embedding.md are programs: each runs as it stands, in an empty
folder.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXAMPLES = [
    pytest.param(code, id=f"{name}-{number}")
    for name in ("README.md", "docs/embedding.md")
    for number, code in enumerate(PYTHON.findall((ROOT / name).read_text()), 1)
]


@pytest.mark.parametrize("code", EXAMPLES)
def test_example_runs(code: str, tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("STATEMESH_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env=env | {"STATEMESH_HOME": str(tmp_path / "home")},
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_first_screen_shows_a_program_and_the_two_commands() -> None:
    """What a newcomer sees without scrolling: what it is, a picture, a program, two commands."""
    screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:60])
    assert PYTHON.search(screen)
    for command in ("make demo", "make test"):
        assert command in screen
