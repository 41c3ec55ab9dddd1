"""What is said of programs that fail, and that none is left which nobody would know of."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from mesh.stack.process import TAIL_LINE_CHARACTERS, end_of, left_behind, log_tail, output_of
from mesh.stack.recipe import StackError
from mesh.stack.redis import RedisRecipe
from mesh.stack.server import Server
from mesh.stack.state import Entry

FRAME = "\tat org.apache.kafka.raft.KafkaRaftClient.poll(KafkaRaftClient.java:3456)\n"
TRACE = (
    "2026-01-01 [main] ERROR kafka.Kafka$ - Exiting Kafka due to fatal exception\n"
    "org.apache.kafka.common.KafkaException: Socket server failed to bind to 127.0.0.1:9092\n"
    f"{FRAME * 20}"
    "Caused by: java.net.BindException: Address already in use\n"
    f"{FRAME * 90}"
    "\t... 12 more\n"
)


def test_the_end_of_a_java_log_says_what_happened_and_not_where(tmp_path: Path) -> None:
    log = tmp_path / "kafka.log"
    log.write_text(TRACE)
    assert log_tail(log).endswith(
        "failed to bind to 127.0.0.1:9092 / "
        "Caused by: java.net.BindException: Address already in use"
    )
    assert end_of(FRAME) == FRAME.strip(), "better than nothing"
    assert end_of(" at last it ended\n... and more\n") == "at last it ended / ... and more"
    assert len(end_of("x" * 5_000)) == TAIL_LINE_CHARACTERS
    assert end_of("\n") == "it printed nothing"


async def test_a_program_runs_where_and_with_what_it_is_told(tmp_path: Path) -> None:
    script = "import os; print(os.getcwd(), os.environ['TOLD'], 'PATH' in os.environ)"
    argv = (sys.executable, "-c", script)
    printed = await output_of(argv, cwd=tmp_path, environment={"TOLD": "so"})
    assert printed.split() == [str(tmp_path), "so", "True"]


async def test_a_program_that_cannot_run_is_an_error_of_the_stack(tmp_path: Path) -> None:
    broken = tmp_path / "initdb"
    broken.write_bytes(b"\x7fELF")
    broken.chmod(0o755)
    with pytest.raises(StackError, match="initdb does not start: "):
        await output_of((str(broken),))


async def test_what_cannot_be_recorded_does_not_stay(tmp_path: Path) -> None:
    """A server that outlives us, on a full disk: nobody would find it again."""

    def full(_: Entry) -> None:
        raise StackError("cannot write state.json: No space left on device")

    server = Server(RedisRecipe(), tmp_path / "redis", bound=False, record=full)
    with pytest.raises(StackError, match="No space left"):
        await server.start()
    assert not server.running
    assert left_behind(server.folder, server.place.log) is None


@pytest.mark.parametrize("turns", range(8))
async def test_a_program_ends_whenever_its_caller_is_cancelled(turns: int) -> None:
    """Also while it is being started, which takes asyncio several turns of the loop."""
    running = asyncio.create_task(output_of(("sh", "-c", "sleep 1000 & sleep 1000")))
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await running
