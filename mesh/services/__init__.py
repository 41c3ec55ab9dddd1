"""What a replica gives to the shared services and takes from them: bus, event log, checkpoints.

Each is optional, and each may be down: what is owed to it stays in the journal, what it brings goes
through the same ingest as what peers send.
"""
