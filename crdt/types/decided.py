"""Decided: an outcome of the coordinator, which an older outcome can never replace.

Rules. An entry [epoch, value]; a decision takes the place of those its writer had seen, of the same
or an earlier epoch. The highest epoch is read; every receiver enforces that no assignment removes a
higher one, and that nothing else removes any: the document is deleted whole, with on_delete="gone".
Concurrent decisions: the one of the higher epoch is read; two of one epoch are a fault of the
coordinator, then the greater (session, seq) is read and the other shown as a conflict. Epochs as
the ballots of Lamport: "Paxos Made Simple" (2001), agreement itself being the coordinator's.
"""

from typing import Any, ClassVar, Generic, TypeVar, overload

from crdt.access import Access
from crdt.codec import decode_stamped, encode_stamped
from crdt.errors import OutOfBounds
from crdt.paths import TypeCode
from crdt.types.expect import Expectation, expectation, printed, refuse
from crdt.types.field import Declaration, Editor, Field, Handle, ranked, require_writable

T = TypeVar("T")
_MAX_EPOCH = 2**63 - 1


class DecidedEditor(Editor, Generic[T]):
    """The decision in one Decided field, live.

    The highest epoch wins, whatever the order of arrival. Two decisions of one epoch cannot come
    from one coordinator; should they, the greater (session, seq) is read everywhere and `conflicts`
    shows the other.
    """

    __slots__ = ("_field",)

    def __init__(self, field: "Decided[T]", access: Access, document: str, path: bytes) -> None:
        super().__init__(access, document, path)
        self._field = field

    def __repr__(self) -> str:
        return f"<Decided {printed(self.value)} in epoch {self.epoch}>"

    @property
    def epoch(self) -> int:
        """The epoch of the decision; 0 while there is none."""
        latest = self._latest()
        return 0 if latest is None else latest[0]

    @property
    def value(self) -> T | None:
        """What was decided; None while nothing was."""
        latest = self._latest()
        return None if latest is None else latest[1]

    def decide(self, epoch: int, value: T) -> bool:
        """Record a decision. False, and nothing is written, if its epoch is not above the one
        recorded.

        Epochs are from 1 to 2**63 - 1 (OutOfBounds). Raises InvalidValue for a value of the wrong
        type.
        """
        return self._field.decide(self._access, self._document, self._path, epoch, value)

    def _latest(self) -> tuple[int, T] | None:
        found = ranked(self._access.entries(self._document, self._path))
        return (found[-1][0], found[-1][3]) if found else None


class Decided(Field[DecidedEditor[T]]):
    """A decision with its epoch; `document.state` gives its DecidedEditor. Only at a document's
    root.
    """

    code: ClassVar[TypeCode] = TypeCode.DECIDED
    cure = "use .decide(epoch, value)"

    def __init__(self, label: str, expected: Expectation) -> None:
        super().__init__(label)
        self._expected = expected

    @classmethod
    def declare(cls, declaration: Declaration) -> "Decided[Any]":
        declaration.arguments_are(1, "Decided[str], Decided[dict[str, Any]], …")
        declaration.options_are()
        return Decided(declaration.label, expectation(declaration.arguments[0], declaration.label))

    @overload
    def __get__(self, instance: None, owner: type) -> "Decided[T]": ...
    @overload
    def __get__(self, instance: Handle, owner: type) -> DecidedEditor[T]: ...
    def __get__(self, instance: Handle | None, owner: type) -> "Decided[T] | DecidedEditor[T]":
        if instance is None:
            return self
        return DecidedEditor(self, instance._access, instance._id, self.path)

    def __set__(self, instance: Handle, value: DecidedEditor[T]) -> None:
        self.assign(instance._access, instance._id, self.path, value)

    def decide(self, access: Access, document: str, path: bytes, epoch: int, value: Any) -> bool:
        """Write the decision unless one of its epoch or a later one is there; whether it was
        written.
        """
        require_writable(access)
        if type(epoch) is not int:
            refuse(self.label, "an int as epoch", epoch)
        if not 1 <= epoch <= _MAX_EPOCH:
            raise OutOfBounds(f"{self.label}: epochs are from 1 to {_MAX_EPOCH}, not {epoch}")
        if not self._expected.accepts(value):
            refuse(self.label, self._expected.text, value)
        entries = access.entries(document, path)
        if any(decode_stamped(payload)[0] >= epoch for _, _, payload in entries):
            return False
        access.replace(document, path, encode_stamped(epoch, value))
        return True

    def view(self, access: Access, document: str, path: bytes) -> DecidedEditor[T]:
        return DecidedEditor(self, access, document, path)

    def plain(self, access: Access, document: str, path: bytes) -> dict[str, Any] | None:
        """{"epoch": int, "value": …}, or None while nothing was decided."""
        found = ranked(access.entries(document, path))
        return {"epoch": found[-1][0], "value": found[-1][3]} if found else None

    def conflicts(self, access: Access, document: str, path: bytes) -> list[T]:
        """Values of other live decisions, the highest epoch first; empty as a rule."""
        return [each[3] for each in ranked(access.entries(document, path))[-2::-1]]
