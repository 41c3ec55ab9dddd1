"""State machines as data, and the pure step that decides one event.

Theory of operation
===================

A `Machine` is a table of rules. A rule says: in state `source`, event `event` leads to `target`;
what that does to the ownership of the machine; which guard must agree; which actions follow. `step`
looks the event up, checks ownership and guard, and gives the next `MachineState` or raises
`InvalidTransition`. It has no side effects and depends on nothing but its arguments, so that a
Temporal workflow, a simulation and a unit test decide alike.

Every decision raises the *epoch* by exactly one. The epoch orders the decisions of a machine
wherever they arrive late or twice. The epoch of the last change of ownership is the *fencing token*
(M. Kleppmann, "How to do distributed locking", 2016): a holder that was believed dead and comes
back has a lower one than what is valid now, whether somebody else holds the machine, nobody does,
or a new process that bears the same name.

Ownership effects of a rule:

    keep      anybody may fire; the owner stays who he is
    take      the actor becomes the owner, with a new token; refused while another is
    require   only the owner may fire; he stays the owner
    release   only the owner may fire; nobody owns the machine afterwards
    clear     anybody may fire; nobody owns the machine afterwards (expiry, an operator's hand)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from crdt.errors import CallerError, InvalidId, InvalidValue
from mesh.environment import InvalidTransition, Transition, UnknownMachine

__all__ = (
    "DefinitionError",
    "DefinitionMismatch",
    "Guard",
    "Machine",
    "MachineState",
    "Rule",
    "beginning",
    "check_data",
    "check_name",
    "decide",
    "step",
)

Effect = Literal["keep", "take", "require", "release", "clear"]
EFFECTS: tuple[Effect, ...] = ("keep", "take", "require", "release", "clear")
OWNED_ONLY: tuple[Effect, ...] = ("require", "release")

MAX_RULES = 256
MAX_NAME = 128
MAX_ID = 512
MAX_DATA_BYTES = 8_192
"""Of a machine's data as JSON: 64 remembered answers stay far below Temporal's payload limit of 2
MB.
"""

TOKEN = "token"  # noqa: S105  the key under which `data` carries the fencing token
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class DefinitionError(CallerError):
    """A machine definition that can't work; the message lists everything that is wrong with it."""


class DefinitionMismatch(UnknownMachine):
    """A machine runs under another definition of its name than the caller has.

    Running machines keep the definition they were started with. Give a changed definition a new
    name.
    """


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a machine's table. Rules of the same (event, source) are tried in order."""

    event: str
    source: str
    target: str
    owner: Effect = "keep"
    guard: str = ""
    actions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """A definition: plain frozen data, validated when it is made. Raises DefinitionError."""

    name: str
    initial: str
    rules: tuple[Rule, ...]
    final: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        found = list(_problems(self))
        if found:
            raise DefinitionError(f"machine {self.name!r}: " + "; ".join(found))

    def rules_of(self, event: str, source: str) -> list[Rule]:
        """The rules that could decide `event` in `source`, in order."""
        return [rule for rule in self.rules if rule.event == event and rule.source == source]

    def events_from(self, source: str) -> list[str]:
        """The events that `source` knows, in the order of the table."""
        return list(dict.fromkeys(rule.event for rule in self.rules if rule.source == source))

    def fingerprint(self) -> str:
        """32 hex digits that differ where the definition differs."""
        plain = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(plain.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class MachineState:
    """Where one machine stands, and the decision that brought it there.

    `data` is what all events so far carried, later values over earlier ones. `token` is the epoch
    of the last change of ownership, 0 before the first.
    """

    machine: str
    id: str
    state: str
    epoch: int = 0
    owner: str = ""
    token: int = 0
    event: str = ""
    source: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    def transition(self) -> Transition:
        """The last decision, as the Coordinator port tells it; `data` names the token once there is
        one.
        """
        data = {**self.data, TOKEN: self.token} if self.token else dict(self.data)
        return Transition(
            machine=self.machine,
            id=self.id,
            event=self.event,
            source=self.source,
            target=self.state,
            epoch=self.epoch,
            owner=self.owner,
            data=data,
        )


Guard = Callable[[MachineState, Mapping[str, Any]], bool]
"""Decides from (state before the event, the event's data) and from nothing else."""


def beginning(definition: Machine, id: str) -> MachineState:
    """A machine before its first decision. Raises InvalidId if the id can't be one."""
    check_name(f"{definition.name}/{id!r}", "machine id", id, MAX_ID)
    return MachineState(definition.name, id, definition.initial)


def check_name(where: str, kind: str, name: str, most: int = MAX_NAME) -> None:
    """Raises InvalidId unless `name` is printable and 1 to `most` bytes long in UTF-8."""
    if not name or not name.isprintable() or len(name.encode()) > most:
        raise InvalidId(f"{where}: {kind} {name!r} must be printable, 1 to {most} bytes in UTF-8")


def step(
    definition: Machine,
    state: MachineState,
    event: str,
    actor: str,
    data: Mapping[str, Any],
    guards: Mapping[str, Guard],
) -> MachineState:
    """Decide one event: the next state, with the epoch one higher. Pure.

    If `data` names a `token`, it must be the present one wherever ownership is needed. Raises
    InvalidTransition (the message says what would be possible), InvalidId, InvalidValue, and
    UnknownMachine if this process lacks a guard that the definition names.
    """
    return decide(definition, state, event, actor, data, guards)[0]


def decide(
    definition: Machine,
    state: MachineState,
    event: str,
    actor: str,
    data: Mapping[str, Any],
    guards: Mapping[str, Guard],
) -> tuple[MachineState, Rule]:
    """`step`, together with the rule that decided (its actions are to follow)."""
    where = f"{state.machine}/{state.id}"
    check_name(where, "actor", actor)
    if state.state in definition.final:
        raise InvalidTransition(
            f"{where}: no transition {event!r} from {state.state!r}, which is final{_held(state)}"
        )
    candidates = definition.rules_of(event, state.state)
    if not candidates:
        possible = ", ".join(definition.events_from(state.state))
        raise InvalidTransition(
            f"{where}: no transition {event!r} from {state.state!r}; from {state.state!r} "
            f"there are: {possible}{_held(state)}"
        )
    rule = _agreed(definition, candidates, state, data, guards)
    _check_owner(rule, state, event, actor, data)
    epoch = state.epoch + 1
    owner, token = _ownership(rule, state, actor, epoch)
    merged = {**state.data, **{key: value for key, value in data.items() if key != TOKEN}}
    check_data(where, merged)
    after = MachineState(
        state.machine, state.id, rule.target, epoch, owner, token, event, state.state, merged
    )
    return after, rule


def check_data(where: str, data: Mapping[str, Any]) -> None:
    """Raises InvalidValue unless `data` survives JSON unchanged and is small enough."""
    try:
        text = json.dumps(dict(data), allow_nan=False)
        same = json.loads(text) == data
    except (TypeError, ValueError) as error:
        raise InvalidValue(f"{where}: data is not plain JSON: {error}") from error
    if not same:
        raise InvalidValue(f"{where}: data is not plain JSON: use str keys, lists and no tuples")
    if len(text) > MAX_DATA_BYTES:
        raise InvalidValue(
            f"{where}: {len(text)} bytes of data, at most {MAX_DATA_BYTES} are kept by a machine; "
            "put the bulk in a document and its id here"
        )


def _held(state: MachineState) -> str:
    return f" (held by {state.owner!r}, token {state.token})" if state.owner else ""


def _agreed(
    definition: Machine,
    candidates: list[Rule],
    state: MachineState,
    data: Mapping[str, Any],
    guards: Mapping[str, Guard],
) -> Rule:
    """The first candidate whose guard agrees."""
    for rule in candidates:
        if not rule.guard:
            return rule
        guard = guards.get(rule.guard)
        if guard is None:
            raise UnknownMachine(
                f"machine {definition.name!r} names the guard {rule.guard!r}, which this process "
                "lacks: load the module that registers it"
            )
        if guard(state, data):
            return rule
    refused = ", ".join(rule.guard for rule in candidates)
    raise InvalidTransition(
        f"{state.machine}/{state.id}: {candidates[0].event!r} from {state.state!r} was refused by "
        f"guard: {refused}"
    )


def _check_owner(
    rule: Rule, state: MachineState, event: str, actor: str, data: Mapping[str, Any]
) -> None:
    where = f"{state.machine}/{state.id}"
    if rule.owner in ("take", *OWNED_ONLY) and state.owner not in ("", actor):
        raise InvalidTransition(
            f"{where}: {event!r} by {actor!r} refused: held by {state.owner!r}, token {state.token}"
        )
    if rule.owner in OWNED_ONLY:
        if not state.owner:
            raise InvalidTransition(f"{where}: {event!r} by {actor!r} refused: nobody holds it")
        token = data.get(TOKEN, state.token)
        if token != state.token:
            raise InvalidTransition(
                f"{where}: {event!r} by {actor!r} refused: token {token!r} is not the present one, "
                f"{state.token}"
            )


def _ownership(rule: Rule, state: MachineState, actor: str, epoch: int) -> tuple[str, int]:
    if rule.owner == "take":
        return actor, epoch
    if rule.owner in ("release", "clear"):
        return "", epoch
    return state.owner, state.token


def _problems(machine: Machine) -> list[str]:
    """Everything that is wrong with a definition, in words."""
    found: list[str] = []
    if not machine.rules or len(machine.rules) > MAX_RULES:
        return [f"1 to {MAX_RULES} rules are needed, there are {len(machine.rules)}"]
    names = {"machine": [machine.name], "state": [machine.initial, *machine.final]}
    names["state"] += [name for rule in machine.rules for name in (rule.source, rule.target)]
    names["event"] = [rule.event for rule in machine.rules]
    names["guard"] = [rule.guard for rule in machine.rules if rule.guard]
    names["action"] = [action for rule in machine.rules for action in rule.actions]
    for kind, given in names.items():
        found += [
            f"{name!r} is no {kind} name (letters, digits, '_', '.', '-'; at most {MAX_NAME})"
            for name in dict.fromkeys(given)
            if not NAME.fullmatch(name) or len(name) > MAX_NAME
        ]
    found += [
        f"rule {rule.event!r} from {rule.source!r}: unknown ownership effect {rule.owner!r}, "
        f"there are: {', '.join(EFFECTS)}"
        for rule in machine.rules
        if rule.owner not in EFFECTS
    ]
    return found or _structure(machine)


def _structure(machine: Machine) -> list[str]:
    """Contradictions between rules, and states and rules that no run can reach."""
    found: list[str] = []
    closed: set[tuple[str, str]] = set()
    for rule in machine.rules:
        if rule.source in machine.final:
            found.append(f"final state {rule.source!r} has a rule for {rule.event!r}")
        if (rule.event, rule.source) in closed:
            found.append(
                f"event {rule.event!r} from {rule.source!r} has another rule after one without "
                "a guard; only the last may be without"
            )
        if not rule.guard:
            closed.add((rule.event, rule.source))
    reached = _reachable(machine)
    states = dict.fromkeys(
        name for rule in machine.rules for name in (rule.source, rule.target)
    ) | dict.fromkeys(machine.final)
    seen = {state for state, _ in reached}
    found += [
        f"state {state!r} can't be reached from {machine.initial!r}"
        for state in states
        if state not in seen
    ]
    for state, owned in sorted(reached):
        if state not in machine.final and not _fireable(machine, state, owned):
            found.append(
                f"state {state!r} has no way out {'with' if owned else 'without'} an owner "
                "and is not final"
            )
    found += [
        f"rule {rule.event!r} from {rule.source!r} can never fire: it needs an owner, "
        "and nobody can own the machine there"
        for rule in machine.rules
        if rule.owner in OWNED_ONLY and rule.source in seen and (rule.source, True) not in reached
    ]
    return found


def _fireable(machine: Machine, state: str, owned: bool) -> list[Rule]:
    return [
        rule
        for rule in machine.rules
        if rule.source == state and (owned or rule.owner not in OWNED_ONLY)
    ]


def _reachable(machine: Machine) -> set[tuple[str, bool]]:
    """Every (state, is somebody the owner) that some run can come to; guards are taken to agree."""
    reached = {(machine.initial, False)}
    todo = deque(reached)
    while todo:
        state, owned = todo.popleft()
        for rule in _fireable(machine, state, owned):
            after = rule.owner == "take" or (owned and rule.owner in ("keep", "require"))
            if (rule.target, after) not in reached:
                reached.add((rule.target, after))
                todo.append((rule.target, after))
    return reached
