"""Spreading frames along trees; who is linked with whom. Kinds 13 to 19, since wire version 2."""

from __future__ import annotations

from mesh.wire.codec import Word

WORDS: tuple[Word, ...] = ()
