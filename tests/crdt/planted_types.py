"""Programs that are wrong in what one type says or writes, or in what guards its entries."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Final

import crdt.lattice
import crdt.types.guards
import crdt.types.multivalue
import crdt.types.register
import crdt.types.set
import tests.crdt.laws.test_lattice_laws
import tests.crdt.laws.test_types_meaning  # noqa: F401 - imported for the laws in it
from crdt.clock import HybridClock
from crdt.codec import decode, encode
from crdt.overlay import Overlay
from crdt.paths import TypeCode
from crdt.types.counter import Counter
from crdt.types.extremum import Extremum
from crdt.types.flag import Flag
from crdt.types.guards import may_remove
from crdt.types.rules import PRESENT
from tests.crdt.planting import breaks, instead, without

STATE: Final = "state is a function of the set of operations"


# ----------------------------------------------------------------------------- guards


def unguarded(*codes: TypeCode) -> AbstractContextManager[Any]:
    """Removals of these types are not judged."""

    def wrong(_: Any, code: TypeCode, *rest: Any) -> bool:
        return code in codes or may_remove(code, *rest)

    return instead(crdt.lattice, "may_remove", wrong)


@breaks(STATE)
def a_maximum_is_removed_by_less() -> AbstractContextManager[Any]:
    return unguarded(TypeCode.MAXIMUM)


@breaks(STATE)
def a_minimum_is_removed_by_more() -> AbstractContextManager[Any]:
    return unguarded(TypeCode.MINIMUM)


@breaks(STATE)
def a_decision_is_removed() -> AbstractContextManager[Any]:
    return unguarded(TypeCode.DECIDED)


@breaks(STATE)
def a_row_is_removed_by_others() -> AbstractContextManager[Any]:
    return unguarded(TypeCode.BOUNDED)


@breaks(STATE)
def a_row_takes_back() -> AbstractContextManager[Any]:
    return without(crdt.lattice, "continues", True)


@breaks(STATE)
def a_minimum_is_ranked_like_a_maximum() -> AbstractContextManager[Any]:
    def wrong(right: Any, code: TypeCode, held: bytes, payload: bytes) -> Any:
        return right(TypeCode.MAXIMUM if code is TypeCode.MINIMUM else code, held, payload)

    return instead(crdt.types.guards, "outranks", wrong)


@breaks(STATE)
def equal_numbers_have_no_order() -> AbstractContextManager[Any]:
    return instead(crdt.types.guards, "rank", lambda right, payload: right(payload)[:2])


# ----------------------------------------------------------------------------- types


@breaks("values of register")
def the_earlier_write_wins() -> AbstractContextManager[Any]:
    return instead(crdt.types.register, "ranked", lambda right, found: right(found)[::-1])


@breaks("values of register")
def ties_are_broken_by_seq() -> AbstractContextManager[Any]:
    def wrong(right: Any, found: Any) -> Any:
        return sorted(right(found), key=lambda each: (each[0], each[2], -each[1]))

    return instead(crdt.types.register, "ranked", wrong)


@breaks("values of register")
def a_stamp_may_be_below_what_it_overwrites() -> AbstractContextManager[Any]:
    return instead(HybridClock, "after", lambda _, clock, __: clock.now())


@breaks("values of multivalue")
def a_multivalue_shows_one_value() -> AbstractContextManager[Any]:
    return instead(crdt.types.multivalue, "distinct", lambda right, found: right(found)[:1])


@breaks("values of counter")
def a_total_stays_beside_the_next() -> AbstractContextManager[Any]:
    def wrong(_: Any, counter: Any, access: Any, document: str, path: bytes, value: Any) -> None:
        change = value - counter.view(access, document, path)
        if change:
            access.write(document, path, encode(value))

    return instead(Counter, "assign", wrong)


@breaks("values of counter")
def a_counter_replaces_the_totals_of_others() -> AbstractContextManager[Any]:
    def wrong(right: Any, overlay: Any, document: str, path: bytes, **how: Any) -> Any:
        return right(overlay, document, path, **{**how, "own": False})

    return instead(Overlay, "removal", wrong)


@breaks("values of mixed")
def elements_are_compared_as_python_does() -> AbstractContextManager[Any]:
    def wrong(right: Any, path: bytes, element: Any) -> Any:
        return right(path, int(element) if element in (0, 1) else element)

    return instead(crdt.types.set, "element_path", wrong)


@breaks("values of banned")
def adding_wins_against_removing() -> AbstractContextManager[Any]:
    def wrong(_: Any, found: Any) -> bool:
        return any(payload == PRESENT for _, _, payload in found)

    return instead(crdt.types.set, "_present", wrong)


@breaks("values of careful")
def enabling_wins_against_disabling() -> AbstractContextManager[Any]:
    def wrong(_: Any, flag: Any, access: Any, document: str, path: bytes) -> bool:
        del flag
        return any(decode(payload) for _, _, payload in access.entries(document, path))

    return instead(Flag, "view", wrong)


@breaks("values of maximum")
def a_maximum_writes_what_gains_nothing() -> AbstractContextManager[Any]:
    def wrong(_: Any, field: Any, access: Any, document: str, path: bytes, value: Any) -> None:
        del field
        access.replace(document, path, encode(value))

    return instead(Extremum, "assign", wrong)


@breaks("values of decided")
def a_deleted_document_reads_on_in_its_edit() -> AbstractContextManager[Any]:
    def wrong(right: Any, overlay: Any, document: str) -> None:
        right(overlay, document)
        overlay._changed[document] = {}

    return instead(Overlay, "retire", wrong)
