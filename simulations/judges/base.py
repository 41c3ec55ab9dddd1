"""What all judges have in common."""

from __future__ import annotations

from collections.abc import Iterator

from simulations.judges.history import History

__all__ = ("Judge",)

MOST = 20
"""So many things that are wrong are told at most."""


class Judge:
    """One family of what must hold of a history. It is used once."""

    def __init__(self) -> None:
        self.checked = 0
        """How many comparisons it made: a judge that made none has proven nothing."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, {self.checked} checked>"

    def judge(self, history: History) -> list[str]:
        """What is wrong, in words; an empty list means that it holds."""
        found: list[str] = []
        for wrong in self._wrong(history):
            found.append(wrong)
            if len(found) == MOST:
                break
        return found

    def _wrong(self, history: History) -> Iterator[str]:
        raise NotImplementedError
