"""Check: rules for values, wherever a field takes one."""

from typing import Annotated, Any

import pytest

from crdt import (
    Check,
    Convert,
    Decided,
    Document,
    Feed,
    InvalidValue,
    Map,
    Maximum,
    MultiValue,
    Register,
    Sequence,
    Set,
)
from simulations.sites import Site

Percent = Annotated[int, Check(lambda value: 0 <= value <= 100, "0 to 100")]


class Checked(Document):
    progress: Annotated[Register[int], Check(lambda value: 0 <= value <= 100, "0 to 100")]
    either: Register[Percent | None]
    parts: Register[list[Percent]]
    named: Register[dict[str, Percent]]
    twice: Annotated[
        Register[str], Check(str.islower, "lower case"), Check(lambda text: len(text) < 4, "short")
    ]
    labels: Annotated[Set[str], Check(str.isidentifier, "identifiers")]
    log: Annotated[Feed[str], Check(bool, "not empty")]
    state: Annotated[Decided[str], Check(str.isupper, "upper case")]
    owner: Annotated[MultiValue[str], Check(str.isidentifier, "identifiers")]
    best: Annotated[Maximum[int], Check(lambda value: value < 10, "below 10")]
    steps: Annotated[Sequence[str], Check(bool, "not empty")]
    shares: Map[str, Annotated[Register[int], Check(lambda value: value > 0, "positive")]]
    stored: Annotated[Register[int], Convert(str, int), Check(lambda value: value % 2 == 0, "even")]


class Odd(Document, name="Checked"):
    stored: Register[int]


class Unchecked(Document, name="Checked"):
    progress: Register[int]
    stored: Register[str]


def test_what_the_rules_allow_is_written() -> None:
    site = Site(1)
    with site.edit(Checked) as checked:
        checked.progress = 100
        checked.either = None
        checked.either = 0
        checked.parts = [1, 2]
        checked.named = {"a": 3}
        checked.twice = "abc"
        checked.labels |= {"a", "b"}
        checked.log.append("x")
        checked.state.decide(1, "GO")
        checked.owner = "me"
        checked.best = 9
        checked.steps.append("x")
        checked.shares["a"] = 1
        checked.stored = 4
    assert site.view(Checked).snapshot() == {
        "progress": 100,
        "either": 0,
        "parts": [1, 2],
        "named": {"a": 3},
        "twice": "abc",
        "labels": ["a", "b"],
        "log": ["x"],
        "state": {"epoch": 1, "value": "GO"},
        "owner": ["me"],
        "best": 9,
        "steps": ["x"],
        "shares": {"a": 1},
        "stored": 4,
    }


def _write(checked: Checked, field: str, value: Any) -> None:
    if field == "labels":
        checked.labels.add(value)
    elif field in ("log", "steps"):
        getattr(checked, field).append(value)
    elif field == "state":
        checked.state.decide(2, value)
    elif field == "shares":
        checked.shares["a"] = value
    else:
        setattr(checked, field, value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("progress", 101, r"Checked\.progress takes int \(0 to 100\), not int: 101"),
        ("progress", "1", r"takes int \(0 to 100\), not str: '1'"),
        ("either", -1, r"takes int \(0 to 100\) \| None, not int: -1"),
        ("parts", [1, 101], r"takes list\[int \(0 to 100\)\], not list: \[1, 101\]"),
        ("named", {"a": -1}, r"takes dict\[str, int \(0 to 100\)\]"),
        ("twice", "abcd", r"takes str \(lower case\) \(short\), not str: 'abcd'"),
        ("twice", "ABC", r"takes str \(lower case\) \(short\)"),
        ("labels", "a b", r"Checked\.labels takes elements of type str \(identifiers\)"),
        ("log", "", r"Checked\.log takes items of type str \(not empty\)"),
        ("state", "go", r"Checked\.state takes str \(upper case\)"),
        ("owner", "not me", r"Checked\.owner takes str \(identifiers\)"),
        ("best", 10, r"Checked\.best takes int \(below 10\)"),
        ("steps", "", r"Checked\.steps takes elements of type str \(not empty\)"),
        ("shares", 0, r"Checked\.shares\[…\] takes int \(positive\), not int: 0"),
        ("stored", 3, r"Checked\.stored takes int \(even\)"),
    ],
)
def test_what_they_do_not_allow_is_refused(field: str, value: Any, message: str) -> None:
    site = Site(1)
    overlay = site.overlay()
    with pytest.raises(InvalidValue, match=message):
        _write(Checked.bind(overlay, "Checked/1"), field, value)
    assert (overlay.operations, overlay.texts) == ((), {})


def test_what_a_rule_raises_the_writer_gets() -> None:
    class Broken(Document):
        value: Annotated[Register[int], Check(lambda value: 1 // value > 0, "positive")]

    site = Site(1)
    overlay = site.overlay()
    with pytest.raises(ZeroDivisionError):
        Broken.bind(overlay, "Broken/1").value = 0
    assert overlay.operations == ()


def test_a_rule_is_for_writers_not_for_what_others_wrote() -> None:
    site = Site(1)
    with site.edit(Unchecked) as unchecked:
        unchecked.progress = 1000
        unchecked.stored = "3"
    assert site.view(Checked).progress == 1000
    assert site.view(Checked).stored == 3
    with site.edit(Odd) as odd:
        odd.stored = 5
    assert site.view(Checked).stored == 5
