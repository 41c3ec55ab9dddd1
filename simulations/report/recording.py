"""One run of a seed, watched: what a report shows of it.

Watching changes nothing: no timer, no task, no chance. A recorder is told of each event of the
trace, and of messages that are put on their way and arrive; it looks at the hosts then. What
happens between two events shows at the second, and counts from the first.

It is bounded: a run is cut into `BUCKETS` of the same length, whatever happens in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from mesh.wire import Frames, decode
from persistence.base import FrameRecord
from simulations.batch import Task
from simulations.faults.plan import Fault
from simulations.loop import SECOND
from simulations.planted.plants import planted
from simulations.ports.network import SimLink
from simulations.run import Outcome, simulate
from simulations.world import Host, World

__all__ = ("BUCKETS", "STATES", "Bar", "Lane", "Recorder", "Recording", "watch")

BUCKETS = 2_400
LINES = 12
"""How many lines of the trace are kept before a violation, those of messages not counted."""

STATES = ("up", "partly cut off", "cut off", "starting", "closing", "stopped", "paused", "down")
"""What a replica can be, the worst last: that is what a bucket shows."""
UP, PARTLY, CUT, STARTING, CLOSING, STOPPED, PAUSED, DOWN = range(len(STATES))

State = tuple[int, str]
"""Which of `STATES`, and from whom it is cut off."""


@dataclass(slots=True)
class Lane:
    """One replica, by bucket. `lag`: operations that others who are up have, and it has not; None
    while it is not up.
    """

    states: list[State] = field(default_factory=list)
    lag: list[int | None] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """As data. Of states only where a new one begins: (bucket, state, from whom)."""
        numbered = enumerate(self.states)
        firsts = [next(same) for _, same in groupby(numbered, key=lambda one: one[1])]
        return {"states": [(at, *state) for at, state in firsts], "lag": self.lag}


@dataclass(slots=True)
class Bar:
    """A fault that happened: its number in the plan, from when until when (virtual seconds)."""

    number: int
    fault: Fault
    begin: float
    end: float


@dataclass(slots=True)
class Recording:
    """What was seen. Lists are by bucket, of `width_s` virtual seconds each: frames on their way
    and frames held by cuts (the most there were); of the replicas that were up, how many different
    sets of operations they had, and how many operations some had and not all. `before`: the last
    lines of the trace before each violation.
    """

    width_s: float
    lanes: dict[str, Lane]
    flying: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    different: list[int] = field(default_factory=list)
    apart: list[int] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    before: list[list[str]] = field(default_factory=list)
    trace_hash: str = ""
    events: int = 0
    frames: int = 0
    messages: int = 0
    bytes: int = 0


@dataclass(slots=True)
class _Way:
    """To one end of a link: the frames in each message on its way, and in each that a cut holds."""

    flying: deque[int] = field(default_factory=deque)
    held: deque[int] = field(default_factory=deque)


def watch(task: Task, outcome: Outcome) -> Recording:
    """Run what had this outcome once more, and watch it."""
    recorder = Recorder(outcome)
    with planted(task.plant):
        again = simulate(task.scenario, task.seed, part=task.part, watch=recorder.attach)
    recorder.end()
    recorder.recording.trace_hash = again.trace_hash
    return recorder.recording


class Recorder:
    """See the module. That a run is known already says how long it is, and when it fails."""

    def __init__(self, outcome: Outcome) -> None:
        width_ns = int(outcome.seconds * SECOND) // BUCKETS + 1
        self.recording = Recording(width_ns / SECOND, {})
        self._width_ns = width_ns
        self._numbers = {fault: number for number, fault in outcome.plan.items()}
        self._ends = outcome.seconds
        self._violations = [one.at for one in outcome.violations]
        self._lines: deque[tuple[float, tuple[object, ...]]] = deque(maxlen=LINES)
        self._ways: dict[SimLink, _Way] = {}
        self._flying = self._held = 0
        self._crashed: set[str] = set()
        self._was_up: dict[str, int] = {}
        self._bars: dict[int, Bar] = {}
        self._world: World

    def attach(self, world: World) -> None:
        """Watch this world from its first event on."""
        self._world = world
        self.recording.lanes = {name: Lane() for name in world.names}
        world.trace.watch = self.event
        world.network.observer = self
        world.watchers.append(self.journaled)

    def event(self, words: tuple[object, ...]) -> None:
        """Something happens now; what is seen has been so since the event before."""
        now = self._world.now
        self._reach_now()
        self.recording.events += 1
        self._keep_lines(now)
        kind = words[0]
        if kind == "message":  # there are many, they say little, and nobody's state changes by one
            return
        self._lines.append((now, words))
        self._look()
        if kind == "crash":
            self._crashed.add(str(words[1]).rpartition(".")[0])
        elif kind == "start":
            self._crashed.discard(str(words[1]).rpartition(".")[0])
        elif kind in ("fault", "fault over") and isinstance(words[1], Fault):
            self._fault(words[1], now, over=kind == "fault over")

    def carried(self, link: SimLink, message: bytes | None) -> None:
        """See `Observer.carried`. What processes say when the world is over, nobody sees."""
        if not self._world.trace.open:
            return
        self.recording.messages += 1
        self.recording.bytes += len(message or b"")
        said = None if message is None else decode(message)
        frames = len(said.frames) if isinstance(said, Frames) else 0
        self._reach_now()
        self._ways.setdefault(link, _Way()).flying.append(frames)
        self._flying += frames
        self._note_frames()

    def held(self, link: SimLink) -> None:
        """See `Observer.held`."""
        if not self._world.trace.open:
            return
        self._reach_now()
        way = self._ways.get(link)
        if way is not None and way.flying:
            frames = way.flying.popleft()
            way.held.append(frames)
            self._flying -= frames
            self._held += frames
            self._note_frames()

    def arrived(self, link: SimLink) -> None:
        """See `Observer.arrived`."""
        way = self._ways.get(link)
        if way is None:
            return
        if way.held:
            self._held -= way.held.popleft()
        elif way.flying:
            self._flying -= way.flying.popleft()

    def journaled(self, host: Host, frames: Sequence[FrameRecord]) -> None:
        """Frames are on a disk; their author's counts."""
        del host
        self.recording.frames += sum(frame.own for frame in frames)

    def end(self) -> None:
        """Nothing comes after this."""
        seen = self.recording
        self._keep_lines(float("inf"))
        for values in (seen.flying, seen.held, seen.different, seen.apart):
            values += values[-1:] * (BUCKETS - len(values))
        for lane in seen.lanes.values():
            lane.states += lane.states[-1:] * (BUCKETS - len(lane.states))
            lane.lag += lane.lag[-1:] * (BUCKETS - len(lane.lag))

    # ------------------------------------------------------------------ hosts

    def _reach_now(self) -> None:
        """Fill the buckets that have begun with what is so now."""
        seen = self.recording
        bucket = min(self._world.loop.now_ns // self._width_ns, BUCKETS - 1)
        missing = bucket + 1 - len(seen.different)
        if missing <= 0:
            return
        self._look()
        have = {host.name: _operations(host) for host in self._world.up}
        known: dict[tuple[int, int], int] = {}
        for operations in have.values():
            for name, seq in operations.items():
                known[name] = max(seq, known.get(name, 0))
        total = sum(known.values())
        states = self._states()
        for host, lane in seen.lanes.items():
            lane.lag += [total - sum(have[host].values()) if host in have else None] * missing
            lane.states += [states[host]] * missing
        seen.different += [len({frozenset(one.items()) for one in have.values()})] * missing
        everywhere = sum(min(one.get(name, 0) for one in have.values()) for name in known)
        seen.apart += [total - everywhere] * missing
        self._forget_ended()
        seen.flying += [self._flying] * missing
        seen.held += [self._held] * missing

    def _look(self) -> None:
        """Note what became of the hosts since the last event, in the bucket that it was in."""
        states = self._states()
        for name, lane in self.recording.lanes.items():
            if lane.states and states[name] > lane.states[-1]:
                lane.states[-1] = states[name]

    def _states(self) -> dict[str, State]:
        apart: dict[str, set[str]] = {}
        for a, b in self._world.network.cuts:
            apart.setdefault(a, set()).add(b)
            apart.setdefault(b, set()).add(a)
        return {
            name: self._state(host, apart.get(name, set()))
            for name, host in self._world.hosts.items()
        }

    def _state(self, host: Host, apart: set[str]) -> State:
        run = host.run
        if run is None and not host.runs:
            return STARTING, ""
        if run is None:
            return (DOWN if host.name in self._crashed else STOPPED), ""
        if run.life.suspended:
            return PAUSED, ""
        if not run.up:
            return (CLOSING if self._was_up.get(host.name) == run.number else STARTING), ""
        self._was_up[host.name] = run.number
        if not apart:
            return UP, ""
        everybody = len(apart) == len(self._world.names) - 1
        return (CUT if everybody else PARTLY), ", ".join(sorted(apart))

    # ------------------------------------------------------------------ frames, faults, lines

    def _forget_ended(self) -> None:
        """What goes to an end that is closed, or whose process ended, goes nowhere."""
        for link in [one for one in self._ways if one.closed or not one.owner.alive]:
            way = self._ways.pop(link)
            self._flying -= sum(way.flying)
            self._held -= sum(way.held)

    def _note_frames(self) -> None:
        """Note the most frames there are in the bucket that is now."""
        seen = self.recording
        seen.flying[-1] = max(seen.flying[-1], self._flying)
        seen.held[-1] = max(seen.held[-1], self._held)

    def _fault(self, fault: Fault, now: float, *, over: bool) -> None:
        number = self._numbers[fault]
        if not over:
            self._bars[number] = Bar(number, fault, now, self._ends)
            self.recording.bars.append(self._bars[number])
        elif number in self._bars:
            self._bars.pop(number).end = now

    def _keep_lines(self, now: float) -> None:
        """What came before each violation that has happened by now."""
        kept, violations = self.recording.before, self._violations
        while len(kept) < len(violations) and violations[len(kept)] < now:
            kept.append([f"{at:.6f} {' '.join(map(str, words))}" for at, words in self._lines])


def _operations(host: Host) -> dict[tuple[int, int], int]:
    """How far the replica that is up there has each session of each shard."""
    assert host.replica is not None
    return {
        (shard, session): seq
        for shard, frontier in host.replica.frontier().items()
        for session, seq in frontier.items()
    }
