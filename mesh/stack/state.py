"""What a stack's folder remembers between commands: ports, and which processes were started.

    folder of a stack
      state.json          this module's; replaced whole, never edited in place
      lock                held while a command, or a block of `Stack.running`, changes the stack
      redis/ kafka/ …     each server's data and log

The file is no secret: addresses of servers we start hold no password.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from pydantic import PositiveInt, TypeAdapter, ValidationError

from mesh.stack.process import ServerProcess
from mesh.stack.recipe import StackError

FILE: Final = "state.json"
FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One server: where it is or was, and its process if we started it and did not stop it."""

    ports: dict[str, PositiveInt]
    address: str
    version: str = ""
    pid: PositiveInt | None = None
    started: float | None = None

    @property
    def process(self) -> ServerProcess | None:
        """The process that was started; it may have died since."""
        if self.pid is None or self.started is None:
            return None
        return ServerProcess(self.pid, self.started)

    def stopped(self) -> Entry:
        """The same without a process: ports and address stay for the next start."""
        return replace(self, pid=None, started=None)


ENTRIES: Final = TypeAdapter(dict[str, Entry])


class StateFile:
    """The record of one stack's folder. Writers hold the folder's lock; readers need none."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def read(self) -> dict[str, Entry]:
        """The entries by name of service; none where there is no file. Raises StackError."""
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise self._refusal(f"cannot be read: {error}") from None
        try:
            found = json.loads(text)
        except json.JSONDecodeError as error:
            raise self._refusal(f"is no JSON: {error}") from None
        number = found.get("format") if isinstance(found, dict) else None
        if isinstance(number, int) and number > FORMAT:
            raise StackError(
                f"{self._path} has format {number}, and this version knows {FORMAT}; "
                "use the version of statemesh that wrote it, or another --dir"
            )
        try:
            return ENTRIES.validate_python(found["services"])
        except (TypeError, KeyError, ValidationError):
            raise self._refusal("is no record of a stack") from None

    def put(self, name: str, entry: Entry) -> None:
        """Replace one entry. Raises StackError."""
        entries = {**self.read(), name: entry}
        whole = {"format": FORMAT, "services": {key: asdict(one) for key, one in entries.items()}}
        draft = self._path.with_suffix(".partial")
        try:
            draft.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
            os.replace(draft, self._path)  # noqa: PTH105 - the atomic one, by its name
        except OSError as error:
            raise StackError(f"cannot write {self._path}: {error}; use another --dir") from None

    def _refusal(self, what: str) -> StackError:
        return StackError(
            f"{self._path} {what}; end this stack's servers by hand, "
            "if any run, then remove that file"
        )
