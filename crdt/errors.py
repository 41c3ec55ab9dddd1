"""The one tree of errors. Who has to act tells the branch:

    MeshError
    ├── CallerError      what the calling code or the operator did wrong; nothing was changed
    ├── PeerError        what another replica, or bytes from the network, did wrong
    └── ServiceError     what a disk, a server or the network failed at; try again when it is back

Every message says what was wrong, with the value at fault, and names the cure. Unless its docstring
says otherwise, an error means that no state changed.
"""


class MeshError(Exception):
    """Root of every error this product raises on purpose."""


class CallerError(MeshError):
    """The caller asked for something that is not allowed; state is unchanged."""


class PeerError(MeshError):
    """Another replica sent something that is refused; state is unchanged."""


class ServiceError(MeshError):
    """Something outside this process did not do its part; what was owed stays owed."""


class InvalidValue(CallerError):
    """A value that cannot be stored: wrong type, too deep, too large, not representable."""


class InvalidId(CallerError):
    """A document id, replica name or field name that is malformed or reserved."""


class SchemaError(CallerError):
    """A document class, or a use of one, that its declaration does not allow."""


class UnknownField(SchemaError):
    """A field the document class does not declare."""


class ReadOnly(CallerError):
    """A write through a view, or through an editor whose edit has ended."""


class EditMisuse(CallerError):
    """An edit inside an edit, an await inside an edit body, or an edit from another thread."""


class CrossShardTransaction(CallerError):
    """One transaction touched documents of two shards; give them a common `{tag}`."""


class OutOfBounds(CallerError):
    """A position, count or bounded value outside what the type allows."""


class TransactionTooLarge(OutOfBounds):
    """One transaction is larger than a frame can hold. Nothing was written; write it in several."""


class CodecError(PeerError):
    """Bytes that are not what they should be. Decoding is total: it returns or raises this."""
