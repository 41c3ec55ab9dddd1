"""Names and what they mean: once, and completely."""

from __future__ import annotations

import pytest

from mesh.environment import UnknownMachine
from workflows import registry
from workflows.machine import DefinitionError, Machine, Rule

from .world import AUDIT, NOTIFYING


def test_registering_again_is_harmless_and_changing_is_refused() -> None:
    assert registry.register(AUDIT) is AUDIT
    changed = Machine(AUDIT.name, "queued", (Rule("claim", "queued", "done"),), ("done",))
    with pytest.raises(DefinitionError, match="machine 'code-audit' is already registered"):
        registry.register(changed)
    assert registry.find(AUDIT.name) is AUDIT


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        UnknownMachine, match=r"'code-audti' is registered; there are: .*code-audit"
    ):
        registry.find("code-audti")


def test_missing_guards_and_actions_are_named() -> None:
    registry.check_complete(NOTIFYING)
    lacking = Machine(
        "lacking",
        "a",
        (Rule("go", "a", "z", guard="nowhere", actions=("test.record", "test.nothing")),),
        ("z",),
    )
    with pytest.raises(DefinitionError, match=r"guard 'nowhere', action 'test\.nothing'"):
        registry.check_complete(lacking)
