"""Probe events: one list that explains every kind; a log line, a count."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from mesh.instrumentation import EVENTS, CountingProbe, LoggingProbe

ROOT = Path(__file__).resolve().parent.parent.parent


def test_every_event_is_explained_and_every_explanation_is_used() -> None:
    files = [path for part in ("mesh", "persistence") for path in (ROOT / part).rglob("*.py")]
    text = "\n".join(path.read_text() for path in sorted(files))
    emitted = set(re.findall(r'(?:\.event|\.refuse|_event)\(\s*"([a-z.]+)"', text))
    assert emitted - set(EVENTS) == set()
    assert set(EVENTS) - emitted == set()
    assert all(sentence.endswith(".") for sentence in EVENTS.values())
    assert set(EVENTS) >= LoggingProbe.ALARMS


def test_alarms_are_warnings_and_the_rest_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    probe = LoggingProbe()
    with caplog.at_level(logging.WARNING, logger="statemesh"):
        probe.event("link.up", peer="b")
        probe.event("digest.mismatch", peer="b", shard=3)
        probe.sometimes("a rare path")
    assert [record.getMessage() for record in caplog.records] == ["digest.mismatch peer=b shard=3"]


def test_counting() -> None:
    probe = CountingProbe()
    probe.event("link.up", peer="a")
    probe.event("link.up", peer="b")
    probe.sometimes("a rare path")
    assert probe.counts["link.up"] == 2
    assert probe.latest["link.up"] == {"peer": "b"}
    assert probe.paths["a rare path"] == 1
