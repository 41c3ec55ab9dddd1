"""Real servers for one machine: development, tests and rehearsals. Not for production."""
