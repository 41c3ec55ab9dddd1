"""Machine definitions and the pure step: what is refused, in which words, and what always holds."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdt.errors import CallerError
from mesh.environment import InvalidTransition, UnknownMachine
from workflows.machine import (
    EFFECTS,
    DefinitionError,
    Machine,
    MachineState,
    Rule,
    beginning,
    decide,
    step,
)

from .world import AUDIT


def fired(state: MachineState, event: str, actor: str = "ada") -> MachineState:
    return step(AUDIT, state, event, actor, {}, {})


def test_an_event_leads_to_its_target_with_the_next_epoch() -> None:
    queued = beginning(AUDIT, "json.decoder")
    claimed = fired(queued, "claim")
    assert (claimed.state, claimed.epoch, claimed.owner, claimed.token) == ("claimed", 1, "ada", 1)
    submitted = fired(claimed, "submit")
    assert (submitted.state, submitted.epoch, submitted.token) == ("submitted", 2, 1)
    accepted = fired(submitted, "accept")
    assert (accepted.state, accepted.epoch, accepted.owner, accepted.token) == (
        "accepted",
        3,
        "",
        3,
    )
    assert queued == beginning(AUDIT, "json.decoder"), "step changed its argument"


def test_a_refusal_says_what_would_be_possible() -> None:
    with pytest.raises(InvalidTransition) as refused:
        fired(beginning(AUDIT, "json.decoder"), "accept")
    assert str(refused.value) == (
        "code-audit/json.decoder: no transition 'accept' from 'queued'; "
        "from 'queued' there are: claim"
    )


def test_a_refusal_names_the_holder() -> None:
    claimed = fired(beginning(AUDIT, "x"), "claim")
    with pytest.raises(
        InvalidTransition, match=r"'claim' by 'bob' refused: held by 'ada', token 1"
    ):
        fired(claimed, "claim", "bob")
    with pytest.raises(InvalidTransition, match=r"\(held by 'ada', token 1\)"):
        fired(claimed, "accept", "bob")


def test_the_first_rule_whose_guard_agrees_decides() -> None:
    graded = Machine(
        "graded",
        "open",
        (
            Rule("grade", "open", "good", guard="high"),
            Rule("grade", "open", "poor"),
        ),
        ("good", "poor"),
    )
    guards = {"high": lambda state, data: data["score"] > 5}
    first = beginning(graded, "1")
    assert step(graded, first, "grade", "ada", {"score": 9}, guards).state == "good"
    assert step(graded, first, "grade", "ada", {"score": 1}, guards).state == "poor"
    with pytest.raises(UnknownMachine, match="'high', which this process lacks"):
        step(graded, first, "grade", "ada", {"score": 9}, {})


def rules(*given: Rule, initial: str = "a", final: tuple[str, ...] = ("z",)) -> Machine:
    return Machine("broken", initial, given, final)


@pytest.mark.parametrize(
    ("given_rules", "complaint"),
    [
        ((), "1 to 256 rules are needed, there are 0"),
        ((Rule("go", "a", "z"), Rule("x", "b", "z")), "state 'b' can't be reached from 'a'"),
        (
            (Rule("go", "a", "b"), Rule("go", "a", "z")),
            "has another rule after one without a guard",
        ),
        ((Rule("go", "a", "b"), Rule("end", "a", "z")), "'b' has no way out without an owner"),
        ((Rule("go", "a", "z"), Rule("go", "z", "a")), "final state 'z' has a rule for 'go'"),
        ((Rule("go", "a", "a"),), "state 'z' can't be reached"),
        ((Rule("go on", "a", "z"),), "'go on' is no event name"),
        ((Rule("go", "a", "z", guard="a b"),), "'a b' is no guard name"),
        ((Rule("go", "a", "z", "grab"),), "unknown ownership effect 'grab'"),  # type: ignore[arg-type]
        (
            (Rule("go", "a", "z"), Rule("drop", "a", "z", "release")),
            "rule 'drop' from 'a' can never fire: it needs an owner",
        ),
    ],
)
def test_a_definition_that_cannot_work_is_refused(
    given_rules: tuple[Rule, ...], complaint: str
) -> None:
    with pytest.raises(DefinitionError, match=r"machine 'broken': ") as refused:
        rules(*given_rules)
    assert complaint in str(refused.value)


def test_the_fingerprint_differs_where_the_definition_does() -> None:
    changed = dataclasses.replace(AUDIT, rules=(*AUDIT.rules, Rule("note", "claimed", "claimed")))
    assert AUDIT.fingerprint() == dataclasses.replace(AUDIT).fingerprint() != changed.fingerprint()


ACTORS = ("ada", "bob", "eve")
PATH = ("a", "b", "c", "d")


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """A way from a to d, which is final, and some other rules besides."""
    ways = [
        Rule("next", source, target, draw(st.sampled_from(("keep", "take", "clear"))))
        for source, target in itertools.pairwise(PATH)
    ]
    other = st.builds(
        Rule,
        st.sampled_from("xyz"),
        st.sampled_from(PATH[:-1]),
        st.sampled_from(PATH),
        st.sampled_from(EFFECTS),
        st.sampled_from(("", "even")),
    )
    others = draw(st.lists(other, max_size=8, unique_by=lambda rule: (rule.event, rule.source)))
    try:
        return Machine("random", "a", (*ways, *others), ("d",))
    except DefinitionError:  # a rule needs an owner where nobody can own
        return Machine("random", "a", tuple(ways), ("d",))


FIRES = st.tuples(
    st.sampled_from(("next", *"xyz")),
    st.sampled_from(ACTORS),
    st.dictionaries(st.just("n"), st.integers()),
)


@given(machines(), st.lists(FIRES, max_size=30))
def test_whatever_is_fired_the_laws_hold(
    machine: Machine, fires: list[tuple[str, str, dict[str, int]]]
) -> None:
    """Each decision raises the epoch by one and follows a rule; owners change only as rules say."""
    guards = {"even": lambda state, data: data.get("n", 0) % 2 == 0}
    state = beginning(machine, "1")
    for event, actor, data in fires:
        before = state
        try:
            state, rule = decide(machine, before, event, actor, data, guards)
        except CallerError:
            continue
        assert before.state not in machine.final, "a final state was left"
        assert rule in machine.rules
        assert (rule.event, rule.source, rule.target) == (event, before.state, state.state)
        assert state.epoch == before.epoch + 1
        assert before.token <= state.token <= state.epoch
        assert state.token in (before.token, state.epoch)
        if before.owner not in ("", actor):
            assert state.owner in (before.owner, ""), "an owner was replaced by another"
            assert rule.owner in ("keep", "clear")
        if state.owner != before.owner or rule.owner == "take":
            assert state.token == state.epoch, "ownership changed without a new token"
        assert (state.data | data) == state.data
