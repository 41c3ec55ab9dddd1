"""Programs of earlier wire versions, as far as anybody can tell by what they say and are told.

What runs is today's replica; its links greet as a program would that speaks versions up to `wire`,
so that both sides agree on that one. A word that is newer than a link's version must not be said
there, by either side: it is an event (`wire.newer`), and, as by an old program, passed over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from mesh.environment import Transport
from mesh.wire import VOCABULARY, WIRE_NEWEST, Hello, decode, encode
from simulations.faults.translated import Translated

__all__ = ("kind_of", "speaking")

_WORDS = VOCABULARY._by_kind
_HELLO = VOCABULARY._by_class[Hello].kind


def kind_of(message: bytes) -> int:
    """Of which kind a message is: the first item, a small number, of a short list."""
    return message[1]


def speaking(wire: int, transport: Transport, tell: Callable[..., None]) -> Transport:
    """The transport of a program that speaks wire versions up to `wire`."""
    return transport if wire >= WIRE_NEWEST else Translated(transport, _Older(wire, tell))


class _Older:
    """See `speaking`."""

    def __init__(self, wire: int, tell: Callable[..., None]) -> None:
        self._wire = wire
        self._tell = tell

    def said(self, peer: str, message: bytes) -> bytes | None:
        """See `Translator.said`."""
        return self._known(peer, message, "said")

    def heard(self, peer: str, message: bytes) -> bytes | None:
        """See `Translator.heard`."""
        return self._known(peer, message, "heard")

    def _known(self, peer: str, message: bytes, way: str) -> bytes | None:
        kind = kind_of(message)
        if kind not in _WORDS or _WORDS[kind].since > self._wire:
            self._tell("wire.newer", peer=peer, kind=kind, way=way, wire=self._wire)
            return None
        if kind != _HELLO:
            return message
        hello = decode(message)
        return encode(dataclasses.replace(hello, newest=min(hello.newest, self._wire)))
