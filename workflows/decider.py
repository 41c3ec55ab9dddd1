"""One running machine without its surroundings: what is decided, answered and owed. Pure.

The Temporal workflow and the in-memory coordinator both decide through this, so they can't
disagree.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TypeVar

from crdt.errors import CallerError, InvalidValue
from mesh.environment import InvalidTransition
from workflows import registry
from workflows.machine import DefinitionMismatch, MachineState, Rule, decide
from workflows.messages import (
    MAX_ANSWERS,
    MAX_DUE,
    MAX_REASON,
    Answer,
    Due,
    Fire,
    Refusal,
    Start,
)

__all__ = ("REMEMBERED", "Decider")

T = TypeVar("T")
REMEMBERED: tuple[type[CallerError], ...] = (InvalidTransition, InvalidValue)
"""Refusals that rest on where a machine stands: a late copy of the request might be decided."""


class Decider:
    """Decides the events of one machine in the order of its calls; each request id once."""

    def __init__(self, start: Start) -> None:
        self._definition = start.machine
        self._fingerprint = start.machine.fingerprint()
        self._answers = {answer.request: answer.state for answer in start.answers}
        self._refusals = {refusal.request: refusal for refusal in start.refusals}
        self._history_limit = start.history_limit
        self.state = start.state
        self.due = deque(start.due)

    def __repr__(self) -> str:
        state = self.state
        return f"<Decider {state.machine}/{state.id} {state.state!r}, epoch {state.epoch}>"

    @property
    def ended(self) -> bool:
        """Whether a final state is reached."""
        return self.state.state in self._definition.final

    def answer(self, request: str) -> MachineState | None:
        """What was decided for that request, if it was and is still remembered."""
        return self._answers.get(request)

    def check(self, fire: Fire) -> None:
        """Raises the CallerError of what is refused wherever a machine stands; changes nothing."""
        if fire.request not in self._answers:
            with contextlib.suppress(*REMEMBERED):
                self._decide(fire)

    def fire(self, fire: Fire) -> MachineState:
        """Decide one event, or repeat what a request was told before. Raises CallerError."""
        answered = self._answers.get(fire.request)
        if answered is not None:
            return answered
        refused = self._refusals.get(fire.request)
        if refused is not None:
            kinds = {kind.__name__: kind for kind in REMEMBERED}
            raise kinds[refused.kind](refused.reason)
        try:
            after, rule = self._decide(fire)
        except REMEMBERED as error:
            refusal = Refusal(fire.request, type(error).__name__, str(error)[:MAX_REASON])
            _remember(self._refusals, fire.request, refusal)
            raise
        self.state = after
        _remember(self._answers, fire.request, after)
        self.due.extend(Due(action, after) for action in rule.actions)
        return after

    def resumed(self) -> Start:
        """What a successor needs to go on from here."""
        answers = tuple(Answer(request, state) for request, state in self._answers.items())
        refusals = tuple(self._refusals.values())
        return Start(
            self._definition, self.state, answers, tuple(self.due), self._history_limit, refusals
        )

    def _decide(self, fire: Fire) -> tuple[MachineState, Rule]:
        where = f"{self.state.machine}/{self.state.id}"
        if fire.definition != self._fingerprint:
            raise DefinitionMismatch(
                f"{where} runs under another definition of {self.state.machine!r} "
                f"({self._fingerprint[:8]}) than the caller's ({fire.definition[:8]}); "
                "give a changed definition a new name"
            )
        decided = decide(
            self._definition, self.state, fire.event, fire.actor, fire.data, registry.guards
        )
        if len(self.due) + len(decided[1].actions) > MAX_DUE:
            raise InvalidTransition(
                f"{where}: {len(self.due)} actions are still to be done; "
                "is a worker running that has them?"
            )
        return decided


def _remember(memory: dict[str, T], request: str, said: T) -> None:
    memory[request] = said
    if len(memory) > MAX_ANSWERS:
        del memory[next(iter(memory))]
