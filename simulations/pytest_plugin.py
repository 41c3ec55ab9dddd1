"""The option that `partition_test` adds to pytest: which seed alone to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """See the module."""
    group = parser.getgroup("statemesh")
    group.addoption(
        "--simulation-seed",
        type=int,
        default=None,
        metavar="N",
        help="Run partition tests with this seed alone.",
    )
