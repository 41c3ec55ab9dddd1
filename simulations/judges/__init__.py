"""Judges of client histories: one class for each family of what must hold.

They get a `History` when all is over, and say what is wrong with it. Of how it was made they know
nothing: in a simulated world, by processes and sockets, or by hand.
"""

from simulations.judges.base import Judge
from simulations.judges.clocks import Availability, HybridClocks
from simulations.judges.effects import CounterBounds, NoDuplicateEffect, OutOfThinAir
from simulations.judges.lists import ListOrder
from simulations.judges.meaning import Intention, Specified
from simulations.judges.sessions import SessionGuarantees
from simulations.judges.sets import SetFull

__all__ = (
    "Availability",
    "CounterBounds",
    "HybridClocks",
    "Intention",
    "Judge",
    "ListOrder",
    "NoDuplicateEffect",
    "OutOfThinAir",
    "SessionGuarantees",
    "SetFull",
    "Specified",
)
