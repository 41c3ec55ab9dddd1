"""`mesh simulate` as somebody uses it: what it prints and when, and how it is stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.cli import run

MESH = str(Path(sys.executable).with_name("mesh"))
PLANTED = ["simulate", "rot", "--plant", "frontiers-only"]


def begun(*arguments: str) -> subprocess.Popen[str]:
    """A run that has just said that a seed failed, as the leader of a group of its own."""
    process = subprocess.Popen(
        [MESH, *PLANTED, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("  again: "):
            return process
    raise AssertionError("no seed failed")


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_what_failed_is_shown_while_others_still_run_and_an_interrupt_ends_it(jobs: str) -> None:
    process = begun("--seeds", "0:1000", "--jobs", jobs, "--json")
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert re.search(r"stopped after \d+ seeds", err)
    assert "Traceback" not in err
    assert "mesh simulate rot --plant frontiers-only --seed" in err.splitlines()[-1]
    assert '"scenario": "rot"' in out


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_who_reads_what_is_printed_sees_the_end_of_it_when_the_command_is_killed(
    sign: signal.Signals,
) -> None:
    """Processes that were left over would hold the pipe: the reader would wait for ever."""
    process = begun("--seeds", "0:1000", "--jobs", "2")
    process.send_signal(sign)
    try:
        process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == -sign


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["partition", "--faults", "bus-down"], "bus-down hits the service 'bus', and this world"),
        (["calm", "--faults", "halves,bus-full"], "bus-full hits the service 'bus'"),
        (["none.toml"], "none.toml can't be read"),
        (["nowhere:votes"], "nowhere can't be imported: ModuleNotFoundError"),
        (
            ["simulations.run:WHOLE"],
            "simulations.run has no scenario 'WHOLE'; there are none: make",
        ),
    ],
)
def test_bad_input_is_named(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["simulate", *arguments]) == 2
    assert message in capfd.readouterr().err


def test_a_fault_of_a_service_is_drawn_where_there_is_one() -> None:
    arguments = ["--seeds", "0:1", "--replicas", "2", "--jobs", "1", "--faults", "bus-down"]
    assert run(["simulate", "services", *arguments]) == 0
    assert run(["simulate", "swarm", *arguments]) == 0
