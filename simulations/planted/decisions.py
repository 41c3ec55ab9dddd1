"""Bugs planted in what decides: for `planted`, each made from what is really there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from crdt.types.bounded import BoundedEditor
from workflows.decider import Decider
from workflows.machine import TOKEN, MachineState, Rule
from workflows.messages import Due, Fire

__all__ = ("acts_first", "forgets", "ignores_tokens", "needs_no_right", "never_fences")


def never_fences(real: Any) -> Any:
    """For `claims.fenced`: every token is as good as any other."""
    del real

    def fenced(current: int, token: int) -> bool:
        del current, token
        return False

    return fenced


def ignores_tokens(real: Any) -> Any:
    """For `machine._check_owner`: the name of an owner is enough."""

    def check(
        rule: Rule, state: MachineState, event: str, actor: str, data: Mapping[str, Any]
    ) -> None:
        named = {key: value for key, value in data.items() if key != TOKEN}
        real(rule, state, event, actor, named)

    return check


def forgets(memory: str) -> Callable[[Any], Any]:
    """For `Decider.fire`: a request that comes again is not in this memory."""

    def make(real: Any) -> Any:
        def fire(self: Decider, fire: Fire) -> Any:
            getattr(self, memory).pop(fire.request, None)
            return real(self, fire)

        return fire

    return make


def acts_first(real: Any) -> Any:
    """For `Decider._decide`: actions are on their way before it is known whether they may be."""

    def decide(self: Decider, fire: Fire) -> Any:
        now = self.state
        for rule in self._definition.rules_of(fire.event, now.state):
            expected = dataclasses.replace(
                now, state=rule.target, epoch=now.epoch + 1, event=fire.event, source=now.state
            )
            self.due.extend(Due(action, expected) for action in rule.actions)
        return real(self, fire)

    return decide


def needs_no_right(real: Any) -> Any:
    """For `BoundedEditor._need`: a session spends what is there, whoever has the right to it."""
    del real

    def need(self: BoundedEditor, amount: int, verb: str) -> None:
        del self, amount, verb

    return need
