"""Text that several sessions edit at once, with formats: pycrdt (yrs) behind a strict gate.

Positions are in Unicode code points, as in Python; pycrdt counts UTF-8 bytes and clocks count
UTF-16 units, which this module hides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from pycrdt import Text

from crdt.errors import InvalidValue, OutOfBounds
from crdt.structure import pack
from crdt.types.formats import Spans, Value, normal_spans
from crdt.types.yrs import EMPTY_UPDATE, TEXT, Format, Id, ParsedUpdate, parse_update
from crdt.types.yrs_check import Facts, numbers
from crdt.types.yrs_state import YrsState

_NONE: frozenset[int] = frozenset()
# A client that cannot be behind any other where ids decide, in documents that are thrown away.
_FIRST = 0


@dataclass(frozen=True, slots=True)
class Insert:
    """Put `text` before the code point at `index` (its length: at the end)."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove `length` code points from `index` on."""

    index: int
    length: int


@dataclass(frozen=True, slots=True)
class SetFormat:
    """Give `length` code points from `index` on these attributes; None takes one away."""

    index: int
    length: int
    attributes: Mapping[str, Value | None]


TextEdit = Insert | Delete | SetFormat


class _Step(NamedTuple):
    """A `TextEdit` in pycrdt's terms: UTF-8 bytes."""

    start: int
    stop: int  # == start: insert `text`
    text: str
    attributes: Mapping[str, Value | None] | None


class _Plan(NamedTuple):
    """Steps to take, and what holds after them."""

    steps: list[_Step]
    length: int
    value: str | None
    cursor: tuple[int, int]


class TextState(YrsState[Text]):
    """One text with its history, as one replica has it. Not thread-safe."""

    __slots__ = ("_cursor", "_formatted", "_length", "_value", "_wide")

    infos = TEXT
    root_type = Text

    def __init__(self) -> None:
        super().__init__()
        self._wide = False  # has there ever been a character that is not ASCII?
        self._formatted = False  # has there ever been a format?
        self._value: str | None = ""
        self._length: int | None = 0  # in code points
        self._cursor = (0, 0)  # a position in the value: code points, UTF-8 bytes

    def copy(self) -> Self:
        other = super().copy()
        other._wide, other._formatted = self._wide, self._formatted
        other._value, other._length, other._cursor = self._value, self._length, self._cursor
        return other

    def __len__(self) -> int:
        if self._length is None:
            self._length = len(self.value()) if self._wide else len(self._root)
        return self._length

    def value(self) -> str:
        """The text as it reads now."""
        if self._value is None:
            self._unobserve()
            self._value = str(self._root)
            self._length = len(self._value)
            self._cursor = (0, 0)
        return self._value

    def spans(self) -> Spans:
        """The text in stretches of equal attributes: no two neighbours alike, none empty."""
        if not self._formatted:
            return [(self.value(), {})] if len(self) else []
        return normal_spans(self._root.diff())

    def content(self) -> bytes:
        if self._formatted:
            spans = self.spans()
            if any(attributes for _, attributes in spans):
                return b"\xff" + pack(spans)  # no UTF-8 begins so
        return self.value().encode()

    def edit(self, session: int, edits: Sequence[TextEdit]) -> bytes:
        plan = self._plan(edits)
        steps = plan.steps
        if not steps:
            return EMPTY_UPDATE
        self._check_room(session, sum([_size(step.text) for step in steps]))
        _, _, text, attributes = steps[0]
        facts = None
        if len(steps) == 1 and attributes is None and (text.isascii() or max(text) <= "\uffff"):
            clock = self._known.clocks.get(session, 0) + len(text)
            facts = Facts(clock, _NONE, text, not text)
        update = self._write(session, steps, facts)
        self._length, self._value, self._cursor = plan.length, plan.value, plan.cursor
        return update

    def _changed(self, facts: Facts) -> None:
        self._value = None
        if self._length is not None:
            self._length = None if facts.deletes else self._length + len(facts.text)

    def _merged(self, parsed: ParsedUpdate) -> None:
        self._value = None
        self._wide = not self.value().isascii()
        self._formatted = self._formatted or any(
            isinstance(item.content, Format)
            for section in parsed.sections
            for item in section.items
        )

    def _take(self, session: int, update: bytes, facts: Facts) -> None:
        self._wide = self._wide or not facts.text.isascii()
        self._formatted = self._formatted or facts.formats
        super()._take(session, update, facts)

    def _plan(self, edits: Sequence[TextEdit]) -> _Plan:
        """Check the edits and put them in pycrdt's terms. Nothing is changed.

        While all text is ASCII, code points and bytes count the same and the value is not needed;
        neither is it to append.
        """
        length = len(self)
        first = edits[0] if len(edits) == 1 else None
        if isinstance(first, Insert) and first.index == length and first.text:
            end = length if not self._wide else len(self._root)
            _size(first.text)
            step = _Step(end, end, first.text, None)
            return _Plan([step], length + len(first.text), None, (0, 0))
        wide = self._wide
        for edit in edits:
            if isinstance(edit, Insert) and not edit.text.isascii():
                _size(edit.text)
                wide = True
        value = self.value() if wide else None
        at, start = self._cursor
        steps = []
        for edit in edits:
            index = edit.index
            inserted, count = (edit.text, 0) if isinstance(edit, Insert) else ("", edit.length)
            attributes = edit.attributes if isinstance(edit, SetFormat) else None
            if not (0 <= index <= length and 0 <= count <= length - index):
                raise OutOfBounds(f"{edit} is outside a text of length {length}")
            if value is None:
                start = at = index
                stop = start + count
            else:
                away = _size(value[min(at, index) : max(at, index)])
                start += away if index > at else -away
                at = index
                stop = start + _size(value[index : index + count])
            if not inserted and not count:
                continue
            steps.append(_Step(start, stop, inserted, attributes))
            if attributes is not None:
                continue
            length += len(inserted) - count
            if value is not None:
                value = value[:index] + inserted + value[index + count :]
                at += len(inserted)
                start += _size(inserted)
        return _Plan(steps, length, value, (at, start) if value is not None else (0, 0))

    def _step(self, step: _Step) -> None:
        start, stop, text, attributes = step
        if text:
            self._root.insert(start, text)
        elif attributes is None:
            del self._root[start:stop]
        else:
            self._root.format(start, stop, dict(attributes))

    # In a text that is not ASCII, pycrdt's sticky positions take UTF-16 units for bytes. There an
    # insertion into a copy tells: yrs says what it stands behind, or puts it behind what we say.

    def _id_of(self, index: int) -> Id:
        if not self._wide:
            return super()._id_of(index)
        doc, root = self._made(_FIRST)
        updates: list[bytes] = []
        subscription = doc.observe(lambda event: updates.append(event.update))
        root.insert(_size(self.value()[: index + 1]), "x")
        doc.unobserve(subscription)
        origin = parse_update(updates[0], TEXT).sections[0].items[0].origin
        assert origin is not None, index
        return origin

    def _behind(self, of: Id) -> int:
        if not self._wide:
            return super()._behind(of)
        doc, root = self._made(_FIRST)
        value = self.value()
        mark = next(mark for mark in map(chr, range(len(value) + 1)) if mark not in value)
        clock = self._known.clocks.get(_FIRST, 0)
        item = b"\x84" + numbers(*of) + numbers(len(mark.encode())) + mark.encode()
        doc.apply_update(numbers(1, 1, _FIRST, clock) + item + b"\x00")
        return str(root).index(mark)


def _size(text: str) -> int:
    """UTF-8 bytes of a text."""
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidValue(f"text has a lone surrogate at {error.start}: not Unicode") from None
