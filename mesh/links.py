"""One link to one peer: greeting, reading, writing, noticing that it is dead. What is said is
`exchange`'s.

Each link is a few tasks in one group; whichever ends first ends the link and the others. Nothing
here waits without a bound: sending is the queue's (`dissemination.SendQueue`), a peer of whom not
one byte comes is given up after `dead` seconds, one that sends next to nothing and no whole message
after `trickle` seconds. What a peer may ask for is `budget`'s: one that wants more is read more
slowly.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from crdt.errors import CodecError, MeshError
from mesh.budget import Account
from mesh.core import Core
from mesh.dissemination import Limiter, SendQueue, slices
from mesh.environment import Link, LinkClosed, PeerRefused
from mesh.repair import ASK_AGAIN_S, Comparisons, merged
from mesh.transfers import Assembly
from mesh.wire import (
    VOCABULARY,
    Bye,
    Frames,
    Hello,
    Message,
    Ping,
    Request,
    Unknown,
    Want,
    decode,
    encode,
)
from mesh.wire.codec import MAX_SESSIONS
from persistence.certificates import ReplicaCertificate

REFUSALS_BURST = 64
REFUSALS_PER_SECOND = 4.0
"""Garbage from one peer beyond this closes its link."""
TRICKLE_BYTES = 4_096
"""A message that is on its way has to grow by this much in `LinkTimes.trickle` seconds."""
MAX_CERTIFIED = 2 * MAX_SESSIONS
BYE_S = 0.5


@dataclass(frozen=True, slots=True)
class LinkTimes:
    """Seconds. `greet`: for the peer's hello; `beat`: idle time before a ping; `dead`: silence;
    `trickle`: without a whole message, nor much of one; `patience`: with more calls than a peer may
    make; `barred`: without a link after that; `named`: in `health()` after what was noted last.
    """

    greet: float = 5.0
    beat: float = 2.0
    dead: float = 12.0
    trickle: float = 60.0
    patience: float = 10.0
    barred: float = 30.0
    named: float = 30.0


class Conversation(Protocol):
    """Who decides what is said over links."""

    def up(self, link: PeerLink) -> None:
        """The greeting is done. Raises PeerRefused if the link is not wanted."""

    def down(self, link: PeerLink, reason: str) -> None:
        """A link that was up ended."""

    def message(self, link: PeerLink, message: Message) -> None:
        """A message came."""

    async def room(self) -> None:
        """Wait while more frames were taken in than the disk has swallowed."""

    async def serve(self, link: PeerLink, request: Request) -> None:
        """Answer a request; may wait for the disk and for the peer."""

    def drained(self, link: PeerLink) -> None:
        """The queue is empty again after frames were dropped."""

    def limited(self, link: PeerLink) -> None:
        """The peer has used up its account: it is not read from for a moment."""


class PeerLink:
    """A link that has been greeted, with everything this end remembers about the other."""

    def __init__(
        self, link: Link, core: Core, conversation: Conversation, hello: Hello, times: LinkTimes
    ) -> None:
        self._link = link
        self._core = core
        self._conversation = conversation
        self._hello = hello
        self._ended = ""
        self._throttled = False
        self._taking_since: float | None = None
        self._messages = 0
        self._ending = asyncio.Event()
        self._outgoing = asyncio.Event()
        self._room = asyncio.Event()
        self._asked = asyncio.Event()
        self._requests: dict[tuple[type[object], int], Request] = {}
        self._limiter = Limiter(REFUSALS_BURST, REFUSALS_PER_SECOND)
        self._sent_at = self._heard_at = core.now()
        self.times = times
        self.fault = ""
        """Why the link ended, if by what the peer did or left undone."""
        self.account = Account()
        self.name = link.peer
        self.address = link.address
        self.initiated = link.initiated
        self.session = 0
        self.member: ReplicaCertificate | None = None
        """Who the other end is and what it may do, once greeted."""
        self.wire = hello.oldest
        """The wire version both sides speak, once greeted."""
        self.queue = SendQueue(core.settings.peers.send_buffer_bytes * 4)
        self.assembly = Assembly()
        self.certified: set[int] = set()
        self.given: dict[tuple[int, int], int] = {}
        """{(shard, session): up to where frames were sent on request}."""
        self.dropped_uncertified = False
        self.snapshots_asked: set[int] = set()
        self.untold: dict[int, dict[int, int]] = {}
        self.owes_summary = False
        self.owes_frontier: set[int] = set()
        self.comparisons = Comparisons(ASK_AGAIN_S)
        self.awaits_capture = False
        """What the peer said is dealt with when all shards have been captured again."""

    def __repr__(self) -> str:
        way = "to" if self.initiated else "from"
        return f"<PeerLink {way} {self.name} at {self.address}, {self._ended or 'open'}>"

    def send(self, message: Message, *, asked: bool = False) -> None:
        """Queue a message that both sides know. A peer that lets too many pile up loses the link.

        `asked`: the peer asked for it, so that it is charged to its account.
        """
        assert VOCABULARY.since(type(message)) <= self.wire, f"{self.name} does not know it"
        if self._ended:
            return
        data = encode(message)
        if asked:
            self.account.answer(len(data), self._core.now())
        if not self.queue.offer(data):
            self._core.probe.event("link.deaf", peer=self.name, bytes=self.queue.bytes)
            self.blame("does not read what it asked for")
        self._outgoing.set()

    def certify(self, sessions: Iterable[int]) -> None:
        """The peer has the certificates of these. Of too many it counts as having none again."""
        self.certified.update(sessions)
        if len(self.certified) > MAX_CERTIFIED:
            self.certified.clear()

    def push(self, frame: bytes, *, asked: bool = False) -> None:
        """Queue a frame; one that does not fit is dropped for this peer and repaired later.

        `asked`: the peer asked for it, and there was `room`; it always fits.
        """
        behind = self.queue.behind
        if not self.queue.push(frame, asked=asked) and not behind:
            self._core.probe.event("link.overflow", peer=self.name, bytes=self.queue.bytes)
        self._outgoing.set()

    async def room(self) -> None:
        """Wait until what is sent on request fits in the queue."""
        while not self.queue.room:
            self._room.clear()
            await self._room.wait()

    def ask(self, request: Request) -> None:
        """The peer asks for something. What it asks for of a shard before it was served is served
        together; more than there can be is garbage.
        """
        key = type(request), request.shard
        waiting = self._requests.get(key)
        if isinstance(waiting, Want) and isinstance(request, Want):
            both = merged(waiting, request)
            if both is None:
                self.refused()
                return
            request = both
        self._requests[key] = request
        self._asked.set()

    def refused(self) -> None:
        """The peer sent garbage. A flood of it ends the link."""
        if not self._ended and not self._limiter.allow(self._core.now()):
            self._core.probe.event("link.flood", peer=self.name)
            self.blame("sends garbage")

    def untaken_for(self, now: float) -> float:
        """For how many seconds the peer has not taken what is being handed to it."""
        return 0.0 if self._taking_since is None else now - self._taking_since

    def blame(self, fault: str) -> None:
        """End the link soon, by the peer's fault. Idempotent."""
        if not self._ended:
            self.fault = fault
            self.end(f"{self.name} {fault}")

    def end(self, reason: str) -> None:
        """End the link soon. Idempotent."""
        self._ended = self._ended or reason
        self._ending.set()

    async def run(self) -> bool:
        """Greet, converse, and close, whatever happens. Whether the link was ever up."""
        up = False
        try:
            try:
                await self._greet()
                self._conversation.up(self)
            except (PeerRefused, CodecError, TimeoutError) as error:
                self._ended = str(error) or "it did not greet in time"
                self._core.turn_away(self.name, self._ended)
                return False
            except LinkClosed as error:
                self._ended = str(error)
                return False
            up = True
            try:
                await self._converse()
            finally:
                self._conversation.down(self, self._ended or "the replica closes")
            return True
        finally:
            await self._close(farewell=up)

    async def _greet(self) -> None:
        async with asyncio.timeout(self.times.greet):
            await self._link.send(encode(self._hello))
            message = decode(await self._link.receive())
        if isinstance(message, Bye):
            raise PeerRefused(f"{self.name} says: {message.reason}")
        if not isinstance(message, Hello):
            raise PeerRefused(f"{self.name} does not start with a hello")
        self._check(message)
        self.session = message.session
        self.wire = min(message.newest, self._hello.newest)
        self.certify((*message.known, self._core.session, message.session))
        self._heard_at = self._core.now()

    def _check(self, hello: Hello) -> None:
        own = self._hello
        if hello.session == own.session:
            raise PeerRefused(f"{self.address} is this replica itself")
        if hello.mesh != own.mesh:
            raise PeerRefused(f"{self.name} is of mesh {hello.mesh.hex()}, not {own.mesh.hex()}")
        if hello.oldest > own.newest or hello.newest < own.oldest:
            raise PeerRefused(
                f"{self.name} speaks wire versions {hello.oldest} to {hello.newest}, this program "
                f"{own.oldest} to {own.newest}: run a newer statemesh on the older side"
            )
        try:
            info = self._core.trust.learn(hello.certificate)
        except MeshError as error:
            raise PeerRefused(f"{self.name} shows a wrong session certificate: {error}") from error
        if (info.session, info.replica, hello.replica) != (hello.session, self.name, self.name):
            raise PeerRefused(f"{self.name} shows a session of {info.replica!r}")
        # Certificates of sessions are no secret: the one shown must be certified by what the
        # transport saw proven, or whoever was revoked could borrow that of a successor.
        if self._link.certificate not in (b"", info.certified.der):
            raise PeerRefused(f"{self.name} shows a session that another certificate stands for")
        if reason := self._core.roll.refusal(info.certified):
            raise PeerRefused(reason)
        self.member = info.certified
        if self.name == own.replica:
            self._core.clones.beside(info.session, self.address)
            raise PeerRefused(
                f"{self.address} is a copy of this replica, as session {info.session}"
            )

    async def _converse(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for name, part in (
                    ("read", self._read()), ("write", self._write()), ("beat", self._beat()),
                    ("serve", self._serve()), ("end", self._await_end()),
                ):  # fmt: skip
                    group.create_task(part, name=f"link {self.name}: {name}")
        except* MeshError as ended:
            self._ended = self._ended or str(ended.exceptions[0])
        except* Exception as bug:  # noqa: BLE001 - a bug in one conversation must not end all
            self._ended = f"bug: {bug.exceptions[0]!r}"
            self._core.probe.event("link.error", peer=self.name, reason=self._ended)
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # A group that fails while it is cancelled raises the failure only: keep the cancel.
            raise asyncio.CancelledError

    async def _await_end(self) -> None:
        await self._ending.wait()
        raise LinkClosed(self._ended)

    async def _read(self) -> None:
        while True:
            data = await self._link.receive()
            self._messages += 1
            message = self._decoded(data)
            if isinstance(message, Bye):
                raise LinkClosed(f"{self.name} says: {message.reason}")
            self.account.hear(message, len(data), self._core.now(), captured=self.awaits_capture)
            if isinstance(message, Frames):
                for part in slices(message.frames):
                    self._conversation.message(self, Frames(part))
                    await self._pause(frames=True)
                continue
            if message is not None:
                self._conversation.message(self, message)
            await self._pause(frames=False)

    def _decoded(self, data: bytes) -> Message | None:
        """What the peer says, if it can be read and is known."""
        try:
            message = decode(data)
        except CodecError as error:
            self._core.refuse("message.refused", "CodecError", peer=self.name, detail=str(error))
            self.refused()
            return None
        if isinstance(message, Unknown):
            self._core.probe.event("message.unknown", peer=self.name, code=message.kind)
            return None
        return message

    async def _pause(self, *, frames: bool) -> None:
        """Read no further while the peer's account is overdrawn, or the disk is behind."""
        wait = self.account.wait(self._core.now())
        self._throttled = frames or wait > 0
        if wait:
            self._conversation.limited(self)
        # Whatever the peer has buffered, edits and other links get their turn.
        await asyncio.sleep(wait)
        if frames:
            await self._conversation.room()
        if self._throttled:
            self._throttled = False
            self._heard_at = self._core.now()

    async def _write(self) -> None:
        queue = self.queue
        while True:
            while queue:
                item = queue.take()
                self._taking_since = self._core.now()
                await self._link.send(item if isinstance(item, bytes) else encode(Frames(item)))
                self._taking_since = None
                self._sent_at = self._core.now()
                if queue.room:
                    self._room.set()
            if queue.behind:
                queue.behind = False
                self._conversation.drained(self)
            self._outgoing.clear()
            if not queue:
                await self._outgoing.wait()

    async def _beat(self) -> None:
        times = self.times
        received = 0
        whole, moved, moved_at = 0, 0, self._heard_at
        while True:
            await asyncio.sleep(times.beat / 2)
            now = self._core.now()
            if self._link.received_bytes != received:
                received = self._link.received_bytes
                self._heard_at = now
            if whole != self._messages or received - moved >= TRICKLE_BYTES or self._throttled:
                whole, moved, moved_at = self._messages, received, now
            if now - self._heard_at >= times.dead and not self._throttled:
                self.blame(f"has been silent for {times.dead:g} s")
            elif now - moved_at >= times.trickle:
                self.blame(f"has sent no whole message for {times.trickle:g} s")
            if now - self._sent_at >= times.beat and not self.queue:
                self.send(Ping())

    async def _serve(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            while self._requests:
                request = self._requests.pop(next(iter(self._requests)))
                await self._conversation.serve(self, request)

    async def _close(self, *, farewell: bool) -> None:
        if farewell or self._ended:
            with contextlib.suppress(LinkClosed, TimeoutError):
                async with asyncio.timeout(BYE_S):
                    await self._link.send(encode(Bye(self._ended or "closing")))
        await self._link.close()
