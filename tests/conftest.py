"""The four real servers, started once for all tests that ask for `stack`, and their versions."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio

from mesh.stack import Stack, StackError
from mesh.stack.redis import redis_programs

# Where the servers' programs are fetched for the first time, that takes its time.
FIRST_START_S = 300
VERSIONS = pytest.StashKey[list[str]]()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """Redis, Kafka, PostgreSQL and Temporal; tests share them, so none may stop one.

    Use names of your own in them: a key prefix, a topic, a schema, a task queue.
    """
    try:
        async with Stack.running(tmp_path_factory.mktemp("stack")) as running:
            versions = [server.version for server in running.services.values()]
            request.config.stash[VERSIONS] = versions
            yield running
    except StackError as error:
        reason = f"the servers these tests need can't be had: {error}"
        raise pytest.fail.Exception(reason, pytrace=False) from None  # no trace of ours around it


@pytest.hookimpl(trylast=True)  # after -k and the like have taken out what will not run
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Have one worker run all that waits for the servers, and each file in one go; give the first
    to wait for the servers the time to fetch them.
    """
    waiting = [item for item in items if "stack" in getattr(item, "fixturenames", ())]
    for item in items:
        group = "stack" if item in waiting else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))
    if waiting:
        waiting[0].add_marker(pytest.mark.timeout(FIRST_START_S))


def pytest_collection_finish() -> None:
    """Have the garbage collector look at no test that there is again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker tells who began the tests which servers it had."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["servers"] = session.config.stash.get(VERSIONS, [])


def pytest_testnodedown(node: Any) -> None:
    """Keep what a worker tells."""
    if told := getattr(node, "workeroutput", {}).get("servers"):
        node.config.stash[VERSIONS] = told


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which servers the tests ran against, and which of Redis's kind the bus did."""
    if versions := terminalreporter.config.stash.get(VERSIONS, None):
        terminalreporter.write_line(f"servers: {', '.join(versions)}")
    reports = [one for many in terminalreporter.stats.values() for one in many]
    if any("test_redis_bus[" in getattr(one, "nodeid", "") for one in reports):
        programs = ", ".join(str(program) for program in redis_programs()) or "none"
        terminalreporter.write_line(f"the bus was tested against: {programs}")
