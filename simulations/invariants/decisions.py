"""What must hold of decisions: one class for each family, judged by what their askers saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from mesh.environment import Transition
from simulations.agents.claimants import (
    EFFECTS,
    MACHINES,
    PURSE,
    Affair,
    History,
    Operation,
    Purse,
    document_of,
)
from simulations.checkers import Evidence
from simulations.invariants.base import Checker
from simulations.invariants.linearizable import NEVER, Call, Undecidable, unexplained
from simulations.ports.coordination import Commit
from workflows.machine import TOKEN, Machine
from workflows.publish import decision_value

if TYPE_CHECKING:
    from simulations.world import World

__all__ = ("decision_checkers",)

LOOKED_AT = 8
"""Of how many machines replicas are looked at every now and then: those asked for last."""


class _Judge(Checker):
    """A checker that knows what was asked, and what was decided."""

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world)
        self._history = history

    def _commits(self, key: str) -> Sequence[Commit]:
        return self.world.services.temporal_server.commits.get(key, ())


class OneWinner(_Judge):
    """One version of a machine is one decision, for one request, and one request is decided once,
    or never where its asker was told that it is refused; all who are told of it are told the same.
    """

    def end(self, found: Sequence[Evidence]) -> None:
        """See `Checker.end`."""
        del found
        for key, operations in self._history.operations.items():
            told: dict[int, Transition] = {}
            winners: dict[int, str] = {}
            decided: dict[str, int] = {}
            for commit in self._commits(key):
                self._judge(key, winners, decided, commit.fire.request, commit.state.epoch)
                told.setdefault(commit.state.epoch, commit.state.transition())
            for one in operations:
                if one.answer is None:
                    if one.ended < NEVER and one.request in decided:
                        self.wrong(f"{key}: {one}, but decided as epoch {decided[one.request]}")
                    continue
                if one.event:
                    self._judge(key, winners, decided, one.request, one.answer.epoch)
                known = told.setdefault(one.answer.epoch, one.answer)
                if known != one.answer:
                    self.wrong(f"{key}: {one} was told {one.answer}, others {known}")

    def _judge(
        self, key: str, winners: dict[int, str], decided: dict[str, int], request: str, epoch: int
    ) -> None:
        winner = winners.setdefault(epoch, request)
        if winner != request:
            self.wrong(f"{key}: epoch {epoch} was won by {winner} and by {request}")
        first = decided.setdefault(request, epoch)
        if first != epoch:
            self.wrong(f"{key}: request {request} was decided as epoch {first} and {epoch}")


class OneOrder(_Judge):
    """What a replica shows of a machine is where a prefix of its decisions leads, and while the
    replica runs, never a shorter one.
    """

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        self._seen: dict[tuple[str, int, str], int] = {}

    def look(self) -> None:
        """See `Checker.look`. Of old machines little is new; they are judged at the end."""
        self._judge(list(self._history.operations)[-LOOKED_AT:])

    def end(self, found: Sequence[Evidence]) -> None:
        """See `Checker.end`."""
        del found
        self._judge(list(self._history.operations))

    def _judge(self, keys: Sequence[str]) -> None:
        for host in self.world.up:
            assert host.replica is not None
            for key in keys:
                name = document_of(key)
                shard = self.spoiled.of(f"{Affair.__name__}/{name}")
                affair = host.replica.get(Affair, name)
                epoch = 0 if affair is None else affair.decision.epoch
                seen = host.name, host.runs, key
                before = self._seen.get(seen, 0)
                if epoch < before:
                    self.wrong(
                        f"{host.name} showed epoch {before} of {key}, and shows {epoch}", shard
                    )
                if affair is None or epoch == before:
                    continue
                self._seen[seen] = epoch
                commits = self._commits(key)
                decided = commits[epoch - 1].state.transition() if epoch <= len(commits) else None
                if decided is None or affair.decision.value != decision_value(decided):
                    self.wrong(
                        f"{host.name} shows {affair.decision.value} as epoch {epoch} of {key}, "
                        f"which was decided as {decided}",
                        shard,
                    )


class Fencing(_Judge):
    """A token that is out of date is accepted nowhere: by no keeper that has seen a higher one, and
    by no machine whose owner has changed since.
    """

    def end(self, found: Sequence[Evidence]) -> None:
        """See `Checker.end`."""
        del found
        highest: dict[str, int] = {}
        for thing, token in self._history.kept:
            if token < highest.get(thing, 0):
                self.wrong(f"the keeper of {thing} took token {token} after {highest[thing]}")
            highest[thing] = max(token, highest.get(thing, 0))
        for key in self._history.operations:
            present = 0
            for commit in self._commits(key):
                shown = commit.fire.data.get(TOKEN, present)
                if shown != present:
                    self.wrong(
                        f"{key}: {commit.fire.event} by {commit.fire.actor} under token {shown} "
                        f"was accepted while {present} was valid"
                    )
                present = commit.state.token


class NoEffectBeforeCommit(_Judge):
    """An action is performed for decisions only, and when they stand."""

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        world.services.temporal_server.context.run(EFFECTS.set, self.effect)

    def effect(self, transition: Transition) -> None:
        """An action is performed."""
        key = f"{transition.machine}/{transition.id}"
        commits = self._commits(key)
        epoch = transition.epoch
        if epoch > len(commits) or commits[epoch - 1].state.transition() != transition:
            self.wrong(f"{key}: an action was performed for {transition}, which was not decided")


class _Stand(NamedTuple):
    """Where a machine stands, by the specification."""

    state: str
    owner: str = ""
    token: int = 0
    epoch: int = 0


class Linearizable(_Judge):
    """Answers about a machine are those of one that decides each question at one instant between
    its asking and its answer.
    """

    def end(self, found: Sequence[Evidence]) -> None:
        """See `Checker.end`."""
        del found
        for key, operations in self._history.operations.items():
            machine = MACHINES[key.partition("/")[0]]
            calls = [
                Call(one.began, one.ended, one, idle=one.answer is None or not one.event)
                for one in operations
                if one.event or one.ended < NEVER
            ]
            after: Callable[[_Stand, Operation], _Stand | None] = partial(_after, machine)
            try:
                stuck = unexplained(calls, _Stand(machine.initial), after)
            except Undecidable as error:
                self.wrong(f"{key}: {error}")
                continue
            if stuck:
                shown = "; ".join(str(call.what) for call in stuck)
                self.wrong(
                    f"{key}: no order explains the answers; none of these can be next: {shown}"
                )


def _after(machine: Machine, now: _Stand, asked: Operation) -> _Stand | None:
    """The specification of a machine that fences; it shares no code with what it judges."""
    answer = asked.answer
    if not asked.event:
        return now if (0 if answer is None else answer.epoch) == now.epoch else None
    then = _decided(machine, now, asked)
    if asked.ended == NEVER:
        return then
    if answer is None or then is None:
        return now if answer is None and then is None else None
    told = _Stand(answer.target, answer.owner, answer.data.get(TOKEN, 0), answer.epoch)
    return then if told == then else None


def _decided(machine: Machine, now: _Stand, asked: Operation) -> _Stand | None:
    """Where an event leads; None: it must be refused."""
    for rule in machine.rules:
        if (rule.event, rule.source) == (asked.event, now.state):
            break
    else:
        return None
    epoch, owns = now.epoch + 1, now.owner == asked.actor
    if rule.owner == "take":
        return _Stand(rule.target, asked.actor, epoch, epoch) if owns or not now.owner else None
    if rule.owner in ("require", "release") and not (owns and asked.token in (0, now.token)):
        return None
    if rule.owner in ("release", "clear"):
        return _Stand(rule.target, "", epoch, epoch)
    return _Stand(rule.target, now.owner, now.token, epoch)


class NeverOverdrawn(_Judge):
    """A budget is never below its bound, on any side of any partition."""

    def look(self) -> None:
        """See `Checker.look`."""
        shard = self.spoiled.of(f"{Purse.__name__}/{PURSE}")
        for host in self.world.up:
            assert host.replica is not None
            purse = host.replica.get(Purse, PURSE)
            if purse is not None and purse.money.value < purse.money.bound:
                self.wrong(f"{host.name}: {purse.money!r}", shard)


def decision_checkers(world: World, history: History) -> list[Checker]:
    """All of them, for a world with a coordinator."""
    every = (OneWinner, OneOrder, Fencing, NoEffectBeforeCommit, Linearizable, NeverOverdrawn)
    return [each(world, history) for each in every]
