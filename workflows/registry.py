"""Machines, guards and actions by name: plain dictionaries that modules fill when they are
imported.

A process that fires events needs the definitions; a worker needs the guards and actions they name
(the definition itself travels to the workflow as data). Registering is pure and may be repeated
with the same value; a name never changes its meaning, because a running machine may be decided
again from its history: a changed guard or action gets a new name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from mesh.environment import Transition, UnknownMachine
from workflows.machine import DefinitionError, Guard, Machine

__all__ = ("Action", "action", "actions", "find", "guard", "guards", "machines", "register")

Action = Callable[[Transition], Awaitable[None]]
"""What follows a decision. Runs at least once, in order, after the decision stands; it can't undo
it.
"""

Named = TypeVar("Named")

machines: dict[str, Machine] = {}
guards: dict[str, Guard] = {}
actions: dict[str, Action] = {}


def register(machine: Machine) -> Machine:
    """Make a definition known by its name. Raises DefinitionError if the name means another one."""
    return _keep(machines, "machine", machine.name, machine)


def guard(name: str) -> Callable[[Guard], Guard]:
    """Decorator: register a guard. It must be pure and deterministic: it runs inside workflows."""
    return lambda function: _keep(guards, "guard", name, function)


def action(name: str) -> Callable[[Action], Action]:
    """Decorator: register an action. It must be idempotent: it runs at least once per decision."""
    return lambda function: _keep(actions, "action", name, function)


def find(name: str, known: Mapping[str, Machine] = machines) -> Machine:
    """The definition of that name. Raises UnknownMachine, naming those there are."""
    machine = known.get(name)
    if machine is None:
        there = ", ".join(sorted(known)) or "none"
        raise UnknownMachine(f"no machine definition {name!r} is registered; there are: {there}")
    return machine


def check_complete(machine: Machine) -> None:
    """Raises DefinitionError if this process lacks a guard or action that the definition names."""
    missing = [
        f"guard {rule.guard!r}" for rule in machine.rules if rule.guard and rule.guard not in guards
    ]
    missing += [
        f"action {name!r}" for rule in machine.rules for name in rule.actions if name not in actions
    ]
    if missing:
        raise DefinitionError(
            f"machine {machine.name!r} names what is not registered in this process: "
            + ", ".join(dict.fromkeys(missing))
        )


def _keep(table: dict[str, Named], kind: str, name: str, value: Named) -> Named:
    present = table.setdefault(name, value)
    if present != value:
        raise DefinitionError(
            f"{kind} {name!r} is already registered with another meaning; choose a new name"
        )
    return value
