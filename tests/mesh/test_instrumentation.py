"""Probe events: a log line, a count."""

from __future__ import annotations

import logging

import pytest

from mesh.instrumentation import CountingProbe, LoggingProbe


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
