"""Exclusive claims: the ready machine for them, and reading a claim out of a mesh document.

Who may have a thing alone is decided by the coordinator; its decision then travels the mesh in a
`Decided` field, so that everybody can read who holds what at memory speed, also while the
coordinator is away. Such a read can be old. A holder therefore shows its token with what it does
under the claim, and whoever keeps the thing refuses a token that is lower than the highest seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from crdt.types.decided import DecidedEditor
from mesh.environment import Transition
from workflows.machine import TOKEN, Machine, Rule
from workflows.registry import register

__all__ = ("EXCLUSIVE", "Claim", "claim_of", "fenced", "token_of")

EXCLUSIVE = register(
    Machine(
        "exclusive-claim",
        "free",
        (
            Rule("claim", "free", "held", "take"),
            Rule("claim", "held", "held", "take"),
            Rule("release", "held", "free", "release"),
            Rule("expire", "held", "free", "clear"),
        ),
    )
)
"""free → held → free. Its holder may claim again, after a crash say, and gets a new token; others
are refused until the holder releases it, or whoever is sure that the holder is gone expires it.
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a mesh document says about its owner: nobody if `holder` is empty."""

    holder: str
    token: int
    state: str
    epoch: int

    def held_by(self, actor: str, token: int) -> bool:
        """Whether this very claim of the actor is the present one, as far as is known here."""
        return self.holder == actor and not fenced(self.token, token)


def fenced(current: int, token: int) -> bool:
    """Whether `token` is out of date: ownership changed since it was given out."""
    return token < current


def token_of(transition: Transition) -> int:
    """The fencing token that a decision names; 0 if nobody ever owned the machine."""
    token = transition.data.get(TOKEN, 0)
    return token if isinstance(token, int) else 0


def claim_of(decided: DecidedEditor[dict[str, Any]]) -> Claim:
    """The claim in a document's Decided field, as `workflows.publish` writes it."""
    value = decided.value or {}
    return Claim(
        holder=value.get("owner", ""),
        token=value.get(TOKEN, 0),
        state=value.get("state", ""),
        epoch=decided.epoch,
    )
