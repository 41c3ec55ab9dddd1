"""The page about one run shows what happened in it, in one file that loads nothing."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mesh.cli import run
from simulations.planted import planted
from simulations.report import DOWN, PAUSED, UP, page
from simulations.run import Outcome, simulate
from simulations.scenarios import SCENARIOS

SCENARIO = dataclasses.replace(SCENARIOS["swarm"], kinds=("pause", "power", "halves"))


class Reader(HTMLParser):
    """Text, drawings and everything that would be loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def observed() -> Outcome:
    runs = (simulate(SCENARIO, seed, observe=True) for seed in range(50))
    return next(one for one in runs if len({fault.kind for fault in one.plan.values()}) == 3)


def test_watching_changes_nothing(observed: Outcome) -> None:
    assert observed.trace_hash == simulate(SCENARIO, observed.seed).trace_hash
    assert simulate(SCENARIOS["calm"], 1).samples == []


def test_samples_say_who_was_up_and_how_far_apart_they_were(observed: Outcome) -> None:
    states = {state for sample in observed.samples for state in sample.states.values()}
    assert states == {UP, DOWN, PAUSED}
    assert max(sample.apart for sample in observed.samples) > 1
    last = observed.samples[-1]
    assert last.apart == 1
    assert set(last.behind.values()) == {0}


def test_the_page_shows_what_happened(observed: Outcome) -> None:
    text = page("swarm", observed, "mesh simulate swarm")
    reader = Reader(text)
    shown = " ".join(reader.text)
    for word in (
        f"swarm, seed {observed.seed}: everything held", observed.trace_hash, "mesh simulate swarm",
        *observed.samples[0].states,
        *(f"{number} {fault.kind}" for number, fault in observed.plan.items()),
        *(str(fault) for fault in observed.plan.values()),
        f"within {observed.healed_s:.1f} s",
    ):  # fmt: skip
        assert word in shown, word
    bars = reader.all("rect")
    assert len(bars) >= len(observed.plan) + 5
    for bar in bars:
        assert 0 <= float(bar["x"] or "") <= 1_000
        assert 0 < float(bar["width"] or "") <= 1_000
    assert len(reader.all("svg")) == 5
    # One for each replica at least, and two for all of them.
    assert len(reader.all("polyline")) >= 7


def test_the_page_loads_nothing(observed: Outcome) -> None:
    text = page("swarm", observed, "command")
    reader = Reader(text)
    assert not {tag for tag, _ in reader.tags} & {"script", "link", "img", "iframe", "object"}
    assert not any({"src", "href"} & set(attributes) for _, attributes in reader.tags)
    assert "url(" not in text


def test_a_violation_is_marked_and_words_are_escaped() -> None:
    with planted("ack-before-fsync"):
        failed = simulate(SCENARIOS["swarm"], 0, observe=True)
    text = page("swarm <b>", failed, "command & more")
    shown = " ".join(Reader(text).text)
    assert str(failed.violations[0]) in shown
    assert "command & more" in shown
    assert "<b>" not in text
    assert text.count("<line class=bad") == 5 * len(failed.violations)


def test_the_command_writes_the_page(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "r.html"
    arguments = ["simulate", "calm", "--seed", "3", "--replicas", "2", "--report"]
    assert run([*arguments, str(file)]) == 0
    text = file.read_text()
    assert re.search(r"<h1>calm, seed 3: everything held</h1>", text)
    assert "mesh simulate calm --replicas 2 --seed 3" in text
    assert run([*arguments, str(tmp_path / "no" / "r.html")]) == 2
    assert "name a file that can be written" in capfd.readouterr().err
