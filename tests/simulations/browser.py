"""A page as a browser shows it: headless Chromium, without a network."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--window-size=1400,1200", "--virtual-time-budget=5000",
    # Whatever has a name is not found: a page that fetches something shows a hole.
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip
VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})


class Shown(HTMLParser):
    """What is on the page: text by the id of the element it is in, and all elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text: dict[str, str] = {}
        self.elements: list[dict[str, str]] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append(attributes | {"tag": tag})
        if tag not in VOID:
            self._open.append(attributes.get("id", ""))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        for name in filter(None, self._open):
            self.text[name] = self.text.get(name, "") + data

    def of_class(self, name: str) -> list[dict[str, str]]:
        """The elements of this class."""
        return [one for one in self.elements if name in one.get("class", "").split()]

    def number(self, name: str) -> float:
        """The number that the element of this id shows."""
        return float(self.text[name].replace(",", "").removesuffix(" s"))


def show(page: Path, profile: Path) -> Shown:
    """Open a page, and read what its scripts made of it. Fails where there is no browser."""
    browser = shutil.which("chromium")
    if browser is None:
        raise pytest.fail.Exception(
            "this test looks at a page in chromium, which is not on PATH: run `make system`",
            pytrace=False,
        )
    command = [browser, *OPTIONS, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return Shown(ended.stdout)
