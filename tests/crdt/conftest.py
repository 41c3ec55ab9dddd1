"""One setting for every property test here: examples are not timed, the machine may be busy."""

from hypothesis import settings

settings.register_profile("crdt", deadline=None)
settings.load_profile("crdt")
