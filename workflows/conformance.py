"""What every coordinator must do, as one function that any test runner (or none) can call.

    await check_coordinator(make, run)

`make(machines)` gives a coordinator that knows these definitions; all that it gives within one run
decide for the same mesh. `run` keeps the machines of one run apart from those of another. Raises
AssertionError naming the guarantee that does not hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from crdt.errors import CallerError, InvalidId, InvalidValue
from mesh.environment import (
    Coordinator,
    CoordinatorUnavailable,
    InvalidTransition,
    Transition,
    UnknownMachine,
)
from workflows.claims import token_of
from workflows.machine import MAX_DATA_BYTES, DefinitionMismatch, Machine, MachineState, Rule
from workflows.registry import guard

__all__ = ("JOB", "Make", "check_coordinator")

Make = Callable[[Mapping[str, Machine]], Awaitable[Coordinator]]

CROWD = 12
"""Actors after one claim; more than the updates Temporal has in flight for one workflow."""


@guard("conformance.two-approvals")
def _two_approvals(state: MachineState, data: Mapping[str, Any]) -> bool:
    return bool({**state.data, **data}.get("approvals", 0) >= 2)


JOB = Machine(
    "conformance.job",
    "queued",
    (
        Rule("claim", "queued", "claimed", "take"),
        Rule("claim", "claimed", "claimed", "take"),
        Rule("note", "claimed", "claimed", "keep"),
        Rule("submit", "claimed", "submitted", "require"),
        Rule("drop", "claimed", "queued", "release"),
        Rule("expire", "claimed", "queued", "clear"),
        Rule("accept", "submitted", "accepted", "keep", guard="conformance.two-approvals"),
    ),
    ("accepted",),
)
OTHER_JOB = Machine(JOB.name, "queued", (Rule("claim", "queued", "done"),), ("done",))


async def check_coordinator(make: Make, run: str) -> None:
    """Run all checks, each on a machine of its own."""
    coordinator = await make({JOB.name: JOB})
    try:
        for check in (
            _check_first,
            _check_unknown,
            _check_refused_first,
            _check_repeated,
            _check_refused_stays_refused,
            _check_crowd,
            _check_same_request_at_once,
            _check_claims,
            _check_tokens,
            _check_guard_and_data,
            _check_final,
            _check_malformed,
        ):
            await check(_Job(coordinator, f"{run}:{check.__name__}"))
        await _check_definitions(make, _Job(coordinator, f"{run}:definitions"))
        assert coordinator.health().state == "ok", f"not ok after all: {coordinator.health()}"
    finally:
        await coordinator.close()
    await coordinator.close()
    await _refused(CoordinatorUnavailable, coordinator.state(JOB.name, f"{run}:closed"))
    assert coordinator.health().state == "off", "a closed coordinator is not off"


class _Job:
    """One machine under test, with request ids of its own."""

    def __init__(self, coordinator: Coordinator, name: str) -> None:
        self.coordinator = coordinator
        self.name = name
        self._requests = 0

    def fire(
        self, event: str, actor: str, request: str = "", **data: object
    ) -> Awaitable[Transition]:
        self._requests += 1
        return self.coordinator.fire(
            JOB.name,
            self.name,
            event,
            actor=actor,
            request=request or f"{self.name}#{self._requests}",
            data=data,
        )

    def state(self) -> Awaitable[Transition]:
        return self.coordinator.state(JOB.name, self.name)


async def _refused(kind: type[Exception], call: Awaitable[object], *words: str) -> None:
    try:
        result = await call
    except kind as refusal:
        said = str(refusal)
    else:
        raise AssertionError(f"{kind.__name__} expected, but the answer was {result}")
    missing = [word for word in words if word not in said]
    assert not missing, f"the refusal does not say {missing}: {said}"


async def _check_first(job: _Job) -> None:
    decided = await job.fire("claim", "ada", part="json")
    expected = Transition(
        JOB.name, job.name, "claim", "queued", "claimed", 1, "ada", {"part": "json", "token": 1}
    )
    assert decided == expected, f"the first decision is {decided}, not {expected}"
    assert await job.state() == decided, "state is not the last decision"


async def _check_unknown(job: _Job) -> None:
    coordinator = job.coordinator
    await _refused(UnknownMachine, job.state(), job.name)
    await _refused(UnknownMachine, coordinator.state("nothing", "1"), "nothing", JOB.name)
    fired = coordinator.fire("nothing", "1", "claim", actor="ada", request="r")
    await _refused(UnknownMachine, fired, "nothing", JOB.name)


async def _check_refused_first(job: _Job) -> None:
    words = (f"{JOB.name}/{job.name}", "no transition 'submit' from 'queued'", "there are: claim")
    await _refused(InvalidTransition, job.fire("submit", "ada"), *words)
    await _refused(UnknownMachine, job.state())


async def _check_repeated(job: _Job) -> None:
    first = await job.fire("claim", "ada", request="one")
    assert await job.fire("claim", "ada", request="one") == first, "a repeat is answered otherwise"
    await job.fire("note", "bob", request="two")
    last = await job.fire("drop", "ada", request="three")
    assert last.epoch == 3, "a repeat was decided again"
    assert await job.fire("claim", "ada", request="one") == first, "an old repeat is forgotten"
    assert await job.state() == last, "a repeat changed the state"
    await _refused(InvalidTransition, job.fire("note", "ada", request="one"), "'one'", "'claim'")


async def _check_refused_stays_refused(job: _Job) -> None:
    """A copy of a request may come late: who was told that it is refused has not got it then."""
    early = job.fire("submit", "bob", request="early")
    await _refused(InvalidTransition, early, "no transition 'submit' from 'queued'")
    await job.fire("claim", "ada")
    await _refused(InvalidTransition, job.fire("claim", "bob", request="late"), "'ada'")
    await job.fire("drop", "ada")
    await _refused(InvalidTransition, job.fire("claim", "bob", request="late"), "'ada'")
    taken = await job.fire("claim", "bob")
    assert (taken.owner, taken.epoch) == ("bob", 3), "a refused request was decided later"
    early = job.fire("submit", "bob", request="early")
    await _refused(InvalidTransition, early, "no transition 'submit' from 'queued'")
    assert await job.state() == taken, "what was refused before the machine began was decided later"


async def _check_crowd(job: _Job) -> None:
    calls = [job.fire("claim", f"actor-{number}") for number in range(CROWD)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    won = [result for result in results if isinstance(result, Transition)]
    assert len(won) == 1, f"{len(won)} of {CROWD} have the claim: {results}"
    for result in results:
        if result is not won[0]:
            assert isinstance(result, InvalidTransition), f"not refused but {result!r}"
            assert won[0].owner in str(result), f"the holder is not named: {result}"
    assert (await job.state()).owner == won[0].owner, "the winner does not hold it"


async def _check_same_request_at_once(job: _Job) -> None:
    calls = [job.fire("claim", "ada", request="same") for _ in range(4)]
    first, *others = await asyncio.gather(*calls)
    assert all(other == first for other in others), "one request was answered in several ways"
    assert (await job.state()).epoch == 1, "one request was decided several times"


async def _check_claims(job: _Job) -> None:
    first = await job.fire("claim", "ada")
    again = await job.fire("claim", "ada")
    assert token_of(again) == again.epoch == first.epoch + 1, "a renewed claim has no new token"
    await _refused(InvalidTransition, job.fire("claim", "bob"), "'ada'", f"token {again.epoch}")
    await _refused(InvalidTransition, job.fire("submit", "bob"), "'ada'")
    await _refused(InvalidTransition, job.fire("drop", "bob"), "'ada'")
    expired = await job.fire("expire", "operator")
    assert expired.owner == "", "expiry leaves an owner"
    taken = await job.fire("claim", "bob")
    assert (taken.owner, taken.epoch) == ("bob", 4), "what was freed can't be claimed"
    dropped = await job.fire("drop", "bob")
    assert (dropped.owner, dropped.target) == ("", "queued"), "release leaves an owner"


async def _check_tokens(job: _Job) -> None:
    old = token_of(await job.fire("claim", "ada"))
    new = token_of(await job.fire("claim", "ada"))
    await job.fire("note", "bob")
    await _refused(InvalidTransition, job.fire("submit", "ada", token=old), str(old), str(new))
    submitted = await job.fire("submit", "ada", token=new)
    assert (submitted.epoch, token_of(submitted)) == (4, new), "a token moved without an owner"


async def _check_guard_and_data(job: _Job) -> None:
    await job.fire("claim", "ada", approvals=1, part="json")
    await job.fire("submit", "ada", report={"lines": [1, 2]})
    await _refused(InvalidTransition, job.fire("accept", "boss"), "conformance.two-approvals")
    accepted = await job.fire("accept", "boss", approvals=2)
    kept = {"approvals": 2, "part": "json", "report": {"lines": [1, 2]}, "token": 1}
    assert accepted.data == kept, f"data was not kept: {accepted.data}"
    assert accepted.owner == "ada", "keeping the owner changed it"


async def _check_final(job: _Job) -> None:
    await job.fire("claim", "ada")
    await job.fire("submit", "ada")
    last = await job.fire("accept", "boss", request="last", approvals=2)
    assert await job.state() == last, "the state of a finished machine is gone"
    for event in ("claim", "accept"):
        await _refused(InvalidTransition, job.fire(event, "bob"), event, "'accepted'", "final")
    again = await job.fire("accept", "boss", request="last", approvals=2)
    assert again == last, "the last request of a finished machine is answered otherwise"
    assert await job.state() == last, "a finished machine moved"


async def _check_malformed(job: _Job) -> None:
    await _refused(InvalidValue, job.fire("claim", "ada", part=b"bytes"), "JSON")
    await _refused(InvalidValue, job.fire("claim", "ada", part=float("nan")), "JSON")
    big = "x" * MAX_DATA_BYTES
    await _refused(InvalidValue, job.fire("claim", "ada", part=big), str(MAX_DATA_BYTES))
    await _refused(InvalidId, job.fire("claim", ""), "actor")
    await _refused(InvalidId, job.fire("claim", "ada", request="x" * 1_000), "request id")
    await _refused(InvalidId, job.coordinator.state(JOB.name, ""), "machine id")
    await job.fire("claim", "ada", first="x" * (MAX_DATA_BYTES // 2))
    too_much = job.fire("note", "ada", second="x" * (MAX_DATA_BYTES // 2))
    await _refused(InvalidValue, too_much, str(MAX_DATA_BYTES))
    assert (await job.state()).epoch == 1, "a malformed event was decided"


async def _check_definitions(make: Make, job: _Job) -> None:
    """A changed definition does not reach into machines that run."""
    await job.fire("claim", "ada")
    changed = await make({JOB.name: OTHER_JOB})
    try:
        fired = _Job(changed, job.name).fire("claim", "bob", request="bob's")
        await _refused(DefinitionMismatch, fired, JOB.name)
    finally:
        await changed.close()
    assert issubclass(DefinitionMismatch, CallerError)
    assert (await job.fire("note", "ada")).epoch == 2, "the machine does not go on as it began"
