"""How a link begins, stays and ends: `Hello` once from each side, `Ping` when there is nothing else
to say, `Bye` with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mesh.wire.codec import MAX_NAME_BYTES, MAX_SESSIONS, Word, blob, items, number, text


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of each side. `known` are sessions whose certificates the sender has (newest,
    bounded).
    """

    oldest: int
    newest: int
    mesh: bytes
    replica: str
    session: int
    certificate: bytes
    known: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ping:
    """Nothing to say, still here."""


@dataclass(frozen=True, slots=True)
class Bye:
    """Why the sender ends the link, for people."""

    reason: str


def _hello(parts: tuple[Any, ...]) -> Hello:
    oldest, newest, mesh, replica, session, certificate, known = parts
    return Hello(
        number(oldest, 0xFFFF), number(newest, 0xFFFF), blob(mesh, 64), text(replica),
        number(session, least=1), blob(certificate, 64 << 10),
        tuple(number(one, least=1) for one in items(known, MAX_SESSIONS)),
    )  # fmt: skip


WORDS = (
    Word(
        0, Hello,
        lambda m: (
            m.oldest, m.newest, m.mesh, m.replica, m.session, m.certificate, list(m.known)
        ),
        7, _hello,
    ),
    Word(11, Ping, lambda _: (), 0, lambda _: Ping()),
    Word(12, Bye, lambda m: (m.reason[:MAX_NAME_BYTES],), 1, lambda p: Bye(text(p[0]))),
)  # fmt: skip
