"""Registered actions as Temporal activities: the activity type is the action's name."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from temporalio import activity

from workflows.machine import MachineState
from workflows.registry import Action

Activity = Callable[[MachineState], Coroutine[Any, Any, None]]


def activities(actions: Mapping[str, Action]) -> list[Activity]:
    """One activity for each action, in the order of their names."""
    return [_activity(name, actions[name]) for name in sorted(actions)]


def _activity(name: str, action: Action) -> Activity:
    @activity.defn(name=name)
    async def perform(state: MachineState) -> None:
        await action(state.transition())

    return perform
