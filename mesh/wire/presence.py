"""Who is there, and what it says of itself. Kinds 20 to 23, from wire version 2 on."""

from __future__ import annotations

from mesh.wire.codec import Word

WORDS: tuple[Word, ...] = ()
