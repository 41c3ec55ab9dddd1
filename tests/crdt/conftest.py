"""One choice of profile for every property test here: see `tests.crdt.profiles`."""

from tests.crdt import profiles

profiles.load()
