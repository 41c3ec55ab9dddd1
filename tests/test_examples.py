"""The examples run: real folders, real links, each as its own process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PATIENCE_S = 60


@contextmanager
def example(
    name: str, home: Path, *arguments: str, seeds: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """One example as a process in an environment of its own; killed if it is still there."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("STATEMESH_")}
    env |= {"STATEMESH_HOME": str(home / "home"), "STATEMESH_PEERS__SEEDS": seeds}
    with subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=home,
    ) as child:  # fmt: skip
        try:
            yield child
        finally:
            child.kill()


def address(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    said = child.stdout.readline()
    assert said.startswith("listening "), child.stderr.read() if child.stderr else said
    return said.split()[1]


def test_agents_of_two_kinds_work_together(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(example("asyncio_agent.py", tmp_path, "agent-a", "3"))
        seed = address(first)
        others = [
            stack.enter_context(example(name, tmp_path, folder, "3", seeds=seed))
            for name, folder in (("asyncio_agent.py", "agent-b"), ("threaded_agent.py", "agent-c"))
        ]
        for child in others:
            address(child)
        for child in (first, *others):
            out, errors = child.communicate(timeout=PATIENCE_S)
            assert (child.returncode, errors) == (0, "")
            assert out.splitlines() == [f"found by agent-{letter} 3" for letter in "abc"]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def answering(url: str, child: subprocess.Popen[str]) -> httpx.Client:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        assert child.poll() is None, child.stderr.read() if child.stderr else ""
        try:
            httpx.get(f"{url}/health", timeout=10)
        except httpx.TransportError:
            continue
        return httpx.Client(base_url=url, timeout=10)
    raise AssertionError("the service does not answer")


@pytest.mark.parametrize("rounds", [2])
def test_a_web_service_keeps_what_it_said_it_keeps(tmp_path: Path, rounds: int) -> None:
    for turn in range(1, rounds + 1):
        port = free_port()
        with (
            example("fastapi_service.py", tmp_path, "service", str(port)) as child,
            answering(f"http://127.0.0.1:{port}", child) as client,
        ):
            said = client.put("/findings/7", json={"text": f"round {turn}"})
            assert said.json() == {"durable": "JOURNAL"}
            assert client.post("/findings/7/votes").json() == {"votes": turn}
            found = client.get("/findings").json()
            assert found == {"Finding/7": {"text": f"round {turn}", "votes": turn}}
            assert client.post("/findings/8/votes").status_code == 404
            refused = client.put(f"/findings/{'x' * 5000}", json={"text": "a name too long"})
            assert refused.status_code == 422
            assert client.get("/health").json()["parts"]["journal"]["state"] == "ok"
            child.send_signal(signal.SIGTERM)
            _, errors = child.communicate(timeout=PATIENCE_S)
            assert errors == ""


def test_a_service_and_an_agent_share_their_findings(tmp_path: Path) -> None:
    port = free_port()
    with (
        example("fastapi_service.py", tmp_path, "service", str(port)) as child,
        answering(f"http://127.0.0.1:{port}", child) as client,
    ):
        client.put("/findings/service", json={"text": "found by the service"})
        seed = client.get("/health").json()["address"]
        with example("threaded_agent.py", tmp_path, "agent-c", "2", seeds=seed) as agent:
            address(agent)
            until = time.monotonic() + PATIENCE_S
            while "Finding/agent-c" not in (found := client.get("/findings").json()):
                assert time.monotonic() < until, found
            for name in ("service", "agent-c"):
                assert client.post(f"/findings/{name}/votes").status_code == 200
            out, errors = agent.communicate(timeout=PATIENCE_S)
            assert (agent.returncode, errors) == (0, "")
            assert out.splitlines() == ["found by agent-c 2", "found by the service 2"]
