"""How hard the property tests try: `HYPOTHESIS_PROFILE=thorough` tries ten times as many examples.

By default the examples are the same in every run, so that nobody's change fails by another's luck;
a thorough run draws new ones each time and prints how to repeat a failure.
"""

from __future__ import annotations

import os
from typing import Final

from hypothesis import settings

settings.register_profile("default", deadline=None, derandomize=True)
settings.register_profile("thorough", deadline=None, print_blob=True)

PROFILE: Final = os.environ.get("HYPOTHESIS_PROFILE", "default")
THOROUGH: Final = PROFILE == "thorough"


def load() -> None:
    """Make the chosen profile the one of every test that is defined from now on."""
    settings.load_profile(PROFILE)


def examples(count: int) -> settings:
    """The settings of a test that tries `count` examples by default. Use it as a decorator."""
    return settings(settings.get_profile(PROFILE), max_examples=count * (10 if THOROUGH else 1))
