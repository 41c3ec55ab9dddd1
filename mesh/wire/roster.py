"""Who belongs to the mesh, and with which keys. Kinds 24 to 27, from wire version 2 on."""

from __future__ import annotations

from mesh.wire.codec import Word

WORDS: tuple[Word, ...] = ()
