"""What one machine remembers: answers and refusals, each by its request, also across its runs."""

from __future__ import annotations

import pytest

from mesh.environment import InvalidTransition
from workflows.claims import EXCLUSIVE
from workflows.decider import Decider
from workflows.machine import beginning
from workflows.messages import MAX_ANSWERS, Fire, Start


def begun() -> Decider:
    return Decider(Start(EXCLUSIVE, beginning(EXCLUSIVE, "1")))


def fire(event: str, actor: str, request: str) -> Fire:
    return Fire(event, actor, request, EXCLUSIVE.fingerprint())


@pytest.mark.parametrize("continued", [False, True])
def test_a_late_copy_of_a_refused_request_is_refused_when_the_resource_is_free(
    continued: bool,
) -> None:
    decider = begun()
    decider.fire(fire("claim", "ada", "one"))
    late = fire("claim", "bob", "bob's")
    with pytest.raises(InvalidTransition, match="held by 'ada'"):
        decider.fire(late)
    decider.fire(fire("release", "ada", "two"))
    if continued:
        decider = Decider(decider.resumed())
    with pytest.raises(InvalidTransition, match="held by 'ada'"):
        decider.fire(late)
    assert (decider.state.owner, decider.state.epoch) == ("", 2)
    assert decider.fire(fire("claim", "bob", "bob's next")).owner == "bob"


def test_refusals_do_not_crowd_out_answers() -> None:
    decider = begun()
    first = decider.fire(fire("claim", "ada", "one"))
    for number in range(2 * MAX_ANSWERS):
        with pytest.raises(InvalidTransition):
            decider.fire(fire("claim", "bob", f"bob's {number}"))
    assert decider.fire(fire("claim", "ada", "one")) == first
