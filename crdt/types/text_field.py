"""Text: collaborative text; concurrent edits merge character by character."""

from typing import ClassVar, overload

from crdt.access import Access
from crdt.errors import InvalidValue, OutOfBounds
from crdt.paths import TypeCode
from crdt.types.cursor import Cursor
from crdt.types.expect import printed, refuse
from crdt.types.field import Declaration, Editor, Field, Handle
from crdt.types.formats import Spans, checked_attributes
from crdt.types.text import Delete, Insert, SetFormat


class TextEditor(Editor):
    """The content of one Text field, live. Positions count characters (code points), as in a str.

    Edits are positions in what this replica sees; where others edit at the same time, each edit
    stays with the characters it was made next to. Positions outside the text raise OutOfBounds.
    Formats are no part of the str; `spans` shows them.
    """

    __slots__ = ("_field",)

    def __init__(self, field: "Text", access: Access, document: str, path: bytes) -> None:
        super().__init__(access, document, path)
        self._field = field

    def __str__(self) -> str:
        return self._access.text(self._document, self._path)

    def __repr__(self) -> str:
        return f"Text({printed(str(self))})"

    def __len__(self) -> int:
        return self._access.text_length(self._document, self._path)

    def __bool__(self) -> bool:
        return len(self) > 0

    def __getitem__(self, index: int | slice) -> str:
        return str(self)[index]

    def __contains__(self, part: str) -> bool:
        return part in str(self)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TextEditor | str):
            return str(self) == str(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __iadd__(self, text: str) -> "TextEditor":
        self.append(text)
        return self

    def append(self, text: str) -> None:
        """Insert at the end."""
        self._check_text(text)
        self._access.edit_text(self._document, self._path, Insert(len(self), text))

    def insert(self, index: int, text: str) -> None:
        """Insert before the character at `index`; `len(…)` is the end."""
        self._check_text(text)
        self._check(index, 0)
        self._access.edit_text(self._document, self._path, Insert(index, text))

    def delete(self, index: int, length: int = 1) -> None:
        """Delete `length` characters from `index` on."""
        self._check(index, length)
        self._access.edit_text(self._document, self._path, Delete(index, length))

    def replace(self, index: int, length: int, text: str) -> None:
        """Put `text` in place of the `length` characters from `index` on."""
        self._check_text(text)
        self.delete(index, length)
        self.insert(index, text)

    def clear(self) -> None:
        """Delete all the characters visible here; what others insert at the same time stays."""
        self.delete(0, len(self))

    def format(self, start: int, stop: int, /, **attributes: str | int | bool | None) -> None:
        """Give the characters from `start` up to `stop` these attributes; None takes one away.

        Text inserted at the end of a stretch takes its attributes on, at its beginning it does not.
        Of concurrent formats of the same characters one wins, everywhere the same, attribute by
        attribute. Raises InvalidValue for a value that is no bool, str or int below 2**53 in size.
        """
        self._check(start, 0)
        self._check(stop, 0)
        if stop < start:
            raise OutOfBounds(f"{self._field.label}: a stretch from {start} back to {stop}")
        found = checked_attributes(self._field.label, attributes)
        edit = SetFormat(start, stop - start, found)
        self._access.edit_text(self._document, self._path, edit)

    def spans(self) -> Spans:
        """The text in stretches of equal attributes, as (text, {attribute: value}): together the
        whole text, no two neighbours alike.
        """
        return self._access.spans(self._document, self._path)

    def cursor(self, index: int, before: bool = False) -> Cursor:
        """The place in front of the character at `index` (the length: the end), kept: it stays in
        front of that character, or with `before` behind the one before it, whatever is edited
        around; if that one is deleted, where it was. Raises EditMisuse after an edit of this
        transaction: what is not committed has no lasting place yet.
        """
        self._check(index, 0)
        return self._access.cursor(self._document, self._path, index, before)

    def position(self, cursor: Cursor) -> int:
        """The index a cursor's place has now. Raises InvalidValue for another field's cursor."""
        if type(cursor) is not Cursor:
            refuse(self._field.label, "a Cursor", cursor)
        return self._access.position(self._document, self._path, cursor)

    def _check_text(self, text: object) -> None:
        """Before anything is recorded, so that a replacement is not left half done."""
        if type(text) is not str:
            refuse(self._field.label, "str", text)
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InvalidValue(
                    f"{self._field.label}: the str has a lone surrogate at {error.start}, which no "
                    "text takes (lone surrogates are not Unicode)"
                ) from None

    def _check(self, index: int, length: int) -> None:
        if type(index) is not int or type(length) is not int:
            refuse(
                self._field.label, "ints as positions", index if type(index) is not int else length
            )
        size = len(self)
        if index < 0 or length < 0 or index + length > size:
            raise OutOfBounds(
                f"{self._field.label}: {length} characters from {index} on exceed a text of {size}"
            )


class Text(Field[TextEditor]):
    """A collaborative text; `document.notes` gives its TextEditor. Only at a document's root.

    Its history costs memory for ever, about as much as was ever typed: short values that are
    overwritten belong into a Register.
    """

    code: ClassVar[TypeCode] = TypeCode.TEXT
    cure = "use .append(…), .insert(…), .delete(…) or .replace(…)"

    @classmethod
    def declare(cls, declaration: Declaration) -> "Text":
        declaration.arguments_are(0, "Text")
        declaration.options_are()
        return Text(declaration.label)

    @overload
    def __get__(self, instance: None, owner: type) -> "Text": ...
    @overload
    def __get__(self, instance: Handle, owner: type) -> TextEditor: ...
    def __get__(self, instance: Handle | None, owner: type) -> "Text | TextEditor":
        if instance is None:
            return self
        return TextEditor(self, instance._access, instance._id, self.path)

    def __set__(self, instance: Handle, value: TextEditor) -> None:
        self.assign(instance._access, instance._id, self.path, value)

    def view(self, access: Access, document: str, path: bytes) -> TextEditor:
        return TextEditor(self, access, document, path)

    def plain(self, access: Access, document: str, path: bytes) -> str:
        return access.text(document, path)
