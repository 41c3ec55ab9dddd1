"""Build the wheel, install it in an empty environment, and use it there: `python -m tests.wheel`.

A source tree hides what a wheel forgot (a package, a data file, a dependency); an empty environment
does not. The build works on a copy: it would leave a folder behind, and pack what is left in there
from earlier builds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_SOURCE = shutil.ignore_patterns(
    ".*", "build", "dist", "*.egg-info", "__pycache__", "mesh-demo", "tests"
)

USE = """
import asyncio, crdt, mesh
from crdt import Counter, Document, Register
from mesh import Durability, Replica

class Task(Document):
    title: Register[str]
    effort: Counter

async def main() -> None:
    async with Replica.open("agent-a") as replica:
        with replica.edit(Task, "42") as task:
            task.title = "Audit json.decoder"
            task.effort += 3
        await replica.flush(Durability.JOURNAL, timeout=10)
    async with Replica.open("agent-a") as replica:
        task = replica.get(Task, "42")
        assert task is not None
        assert (task.title, task.effort) == ("Audit json.decoder", 3)

asyncio.run(main())
for package in (crdt, mesh):
    assert "site-packages" in package.__file__, package.__file__
"""


def run(*command: str | Path, cwd: Path, env: dict[str, str]) -> str:
    """Run to the end; on failure show everything it printed and stop."""
    words = [str(part) for part in command]
    done = subprocess.run(words, cwd=cwd, env=env, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(f"wheel: {' '.join(words)} failed\n{done.stdout}\n{done.stderr}")
    return done.stdout


def main() -> None:
    """Exit code 0 only if the installed wheel works with nothing of the checkout in sight."""
    with tempfile.TemporaryDirectory(prefix="statemesh-wheel-") as name:
        scratch = Path(name)
        env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        env |= {"STATEMESH_HOME": str(scratch / "home"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        source = shutil.copytree(ROOT, scratch / "source", ignore=NOT_SOURCE)
        build = (sys.executable, "-m", "build", "--wheel", "--no-isolation")
        run(*build, "--outdir", scratch / "dist", cwd=source, env=env)
        (wheel,) = (scratch / "dist").glob("*.whl")
        venv.create(scratch / "venv", with_pip=True)
        python = scratch / "venv" / "bin" / "python"
        pip = (python, "-m", "pip", "install", "-qq", "--constraint", ROOT / "constraints.txt")
        run(*pip, wheel, cwd=scratch, env=env)
        run(python, "-c", USE, cwd=scratch, env=env)
        mesh = scratch / "venv" / "bin" / "mesh"
        version = run(mesh, "--version", cwd=scratch, env=env).strip()
        dump = run(mesh, "dump", "agent-a", "--json", cwd=scratch, env=env)
        if "Audit json.decoder" not in dump:
            sys.exit(f"wheel: mesh dump does not show the document: {dump}")
        print(f"wheel: {wheel.name} installed, {version}, replica and command line work")


if __name__ == "__main__":
    main()
