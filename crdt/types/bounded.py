"""BoundedCounter: a number that all may spend from at once, and that never falls below its bound.

Rules. A session has *rights*: what it granted, was given and took over, less what it spent and gave
away. It spends no more than its rights, so all together spend no more than was granted, whatever
the network does, and nobody waits for anybody. State is one row per session, [granted, spent, given
to whom, taken over of whom]; only the session itself replaces it, by a row that is nowhere less.
Concurrent edits touch different rows: all of them count. Rows cannot be removed: the document is
deleted whole, with on_delete="gone". After Balegas, Serra, Duarte, Ferreira, Shapiro, Rodrigues,
Preguiça: "Extending Eventually Consistent Cloud Databases for Enforcing Numeric Invariants" (2015).
"""

from collections.abc import Iterable
from typing import Any, ClassVar, overload

from crdt.access import Access, Entry
from crdt.codec import encode
from crdt.errors import OutOfBounds, SchemaError
from crdt.ids import MAX_SESSION
from crdt.paths import TypeCode
from crdt.types.expect import refuse
from crdt.types.field import Declaration, Editor, Field, Handle, require_writable
from crdt.types.guards import Row, read_row

_NO_ROW: Row = (0, 0, {}, {})


class BoundedEditor(Editor):
    """One BoundedCounter, live.

    Amounts are ints from 0 up; an amount of 0 writes nothing. Guaranteed while every member is
    honest: `value` is never below `bound`, on any replica, at any time. Receivers cannot judge what
    a dishonest session had the right to; one that overspent shows by its negative `rights`.
    """

    __slots__ = ("_field",)

    def __init__(self, field: "BoundedCounter", access: Access, document: str, path: bytes) -> None:
        super().__init__(access, document, path)
        self._field = field

    def __repr__(self) -> str:
        return f"<BoundedCounter {self.value}, at least {self.bound}>"

    @property
    def bound(self) -> int:
        """What the value never falls below; declared with AtLeast, 0 without."""
        return self._field.bound

    @property
    def value(self) -> int:
        """The bound, and what was granted and not yet spent."""
        return self.bound + remaining(self._rows())

    @property
    def rights(self) -> dict[int, int]:
        """What each session may spend, as far as this replica knows: what is known to be given to
        it may have been spent already.
        """
        return _rights(self._rows())

    @property
    def available(self) -> int:
        """What this replica's session may spend now; 0 for a reader that never writes."""
        return max(0, self.rights.get(self._access.session, 0))

    def grant(self, amount: int) -> None:
        """Raise the value, and this session's rights, by `amount`."""
        if self._check(amount):
            granted, spent, given, taken = self._own()
            self._write((granted + amount, spent, given, taken))

    def spend(self, amount: int) -> None:
        """Lower the value by `amount`. Raises OutOfBounds if this session may not spend so much:
        try less, or get rights from another session.
        """
        if self._check(amount):
            self._need(amount, "spend")
            granted, spent, given, taken = self._own()
            self._write((granted, spent + amount, given, taken))

    def transfer(self, session: int, amount: int) -> None:
        """Give another session the right to spend `amount`. Raises OutOfBounds if this session may
        not spend so much.

        What is given to a session that has ended can be spent by nobody until it is taken over.
        """
        self._check_other(session)
        if self._check(amount):
            self._need(amount, "transfer")
            granted, spent, given, taken = self._own()
            given = {**given, session: given.get(session, 0) + amount}
            self._write((granted, spent, given, taken))

    def take_over(self, session: int) -> int:
        """Take over the rights that a closed session left; how many, and nothing is written if
        there are none.

        For the coordinator alone, and only when that session is closed and its last operation has
        been applied here: rights that two take over, or that their owner still spends, are spent
        twice.
        """
        self._check_other(session)
        require_writable(self._access)
        amount = self.rights.get(session, 0)
        if amount <= 0:
            return 0
        granted, spent, given, taken = self._own()
        self._write((granted, spent, given, {**taken, session: taken.get(session, 0) + amount}))
        return amount

    def _rows(self) -> dict[int, Row]:
        return read_rows(self._access.entries(self._document, self._path))

    def _own(self) -> Row:
        return self._rows().get(self._access.session, _NO_ROW)

    def _write(self, row: Row) -> None:
        access, document, path = self._access, self._document, self._path
        granted, spent, given, taken = row
        payload = encode([granted, spent, _flat(given), _flat(taken)])
        removal = access.removal(document, path, own=True)
        access.write(document, path, payload, () if removal is None else (removal,))

    def _check(self, amount: Any) -> bool:
        """Whether there is anything to do; raises what is wrong with the amount."""
        require_writable(self._access)
        if type(amount) is not int:
            refuse(self._field.label, "ints as amounts", amount)
        if amount < 0:
            raise OutOfBounds(f"{self._field.label}: amounts are from 0 up, not {amount}")
        return amount > 0

    def _check_other(self, session: Any) -> None:
        if type(session) is not int:
            refuse(self._field.label, "an int as session", session)
        if not 0 < session <= MAX_SESSION:
            raise OutOfBounds(
                f"{self._field.label}: sessions are from 1 to {MAX_SESSION}, not {session}"
            )
        if session == self._access.session:
            raise OutOfBounds(f"{self._field.label}: session {session} is this edit's own")

    def _need(self, amount: int, verb: str) -> None:
        available = self.available
        if amount > available:
            raise OutOfBounds(
                f"{self._field.label}: this session may {verb} {available}, not {amount}, of a "
                f"value of {self.value} that stays at least {self.bound}; .transfer(…) rights to "
                "it where they are, or .grant(…) more"
            )


class BoundedCounter(Field[BoundedEditor]):
    """A counter with a lower bound; `document.budget` gives its BoundedEditor. Only at a document's
    root.

    `Annotated[BoundedCounter, AtLeast(10)]` sets the bound, which is also the value it starts at.
    The bound is the schema's: it must be the same in every version of the class.
    """

    code: ClassVar[TypeCode] = TypeCode.BOUNDED
    cure = "use .grant(…), .spend(…) or .transfer(…)"

    def __init__(self, label: str, bound: int) -> None:
        super().__init__(label)
        self.bound = bound

    @classmethod
    def declare(cls, declaration: Declaration) -> "BoundedCounter":
        declaration.arguments_are(0, "BoundedCounter")
        declaration.options_are("at_least")
        at_least = declaration.options.at_least
        bound = 0 if at_least is None else at_least.bound
        if type(bound) is not int:
            raise SchemaError(f"{declaration.label}: AtLeast takes an int, not {bound!r}")
        return BoundedCounter(declaration.label, bound)

    @overload
    def __get__(self, instance: None, owner: type) -> "BoundedCounter": ...
    @overload
    def __get__(self, instance: Handle, owner: type) -> BoundedEditor: ...
    def __get__(self, instance: Handle | None, owner: type) -> "BoundedCounter | BoundedEditor":
        if instance is None:
            return self
        return BoundedEditor(self, instance._access, instance._id, self.path)

    def __set__(self, instance: Handle, value: BoundedEditor) -> None:
        self.assign(instance._access, instance._id, self.path, value)

    def view(self, access: Access, document: str, path: bytes) -> BoundedEditor:
        return BoundedEditor(self, access, document, path)

    def plain(self, access: Access, document: str, path: bytes) -> int:
        """The value."""
        return self.view(access, document, path).value


def read_rows(entries: Iterable[Entry]) -> dict[int, Row]:
    """The last row of every session."""
    return {session: read_row(payload) for session, _, payload in entries}


def remaining(rows: dict[int, Row]) -> int:
    """What was granted and not spent."""
    return sum(granted - spent for granted, spent, _, _ in rows.values())


def _rights(rows: dict[int, Row]) -> dict[int, int]:
    """The rights of every session that has a row or is named in one."""
    rights = {
        session: granted - spent - sum(given.values()) + sum(taken.values())
        for session, (granted, spent, given, taken) in rows.items()
    }
    for _, _, given, taken in rows.values():
        for session, amount in given.items():
            rights[session] = rights.get(session, 0) + amount
        for session, amount in taken.items():
            rights[session] = rights.get(session, 0) - amount
    return rights


def _flat(amounts: dict[int, int]) -> list[int]:
    return [number for pair in sorted(amounts.items()) for number in pair]
